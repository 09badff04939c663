"""A release of several builds: each measured, loaded and proven as a device would, or left out and told; nothing half-made is stored."""

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sklearn.datasets import load_diabetes

from hub.core.publish.release import same_content
from hub.publish.block_store import BlockStore
from hub.publish.builder import BuiltRelease, build
from hub.publish.parent_files import parent_files
from hub.publish.publish_request import Build, PublishRequest, Variants
from hub.publish.reference_data import read_reference
from hub.publish.sample_reader import read_rows
from node.core.activation import golden
from node.serving.activation import Staged, activate
from schemas import codec
from schemas.encoding import decode_payload
from schemas.errors import Code, Refused
from schemas.manifest import Manifest, Requirements, blocks_of, cheapest
from tests.hub import digits

NOW = 1_700_000_000
INT8, FP16, FP32, WEIGHTS = Build("int8", "int8"), Build("fp16", "fp16"), Build("fp32"), Build("int8-weights", "int8-weights")


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


@pytest.fixture
def request_(tmp_path: Path) -> PublishRequest:
    """The classifier of digits with rows that it has not seen."""
    (tmp_path / "model.onnx").write_bytes(digits.classifier())
    rows = read_rows(digits.held_out(tmp_path / "held.npz"), truth="digit")
    reference = read_reference(digits.seen(tmp_path / "seen.npz"))
    return PublishRequest(
        tmp_path / "model.onnx",
        "digits",
        "1.0.0",
        reference=reference,
        signals=("label",),
        variants=Variants((INT8, FP16, FP32), held_out=rows),
    )


def with_variants(request: PublishRequest, **changes: object) -> PublishRequest:
    return replace(request, variants=replace(request.variants, **changes))  # type: ignore[arg-type]


def refusal(request: PublishRequest, store: BlockStore) -> Refused:
    """Why it is refused; and nothing of it may be left."""
    with pytest.raises(Refused) as caught:
        build(request, store, now=NOW)
    assert not list(store.digests())
    assert not list(store.directory.glob(".*"))
    return caught.value


def laid_out(built: BuiltRelease, store: BlockStore, variant: str, folder: Path) -> Staged:
    """A build's files as a device fetches and writes them."""
    manifest = codec.decode(Manifest, built.document)
    chosen = next(one for one in manifest.variants if one.name == variant)
    for file in manifest.files_of(variant):
        blocks = blocks_of(file, lambda part: store.read(part.digest))
        payloads = [(block, cheapest(block, ("raw", "zstd", "planes"))) for block in blocks]
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(
            b"".join(decode_payload(payload, block, store.read(payload.digest)) for block, payload in payloads)
        )
    known = manifest.golden_of(chosen)
    golden_path = folder / known.file.path if known else None
    return Staged("digits", "1.0.0", built.digest, manifest, folder / chosen.files[0].path, golden_path, variant=variant)


def test_every_build_stands_in_the_manifest_in_order_with_what_it_was_measured_to_do(request_: PublishRequest, store: BlockStore) -> None:
    built = build(request_, store, now=NOW)

    features, truth = digits.rows()
    right = float((_labels(request_.model_path, features[digits.TRAINED :]) == truth[digits.TRAINED :]).mean())
    assert [variant.name for variant in built.manifest.variants] == ["int8", "fp16", "fp32"]
    assert built.left_out == ()
    for variant in built.manifest.variants:
        measured = variant.measured
        assert measured is not None
        assert (measured.rows, measured.metric) == (len(truth) - digits.TRAINED, "accuracy")
        assert measured.original == pytest.approx(right, abs=1e-6)
        assert measured.score >= measured.original - 0.01
        assert measured.latency_ms > 0
        assert measured.original_latency_ms > 0
    assert built.manifest.variants[2].measured.score == built.manifest.variants[2].measured.original  # type: ignore[union-attr]
    sizes = {one.name: one.wire_bytes for one in built.variants}
    assert sizes["int8"] < 0.5 * sizes["fp32"]
    assert sizes["fp16"] < 0.8 * sizes["fp32"]


