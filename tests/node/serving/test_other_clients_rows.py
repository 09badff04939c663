"""No client changes another's answer: what is joined with others is answered as it is alone, whatever the others send."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import onnxruntime as ort
import pytest

from bench.neighbours import INFER, OUTLIER, TRAINED, ask, joined_regardless, softmax_regression
from bench.neighbours import pictures as all_pictures
from hub.publish.block_store import BlockStore
from hub.publish.builder import build
from hub.publish.publish_request import Build, PublishRequest, Variants
from hub.publish.reference_data import read_reference
from node.serving.activation import Staged
from node.workers import worker_handle
from schemas.manifest import Joining, Tensor
from tests.hub.publish.test_variants import laid_out
from tests.node.serving.test_batching import at_once, body_of, joined, stopped_until


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return all_pictures()


@pytest.fixture(scope="module")
def softmax() -> bytes:
    return softmax_regression()


@pytest.fixture(params=["int8", "fp32"])
def released(request: pytest.FixtureRequest, tmp_path: Path, pictures: np.ndarray, softmax: bytes) -> Staged:
    """The build that `publish --variants` makes, with 16 golden pictures that share their maximum."""
    golden = pictures[pictures.max(axis=1) == 16.0][:16]
    assert len(golden) == 16
    (tmp_path / "model.onnx").write_bytes(softmax)
    shares = ort.InferenceSession(softmax).run(None, {"X": golden})[0]
    np.savez(tmp_path / "golden.npz", **{"input.X": golden, "output.shares": shares})
    columns = {f"p{number}": pictures[:, number] for number in range(64)}
    np.savez(tmp_path / "reference.npz", **columns)
    asked = PublishRequest(
        tmp_path / "model.onnx",
        "digits",
        "1.0.0",
        reference=read_reference(tmp_path / "reference.npz"),
        signals=("shares:class",),
        golden_path=tmp_path / "golden.npz",
        variants=Variants((Build(request.param, "int8" if request.param == "int8" else "as-is"),), loss_max=1.0),
    )
    store = BlockStore(tmp_path / "blocks")
    return laid_out(build(asked, store, now=1), store, request.param, tmp_path / request.param)


def labels_of(answers: list[httpx.Response]) -> list[int]:
    assert {answer.status_code for answer in answers} == {200}
    return [int(np.argmax(answer.json()["outputs"][0]["data"])) for answer in answers]


def test_an_outlier_of_one_client_changes_no_answer_of_another(running: Any, released: Staged, pictures: np.ndarray) -> None:
    running.serve(released)
    good = [picture_body(one) for one in pictures[1200:1240]]
    with httpx.Client(base_url=running.url) as client:
        alone = labels_of([client.post(INFER, json=body) for body in good])
    broken = pictures[0].copy()
    broken[20] = OUTLIER
    bodies = [body for pair in zip(good, [picture_body(broken)] * len(good), strict=True) for body in pair]
    with stopped_until(running, waiting=len(bodies), model="digits"):
        answers = at_once(running.url, bodies, path=INFER)

    assert labels_of(answers)[::2] == alone
    assert (joined(running, "digits") > 0) == (released.variant == "fp32")  # what keeps rows apart is still joined


def test_good_clients_beside_broken_ones_get_the_answers_that_they_get_alone(running: Any, released: Staged, pictures: np.ndarray) -> None:
    running.serve(released)
    asked = ask(running.server.port, pictures[TRAINED:][:40], rounds=1)
    regardless = joined_regardless(released.model_path, pictures[TRAINED:][:40])

    assert (asked.answers, asked.changed) == (160, 0)
    assert (regardless.changed > 0) == (released.variant == "int8")  # what a server that joins without a proof would answer


def test_a_release_states_whether_its_rows_may_be_joined_and_what_was_tried(released: Staged) -> None:
    stated = released.joining

    assert stated is not None
    if released.variant == "int8":
        assert stated == Joining(together=False, tried=("graph",), found="DynamicQuantizeLinear is not known to keep rows apart")
    else:
        kinds = tuple(f"floats {how}" for how in ("times 1e4", "times 1e-4", "lowest", "highest", "NaN"))
        assert stated == Joining(together=True, tried=("graph", "alone", "permuted", *kinds))


@pytest.mark.parametrize(
    ("stated", "joins"),
    [
        (Joining(together=True, tried=("graph", "alone")), True),
        (Joining(together=False, tried=("graph",), found="Secret is not known to keep rows apart"), False),
        (None, False),
    ],
)
def test_a_node_goes_by_what_the_manifest_states_and_tries_it_where_nothing_is_stated(
    stated: Joining | None, joins: bool, running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {**worker_handle._runtimes(), "scaled": "tests.node.bad_runtimes:Scaled"}
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)
    golden = np.full((4, 5), 127.0, np.float32)
    staged = stage("1.0.0", b"0", golden=({"X": golden}, {"variable": golden.sum(axis=1, keepdims=True, dtype=np.float32)}))
    (variant,) = staged.manifest.variants
    manifest = staged.manifest.model_copy(update={"variants": (variant.model_copy(update={"joining": stated}),)})
    running.serve(replace(staged, manifest=manifest, runtime="scaled"))
    with stopped_until(running, waiting=8):
        at_once(running.url, [body_of(golden[:1])] * 8)

    assert (joined(running) > 0) == joins


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_a_runtime_that_mixes_only_far_whole_numbers_is_found_out(
    isolation: Literal["process", "inline"], running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {**worker_handle._runtimes(), "counted": "tests.node.bad_runtimes:ScaledCounts"}
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)
    golden = np.arange(20, dtype=np.int64).reshape(4, 5)
    tensors = {
        "inputs": (Tensor(name="X", datatype="INT64", shape=(-1, 5)),),
        "outputs": (Tensor(name="variable", datatype="INT64", shape=(-1,)),),
    }
    staged = stage("1.0.0", b"0", golden=({"X": golden}, {"variable": golden.sum(axis=1)}), **tensors)
    running.serve(replace(staged, runtime="counted", isolation=isolation))
    (slot,) = running.server._pool.slots.values()

    assert slot.current.joins_rows is False


def picture_body(pixels: np.ndarray) -> dict[str, Any]:
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": pixels.tolist()}]}


def test_a_runtime_that_wrongly_says_rows_are_apart_is_found_out_by_hostile_rows(
    running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {**worker_handle._runtimes(), "scaled": "tests.node.bad_runtimes:Scaled"}
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)
    golden = np.full((4, 5), 127.0, np.float32)  # rows that share a maximum
    golden[:, 1] = range(4)
    sums = {"variable": golden.sum(axis=1, keepdims=True, dtype=np.float32)}
    running.serve(replace(stage("1.0.0", b"0", golden=({"X": golden}, sums)), runtime="scaled"))
    row, other = np.array([[100, 1, 2, 3, 4]], np.float32), np.array([[1e5, 0, 0, 0, 0]], np.float32)
    with httpx.Client(base_url=running.url) as client:
        alone = client.post("/v2/models/delay/infer", json=body_of(row)).json()["outputs"][0]["data"]
    with stopped_until(running, waiting=16):
        answers = at_once(running.url, [body_of(one) for one in [row, other] * 8])

    assert [answer.json()["outputs"][0]["data"] for answer in answers[::2]] == [alone] * 8
    assert joined(running) == 0
