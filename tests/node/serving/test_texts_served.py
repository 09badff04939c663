"""Models that take and give texts, as scikit-learn has them: published with a reference, served, and counted as the publisher counted."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from hub.publish.block_store import BlockStore
from hub.publish.builder import build
from hub.publish.publish_request import PublishRequest
from hub.publish.reference_data import read_reference
from node.core.telemetry.sketch import Sketch
from node.serving.activation import Staged
from schemas import codec
from schemas.manifest import Manifest

PLAIN = {"zipmap": False}


def released(folder: Path, model: Any, reference: pd.DataFrame, **terms: Any) -> Staged:
    """The release as a node has it on its disk: through the publisher's builder, the manifest's bytes and the store."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    reference.to_parquet(folder / "reference.parquet")
    store = BlockStore(folder / "blocks")
    request = PublishRequest(folder / "model.onnx", "texts", "1.0.0", reference=read_reference(folder / "reference.parquet"), **terms)
    built = build(request, store, now=1)
    manifest = codec.decode(Manifest, built.document)
    assert manifest.golden is not None
    (folder / "golden.npz").write_bytes(b"".join(store.read(block.digest) for block in manifest.golden.file.blocks))
    return Staged("texts", "1.0.0", built.digest, manifest, folder / "model.onnx", folder / "golden.npz")


def asked(running: Any, staged: Staged, rows: pd.DataFrame) -> dict[str, list[Any]]:
    """All rows in one question, as a client without any library sends them."""
    body = []
    for tensor in staged.manifest.inputs:
        values = rows if tensor.name == "X" else rows[[tensor.name]]
        body.append(
            {"name": tensor.name, "datatype": tensor.datatype, "shape": list(values.shape), "data": values.to_numpy().ravel().tolist()}
        )
    answer = httpx.post(running.url + "/v2/models/texts/infer", json={"inputs": body})
    assert answer.status_code == 200, answer.text
    return {one["name"]: one["data"] for one in answer.json()["outputs"]}


def counted(running: Any, staged: Staged) -> dict[str, tuple[int, ...]]:
    """What the node's windows would hold of all that was asked, by signal, "other" last."""
    baseline = staged.manifest.baseline
    assert baseline is not None
    sketch = Sketch(baseline, 3600)
    for seen in running.told(1):
        sketch.observe(seen.inputs, seen.outputs, seen.rows, at=0.0)
    flat, found = iter(sketch.take(0).tolist()), {}
    for signal in baseline.signals:
        found[signal.name] = tuple(next(flat) for _ in range(signal.bins))
    assert not sketch.odd
    return found


@pytest.mark.parametrize("names", [("setosa", "versicolor", "virginica"), ("0", "1", "2"), ("Straße", "naïve", "日本")])
def test_class_labels_that_are_texts_publish_serve_and_are_counted(running: Any, tmp_path: Path, names: tuple[str, ...]) -> None:
    iris = load_iris()
    rows = iris.data.astype(np.float32)
    trained = LogisticRegression(max_iter=500).fit(rows, np.array(names)[iris.target])
    reference = pd.DataFrame(rows, columns=["sepal length", "sepal width", "petal length", "petal width"])
    staged = released(tmp_path, to_onnx(trained, rows[:1], options=PLAIN), reference, calibration_rows=None)
    running.serve(staged)

    answers = asked(running, staged, reference)

    assert staged.manifest.baseline is not None
    label = next(one for one in staged.manifest.baseline.signals if one.name == "label")
    assert answers["label"] == trained.predict(rows).tolist()
    assert (label.kind, set(label.categories)) == ("categorical", set(names))
    assert counted(running, staged) == {one.name: one.counts for one in staged.manifest.baseline.signals}


def test_columns_of_numbers_and_texts_publish_serve_and_are_counted(running: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.normal(size=300).astype(np.float32) for name in ("size", "weight")})
    rows["site"] = rng.choice(["north", "south", "Füße"], 300)
    sides = [("numbers", StandardScaler(), ["size", "weight"]), ("texts", OneHotEncoder(handle_unknown="ignore"), ["site"])]
    trained = Pipeline([("columns", ColumnTransformer(sides)), ("model", LogisticRegression())])
    trained.fit(rows, np.where(rows["size"] + (rows["site"] == "north") > 0.5, "good", "bad"))
    types = [(name, (StringTensorType if name == "site" else FloatTensorType)([None, 1])) for name in rows]
    staged = released(tmp_path, to_onnx(trained, initial_types=types, options=PLAIN), rows)
    running.serve(staged)

    answers = asked(running, staged, rows)

    assert answers["label"] == trained.predict(rows).tolist()
    assert staged.manifest.baseline is not None
    expected = {one.name: one.counts for one in staged.manifest.baseline.signals if one.side != "service"}
    assert {"size", "weight", "site", "label"} < set(expected)
    assert {name: counts for name, counts in counted(running, staged).items() if name in expected} == expected


def test_a_row_of_several_texts_as_output_is_no_hindrance(running: Any, tmp_path: Path) -> None:
    rows = pd.DataFrame({"size": np.arange(40, dtype=np.float32), "site": ["north", "south"] * 20})
    trained = ColumnTransformer([("numbers", "passthrough", ["size"]), ("texts", "passthrough", ["site"])]).fit(rows)
    types = [("size", FloatTensorType([None, 1])), ("site", StringTensorType([None, 1]))]
    staged = released(tmp_path, to_onnx(trained, initial_types=types), rows, calibration_rows=None)
    running.serve(staged)

    answers = asked(running, staged, rows)

    assert staged.manifest.baseline is not None
    assert answers["transformed_column"][:4] == ["0", "north", "1", "south"]
    assert counted(running, staged) == {one.name: one.counts for one in staged.manifest.baseline.signals}