@pytest.mark.parametrize("name", ["int8", "fp16", "fp32"])
def test_every_build_proves_itself_in_a_devices_own_worker(request_: PublishRequest, store: BlockStore, tmp_path: Path, name: str) -> None:
    built = build(request_, store, now=NOW)
    staged = laid_out(built, store, name, tmp_path / name)

    async def proven() -> float:
        activated = await activate(staged)
        await activated.worker.close()
        return activated.evidence.golden_error_max

    assert asyncio.run(proven()) <= 1


def test_a_variant_has_its_own_golden_outputs_only_if_its_answers_differ(
    request_: PublishRequest, store: BlockStore, tmp_path: Path
) -> None:
    manifest = build(request_, store, now=NOW).manifest

    int8, _, fp32 = manifest.variants
    assert manifest.golden is not None
    assert int8.golden is not None
    assert int8.golden.file.digest != manifest.golden.file.digest
    assert (fp32.golden, manifest.golden_of(fp32)) == (None, manifest.golden)
    cases = {one.name: _case(manifest, store, one.name) for one in (int8, fp32)}
    for name in ("input.X",):
        assert np.array_equal(cases["int8"][name], cases["fp32"][name])
    difference = np.abs(cases["int8"]["output.probabilities"] - cases["fp32"]["output.probabilities"]).max()
    assert int8.golden.absolute_tolerance == pytest.approx(difference, rel=1e-5), "a device may differ by as much as the build does"
    with pytest.raises(Refused):  # the other build's answers are not its own
        golden.compare(
            {"p": cases["fp32"]["output.probabilities"]},
            {"p": cases["int8"]["output.probabilities"]},
            relative=manifest.golden.relative_tolerance,
            absolute=manifest.golden.absolute_tolerance,
        )


def test_builds_that_all_answer_otherwise_leave_no_golden_file_that_none_uses(request_: PublishRequest, store: BlockStore) -> None:
    manifest = build(with_variants(request_, builds=(INT8,)), store, now=NOW).manifest

    assert manifest.golden is None
    assert manifest.variants[0].golden is not None


def test_publishing_the_same_again_is_the_same_content_though_it_ran_at_another_speed(request_: PublishRequest, store: BlockStore) -> None:
    first, second = build(request_, store, now=NOW), build(request_, store, now=NOW + 5)

    assert same_content(first.manifest, second.manifest)
    assert second.stored_bytes == 0
    worse = first.manifest.variants[0].measured.model_copy(update={"score": 0.1})  # type: ignore[union-attr]
    other = first.manifest.variants[0].model_copy(update={"measured": worse})
    assert not same_content(first.manifest, first.manifest.model_copy(update={"variants": (other, *first.manifest.variants[1:])}))


def test_what_builds_need_is_in_the_manifest(request_: PublishRequest, store: BlockStore) -> None:
    needs = Requirements(arch=("armv7l",), cores_min=2, labels={"gpu": "none"})

    manifest = build(with_variants(request_, builds=(replace(INT8, requirements=needs), FP32)), store, now=NOW).manifest

    assert [variant.requirements for variant in manifest.variants] == [needs, Requirements()]


# What is left out


def test_a_build_that_loses_more_than_is_allowed_is_left_out_and_told(request_: PublishRequest, store: BlockStore) -> None:
    built = build(with_variants(request_, builds=(Build("pruned", "pruned", 0.95), FP32)), store, now=NOW)

    assert [variant.name for variant in built.manifest.variants] == ["fp32"]
    assert [(one.name, one.code) for one in built.left_out] == [("pruned", Code.VARIANT_LOSS)]
    assert "0.01 may be lost" in built.left_out[0].reason


