"""From a publisher's files to what a node counts: images and token ids as wholes, hours of the week, the service, noise without delta."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from hub.publish.block_store import BlockStore
from hub.publish.builder import BuiltRelease, build
from hub.publish.publish_request import PublishRequest
from hub.publish.reference_data import read_reference
from node.core.telemetry.sketch import Sketch
from schemas.errors import Code, Refused
from schemas.manifest import Manifest

DAY = 86_400


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A classifier of 8 by 8 pictures, trained, and the pictures."""
    pictures, labels = load_digits(return_X_y=True)
    trained = LogisticRegression(max_iter=300).fit(pictures, labels)
    nodes = [
        helper.make_node("Flatten", ["picture"], ["row"]),
        helper.make_node("Gemm", ["row", "weights", "bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["shares"]),
    ]
    weights = {"weights": trained.coef_.astype(np.float32), "bias": trained.intercept_.astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["rows", 8, 8])],
        [helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["rows", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path, pictures.reshape(-1, 8, 8).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


def published(digits: tuple[Path, np.ndarray], folder: Path, store: BlockStore, **changes: object) -> Manifest:
    return built(digits, folder, store, **changes).manifest


def built(digits: tuple[Path, np.ndarray], folder: Path, store: BlockStore, **changes: object) -> BuiltRelease:
    path, pictures = digits
    seconds = np.arange(len(pictures)) * 1800
    np.savez(folder / "reference.npz", picture=pictures, at=seconds, day=seconds // DAY)
    reference = read_reference(folder / "reference.npz")
    request = PublishRequest(path, "digits", "1.0.0", reference=reference, blocks_column="day", time_column="at")
    return build(replace(request, **changes), store, now=1)  # type: ignore[arg-type]


def test_a_node_that_sees_the_publishers_pictures_counts_the_baseline(
    digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore
) -> None:
    manifest = published(digits, tmp_path, store)
    assert manifest.baseline is not None
    (shares,) = ort.InferenceSession(str(digits[0])).run(None, {"picture": digits[1]})
    sketch = Sketch(manifest.baseline, 3600)

    sketch.observe({"picture": digits[1]}, {"shares": shares}, len(shares), at=0.0)

    names = [signal.name for signal in manifest.baseline.signals]
    assert names[:4] == ["picture:mean", "picture:deviation", "picture:sparsity", "picture:projection[0]"]
    assert names[-3:] == ["shares:class", "shares:confidence", "shares:entropy"]
    assert sketch.take(0).tolist() == [count for signal in manifest.baseline.signals for count in signal.counts]


def test_a_picture_at_a_time_is_counted_as_all_together(digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore) -> None:
    manifest = published(digits, tmp_path, store)
    assert manifest.baseline is not None
    pictures = digits[1][:50]
    together, apart = Sketch(manifest.baseline, 3600), Sketch(manifest.baseline, 3600)

    together.observe({"picture": pictures}, {}, len(pictures), 0.0)
    for picture in pictures:
        apart.observe({"picture": picture[None]}, {}, 1, 0.0)

    assert (together.take(0) == apart.take(0)).all()


def test_hours_are_compared_apart_where_they_differ(digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore) -> None:
    night = (np.arange(len(digits[1])) // 2 % 24 < 8)[:, None, None]
    darker = (digits[0], np.where(night, digits[1] / 2, digits[1]).astype(np.float32))

    seasonal = published(darker, tmp_path, store).baseline
    plain = published(digits, tmp_path, store).baseline

    assert seasonal is not None
    assert seasonal.season is not None
    assert seasonal.signals[0].seasons is not None
    assert plain is not None
    assert plain.signals[0].seasons is None


def test_windows_longer_than_the_hours_that_are_compared_are_refused(
    digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore
) -> None:
    with pytest.raises(Refused, match="hours compared separately") as caught:
        published(digits, tmp_path, store, window_seconds=DAY)

    assert caught.value.code is Code.SETTINGS_INVALID


def test_with_a_calibration_the_service_is_watched_and_without_one_it_cannot_be(
    digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore
) -> None:
    manifest = published(digits, tmp_path, store, calibration_rows=1024)

    assert manifest.baseline is not None
    assert manifest.baseline.calibration_rows == 1024
    assert [one.name for one in manifest.baseline.signals if one.side == "service"] == [
        "service:latency_ms",
        "service:error",
        "service:memory_mib",
    ]
    with pytest.raises(Refused, match="calibrate-rows"):
        published(digits, tmp_path, store, signals=("service:latency_ms",))


def test_own_baselines_that_no_day_of_a_node_pays_for_are_refused_or_left_out_with_a_word(
    digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore
) -> None:
    dear = {"epsilon": 5.0, "calibration_rows": 1024}  # a window costs a rho of about half, and a node has 0.7 a day

    left_out = built(digits, tmp_path, store, **dear, calibrates_by_default=True)
    allowed = built(digits, tmp_path, store, **dear, calibrates_by_default=True, rho_day_max=2.0)

    assert left_out.manifest.baseline is not None
    assert allowed.manifest.baseline is not None
    assert (left_out.manifest.baseline.calibration_rows, allowed.manifest.baseline.calibration_rows) == (None, 1024)
    assert [one.name for one in left_out.manifest.baseline.signals if one.side == "service"] == []
    assert "rho 0.7 a day, and its own baseline takes rho 1.0" in left_out.not_calibrated
    assert allowed.not_calibrated == ""
    for more in ({}, {"calibrates_by_default": True, "signals": ("service:latency_ms", "shares:class")}):
        with pytest.raises(Refused, match=r"at most rho 0.7 a day, got rho \d\.\d+ .*smaller epsilon, or --calibrate-rows 0"):
            built(digits, tmp_path, store, **dear, **more)


def test_without_delta_the_noise_is_laplaces(digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore) -> None:
    manifest = published(digits, tmp_path, store, noise="laplace", epsilon=2.0, signals=("shares:class", "shares:confidence"))

    assert manifest.privacy is not None
    assert (manifest.privacy.delta, manifest.privacy.laplace) == (0.0, (64, 64))
    assert manifest.privacy.sigma2 == pytest.approx(1.84, abs=0.02)


def test_pictures_of_another_shape_are_refused(digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore) -> None:
    with pytest.raises(Refused, match=r"rows.*8.*8.*found.*64") as caught:
        published((digits[0], digits[1].reshape(-1, 1, 64)[:, 0]), tmp_path, store)

    assert caught.value.code is Code.REFERENCE_INVALID


def test_no_golden_picture_is_anyones(digits: tuple[Path, np.ndarray], tmp_path: Path, store: BlockStore) -> None:
    from hub.core.publish.release import golden_columns

    made = golden_columns({"picture": digits[1]})["picture"]

    real = {picture.tobytes() for picture in digits[1]}
    assert made.shape == (16, 8, 8)
    assert not any(picture.tobytes() in real for picture in made)
