"""Classifiers whose labels are texts: their accuracy is counted, their golden answers are compared, their builds are measured."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from fleetcast.golden_file import pack_golden
from hub.publish.block_store import BlockStore
from hub.publish.builder import build
from hub.publish.publish_request import Build, PublishRequest, Truth, Variants
from hub.publish.reference_data import read_reference
from hub.publish.sample_reader import read_rows
from schemas.errors import Refused
from tests.hub.publish.test_tried_inputs import proof, published

NAMES = ["a", "b", "c", "d"]
ROWS = load_iris().data.astype(np.float32)
FRAME = pd.DataFrame(ROWS, columns=NAMES)
LABELS = np.array(["03", "5", "7"])[load_iris().target]  # Texts that look like numbers, in no file's order of probabilities.


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


@pytest.fixture(scope="module")
def trained() -> LogisticRegression:
    return LogisticRegression(max_iter=500).fit(ROWS, LABELS)


@pytest.fixture
def model(trained: LogisticRegression, tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(to_onnx(trained, ROWS[:1], options={"zipmap": False}).SerializeToString())
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", "categories"])
def test_right_answers_are_counted_by_the_labels_texts(
    trained: LogisticRegression, model: Path, store: BlockStore, tmp_path: Path, suffix: str
) -> None:
    labelled = FRAME.assign(kind=LABELS)
    path = tmp_path / f"held{suffix if suffix.startswith('.') else '.parquet'}"
    if suffix == ".csv":
        labelled.to_csv(path, index=False)
    else:
        (labelled.astype({"kind": "category"}) if suffix == "categories" else labelled).to_parquet(path)

    built = published(model, store, accuracy=Truth(rows=read_rows(path, truth="kind"), output="label"))

    right = int((trained.predict(ROWS) == LABELS).sum())
    assert built.manifest.accuracy is not None
    assert built.manifest.accuracy.baseline.signals[0].counts[:2] == (len(ROWS) - right, right)


@pytest.mark.parametrize("kind", ["U", "S"])
def test_golden_answers_that_are_texts_are_compared_here_and_on_a_device(model: Path, store: BlockStore, tmp_path: Path, kind: str) -> None:
    answers = np.asarray(ort.InferenceSession(str(model)).run(["label"], {"X": ROWS[::30]})[0])
    path = tmp_path / "golden.npz"
    np.savez(path, **{"input.X": ROWS[::30], "output.label": answers.astype(kind)})

    assert proof(published(model, store, golden_path=path), store, tmp_path / "device") == (True, "")
    path.write_bytes(pack_golden({"X": ROWS[::30]}, {"label": np.roll(answers, 1)}))
    with pytest.raises(Refused, match=r"output\.label"):
        published(model, store, golden_path=path)


def test_a_build_of_a_text_classifier_is_measured_by_its_labels(model: Path, store: BlockStore, tmp_path: Path) -> None:
    FRAME.assign(kind=LABELS).to_csv(tmp_path / "held.csv", index=False)
    FRAME.to_csv(tmp_path / "r.csv", index=False)
    variants = Variants((Build("copy", model_path=model), Build("fp32")), held_out=read_rows(tmp_path / "held.csv", truth="kind"))

    built = build(PublishRequest(model, "m", "1.0.0", reference=read_reference(tmp_path / "r.csv"), variants=variants), store, now=1)

    assert [(one.measured.metric, one.measured.score > 0.9) for one in built.manifest.variants if one.measured] == [("accuracy", True)] * 2