def test_a_loss_that_is_allowed_is_published(request_: PublishRequest, store: BlockStore) -> None:
    built = build(with_variants(request_, builds=(Build("pruned", "pruned", 0.95), FP32), loss_max=1.0), store, now=NOW)

    pruned = built.manifest.variants[0].measured
    assert pruned is not None
    assert pruned.score < pruned.original - 0.01


def test_where_all_are_wanted_one_that_loses_too_much_is_the_end_of_the_release(request_: PublishRequest, store: BlockStore) -> None:
    refused = refusal(with_variants(request_, builds=(FP32, Build("pruned", "pruned", 0.95)), all_or_none=True), store)

    assert refused.code == Code.VARIANT_LOSS


def test_where_none_is_left_the_release_is_refused(request_: PublishRequest, store: BlockStore) -> None:
    refused = refusal(with_variants(request_, builds=(Build("a", "pruned", 0.95), Build("b", "pruned", 0.97))), store)

    assert refused.code == Code.VARIANT_LOSS
    assert "'a'" in refused.reason
    assert "'b'" in refused.reason


def test_infinity_after_float16_is_told_with_the_row_and_the_originals_number(tmp_path: Path, store: BlockStore) -> None:
    (tmp_path / "big.onnx").write_bytes(digits.overflowing())
    rows = read_rows(digits.held_out(tmp_path / "held.npz"), passed_over=("digit",))
    request = PublishRequest(tmp_path / "big.onnx", "m", "1.0.0", variants=Variants((FP16, FP32), held_out=rows))

    built = build(request, store, now=NOW)

    assert [one.code for one in built.left_out] == [Code.VARIANT_FAILED]
    assert all(word in built.left_out[0].reason for word in ("fp16", "row 0", "original", "inf"))


def test_a_forest_is_published_as_it_is_and_its_int8_build_is_told_to_be_impossible(tmp_path: Path, store: BlockStore) -> None:
    (tmp_path / "forest.onnx").write_bytes(digits.forest())
    rows = read_rows(digits.held_out(tmp_path / "held.npz"), truth="digit")
    request = PublishRequest(tmp_path / "forest.onnx", "m", "1.0.0", variants=Variants((INT8, FP32), held_out=rows))

    built = build(request, store, now=NOW)

    assert [variant.name for variant in built.manifest.variants] == ["fp32"]
    assert built.left_out[0].code == Code.VARIANT_FAILED
    assert refusal(with_variants(request, all_or_none=True), BlockStore(tmp_path / "other")).code == Code.VARIANT_FAILED


# Measured on what


def test_numbers_are_measured_by_r2(tmp_path: Path, store: BlockStore) -> None:
    (tmp_path / "model.onnx").write_bytes(digits.regressor())
    features, target = load_diabetes(return_X_y=True)
    np.savez(tmp_path / "held.npz", **{f"x{j}": features[:, j].astype(np.float32) for j in range(10)}, target=target)
    rows = read_rows(tmp_path / "held.npz", truth="target")

    built = build(PublishRequest(tmp_path / "model.onnx", "m", "1.0.0", variants=Variants((WEIGHTS, FP32), held_out=rows)), store, now=NOW)

    measured = [variant.measured for variant in built.manifest.variants]
    assert [one and one.metric for one in measured] == ["r2", "r2"]


def test_without_truth_agreement_counts_and_without_held_out_the_reference(request_: PublishRequest, store: BlockStore) -> None:
    built = build(with_variants(request_, held_out=None), store, now=NOW)

    measured = built.manifest.variants[0].measured
    assert measured is not None
    assert (measured.metric, measured.original, measured.rows) == ("agreement", 1.0, digits.TRAINED)


def test_builds_made_here_with_nothing_to_measure_them_on_are_refused(request_: PublishRequest, store: BlockStore) -> None:
    refused = refusal(replace(with_variants(request_, held_out=None), reference=None, signals=None), store)

    assert refused.code == Code.REFERENCE_INVALID
    assert "held-out" in refused.reason


def test_whole_inputs_are_asked_one_by_one(tmp_path: Path, store: BlockStore) -> None:
    (tmp_path / "conv.onnx").write_bytes(digits.convolutions())
    images = digits.rows()[0].reshape(-1, 1, 1, 8, 8)[:60]
    np.savez(tmp_path / "held.npz", **{"input.x": images})
    rows = read_rows(tmp_path / "held.npz")
    builds = (Build("int8-static", "int8-static"), WEIGHTS, FP16, FP32)

    built = build(
        PublishRequest(tmp_path / "conv.onnx", "m", "1.0.0", variants=Variants(builds, loss_max=0.3, held_out=rows, calibration=rows)),
        store,
        now=NOW,
    )

    assert [variant.name for variant in built.manifest.variants] == ["int8-static", "int8-weights", "fp16", "fp32"]
    assert built.manifest.variants[0].measured.rows == 60  # type: ignore[union-attr]


def test_a_build_that_was_made_elsewhere_is_measured_like_one_made_here(
    request_: PublishRequest, store: BlockStore, tmp_path: Path
) -> None:
    (tmp_path / "other.onnx").write_bytes(digits.classifier(seed=3, hidden=32))

    built = build(with_variants(request_, builds=(Build("small", model_path=tmp_path / "other.onnx"), FP32), loss_max=0.2), store, now=NOW)

    small = built.manifest.variants[0].measured
    assert small is not None
    assert small.score != small.original


def test_a_build_that_takes_other_inputs_is_left_out(request_: PublishRequest, store: BlockStore, tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(digits.regressor())

    built = build(with_variants(request_, builds=(Build("small", model_path=tmp_path / "other.onnx"), FP32)), store, now=NOW)

    assert built.left_out[0].code == Code.VARIANT_FAILED
    assert all(word in built.left_out[0].reason for word in ("64", "10", "expected", "found"))


# Bad data


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("calibration", ("feature columns", "40 more", "39 more")),
        ("nan", ("p3", "row 7", "nan")),
        ("truth", ("species", "digit")),
        ("arrays", ("input.X", "input.Y")),
        ("shape", ("[-1, 64]", "63")),
        ("few", ("at least 20", "5")),
        ("output", ("label", "lable")),
    ],
)
def test_data_that_does_not_fit_is_refused_with_both_sides(
    request_: PublishRequest, store: BlockStore, tmp_path: Path, what: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "bad.npz"
    features = digits.rows()[0]
    bad: dict[str, object]
    match what:
        case "calibration":
            bad = {"calibration": read_rows(digits.seen(path, pixels=63)), "builds": (Build("int8-static", "int8-static"), FP32)}
        case "nan":
            bad = {"held_out": read_rows(digits.held_out(path, nan=True), truth="digit")}
        case "truth":
            bad = {"held_out": read_rows(digits.held_out(path), truth="species")}
        case "output":
            bad = {"output": "lable"}
        case _:
            arrays = {"arrays": {"input.Y": features}, "shape": {"input.X": features[:, :63]}, "few": {"input.X": features[:5]}}[what]
            np.savez(path, **arrays)
            bad = {"held_out": read_rows(path)}

    refused = refusal(with_variants(request_, **bad), store)

    assert refused.code == Code.REFERENCE_INVALID
    assert all(word in refused.reason for word in words), refused.reason


@pytest.mark.parametrize(
    ("make", "words"), [(digits.custom_operator, ("com.acme.Secret", "ai.onnx")), (digits.future_opset, ("999", "at most"))]
)
def test_a_model_that_no_device_could_load_is_refused_with_both_sides(
    tmp_path: Path, store: BlockStore, make: object, words: tuple[str, ...]
) -> None:
    (tmp_path / "m.onnx").write_bytes(make())  # type: ignore[operator]

    refused = refusal(PublishRequest(tmp_path / "m.onnx", "m", "1.0.0"), store)

    assert refused.code == Code.MODEL_LOAD
    assert all(word in refused.reason for word in words), refused.reason


# Deltas


def test_each_file_is_a_delta_of_the_same_build_of_its_parent(request_: PublishRequest, store: BlockStore, tmp_path: Path) -> None:
    first = build(request_, store, now=NOW)
    model = tmp_path / "next" / "model.onnx"
    model.parent.mkdir()
    model.write_bytes(_nudged(digits.classifier()))
    with parent_files([first.manifest], store, tmp_path) as parents:
        following = replace(
            request_, model_path=model, version="1.1.0", parent=first.digest, parents=parents, parent_releases=(first.digest,)
        )
        second = build(following, store, now=NOW)

    before = {variant.name: _digests(variant.files[0], store) for variant in first.manifest.variants}
    for variant in second.manifest.variants:
        blocks = blocks_of(variant.files[0], lambda part: store.read(part.digest))
        deltas = [payload for block in blocks for payload in block.payloads if payload.encoding == "delta"]
        known = [block for block in blocks if block.digest in before[variant.name]]
        assert deltas or known, variant.name
        assert all(parent in before[variant.name] for payload in deltas for parent in payload.parents or ()), variant.name


def test_a_release_of_one_build_is_the_parent_of_the_build_that_it_became(
    request_: PublishRequest, store: BlockStore, tmp_path: Path
) -> None:
    first = build(with_variants(request_, builds=(Build("default"),)), store, now=NOW)
    with parent_files([first.manifest], store, tmp_path) as parents:
        second = build(replace(request_, version="1.1.0", parents=parents, parent_releases=(first.digest,)), store, now=NOW)
        assert parents("fp32", "model.onnx")[0].digests == list(_digests(first.manifest.variants[0].files[0], store))
        assert parents("fp32", "labels.txt") == []

    fp32 = second.manifest.variants[2].files[0]
    assert _digests(fp32, store) == _digests(first.manifest.variants[0].files[0], store)


def test_files_that_all_builds_have_are_stored_once(request_: PublishRequest, store: BlockStore, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(str(number) for number in range(1000)))

    manifest = build(replace(request_, more_files=(tmp_path / "labels.txt",)), store, now=NOW).manifest

    assert len({variant.files[1] for variant in manifest.variants}) == 1


def _digests(file: object, store: BlockStore) -> dict[bytes, None]:
    return dict.fromkeys(block.digest for block in blocks_of(file, lambda part: store.read(part.digest)))  # type: ignore[arg-type]


def _labels(path: Path, features: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(str(path)).run(["label"], {"X": features})[0])


def _case(manifest: Manifest, store: BlockStore, variant: str) -> dict[str, np.ndarray]:
    known = manifest.golden_of(next(one for one in manifest.variants if one.name == variant))
    assert known is not None
    data = b"".join(store.read(block.digest) for block in blocks_of(known.file, lambda part: store.read(part.digest)))
    with np.load(io.BytesIO(data)) as loaded:
        return {name: loaded[name] for name in loaded.files}


def _nudged(data: bytes) -> bytes:
    """The model after a little more training, so to speak: every weight changed in its last bits."""
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1000:
            changed = (values * (1 + np.random.default_rng(1).normal(0, 1e-4, values.shape))).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    return bytes(model.SerializeToString())


def test_a_build_of_a_file_whose_weights_stand_outside_its_folder_is_refused(
    request_: PublishRequest, store: BlockStore, tmp_path: Path
) -> None:
    model = onnx.load_model_from_string(digits.classifier())
    weight = next(one for one in model.graph.initializer if one.name == "coefficient")
    for field in ("raw_data", "float_data"):
        weight.ClearField(field)  # type: ignore[arg-type]
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())

    refused = refusal(with_variants(request_, builds=(Build("int8", "int8", model_path=tmp_path / "other.onnx"), FP32)), store)

    assert refused.code == Code.MODEL_EXTERNAL_DATA
    assert "../secret.bin" in refused.reason
