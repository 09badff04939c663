"""Models of scikit-learn as people keep them, converted and run; their answers are compared with scikit-learn's own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from hub.publish.reference_data import read_reference
from hub.publish.sklearn_model import compared, convert
from schemas.errors import Code, Refused

ARRAYS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(string)": object}


def table(rows: int = 120) -> tuple[pd.DataFrame, np.ndarray]:
    """Flats: a text, numbers, a number that is a category, and a column that no model uses."""
    rng = np.random.default_rng(0)
    flats = pd.DataFrame(
        {
            "town": rng.choice(["Bern", "Jena", "Oslo"], rows),
            "rooms": rng.integers(1, 9, rows),
            "area": rng.normal(70, 20, rows),
            "note": 0.0,
            "floor": rng.integers(0, 3, rows),
        }
    )
    return flats, np.where((flats["area"] > 70) ^ (flats["town"] == "Oslo"), "dear", "cheap")


def columns(town: str | int = "town", rest: Sequence[str | int] = ("rooms", "area"), floor: str | int = "floor") -> ColumnTransformer:
    encoders = [("towns", OneHotEncoder(handle_unknown="ignore"), [town]), ("floors", OneHotEncoder(), [floor])]
    return ColumnTransformer([*encoders, ("numbers", StandardScaler(), list(rest))])


def answers(path: Path, rows: pd.DataFrame) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    feeds = {one.name: rows[[one.name]].to_numpy().astype(ARRAYS[one.type]) for one in session.get_inputs()}
    return session.run(None, feeds)


def kept(model: object, folder: Path, name: str = "model.joblib") -> Path:
    joblib.dump(model, folder / name)
    return folder / name


@pytest.mark.parametrize("by", [columns(), columns(0, [1, 2], 4)], ids=["columns by name", "columns by number"])
def test_a_pipeline_of_texts_and_numbers_answers_as_scikit_learn_does(by: ColumnTransformer, tmp_path: Path) -> None:
    rows, labels = table()
    model = make_pipeline(by, LogisticRegression()).fit(rows, labels)

    done = convert(kept(model, tmp_path), tmp_path)

    label, probability = answers(done.path, rows)
    assert (label == model.predict(rows)).all()
    assert np.abs(probability - model.predict_proba(rows)).max() < 1e-5
    assert {one.name for one in onnxruntime.InferenceSession(done.path).get_inputs()} >= {"town", "rooms", "area", "floor"}


def test_texts_alone_and_string_labels_are_one_input_of_texts(tmp_path: Path) -> None:
    rows, labels = table()
    texts = rows[["town"]].to_numpy(dtype=object)
    model = make_pipeline(OrdinalEncoder(), DecisionTreeClassifier()).fit(texts, labels)

    done = convert(kept(model, tmp_path), tmp_path)

    label, _ = onnxruntime.InferenceSession(done.path).run(None, {"input": texts})
    assert (label == model.predict(texts)).all()


def test_what_was_done_is_said_and_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    iris = load_iris(as_frame=True)
    model = LogisticRegression(max_iter=500).fit(iris.data, iris.target_names[iris.target])

    done = convert(kept(model, tmp_path), tmp_path)
    first = done.path.read_bytes()

    said = "; ".join(done.steps)
    for part in ("runs what is in it", "skl2onnx", "input FP32[-1, 4]", "outputs: label, probabilities; zipmap is off", "ai.onnx 20"):
        assert part in said
    assert convert(kept(model, tmp_path), tmp_path).path.read_bytes() == first
    assert {one.key: one.value for one in onnx.load(done.path).metadata_props} == {"fleetcast.columns": ",".join(iris.data.columns)}


def test_its_answers_are_compared_with_scikit_learns_on_the_reference(tmp_path: Path) -> None:
    rows, labels = table()
    flats = make_pipeline(columns(), LogisticRegression()).fit(rows, labels)
    done = convert(kept(flats, tmp_path), tmp_path)
    rows.drop(columns="note").assign(day=1).to_csv(tmp_path / "reference.csv", index=False)

    said = compared(done, read_reference(tmp_path / "reference.csv"), named=None, passed_over=["day"])

    assert said == "its labels differ from scikit-learn's on 0 of 120 rows of the reference"


def test_labels_that_32_bits_change_are_counted(tmp_path: Path) -> None:
    seconds = pd.DataFrame({"at": 1.7e9 + np.tile([0.0, 1.0], 20)})  # a time in seconds, of which 32 bits know every 128th
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(seconds, np.tile(["even", "odd"], 20))
    seconds.to_parquet(tmp_path / "reference.parquet")
    done = convert(kept(model, tmp_path), tmp_path)

    said = compared(done, read_reference(tmp_path / "reference.parquet"), named=None, passed_over=[])

    assert said == "its labels differ from scikit-learn's on 20 of 40 rows of the reference"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"weights": [1]}, "expected a fitted estimator of scikit-learn, found builtins.dict"),
        (Ridge(), "expected a fitted estimator, found one that is not fitted"),
    ],
    ids=["a dict", "not fitted"],
)
def test_what_is_no_fitted_model_is_refused_by_name(content: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=reason) as caught:
        convert(kept(content, tmp_path), tmp_path)

    assert caught.value.code is Code.MODEL_LOAD


def test_a_file_that_is_no_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"none of these")

    with pytest.raises(Refused, match="cannot be read as joblib or pickle"):
        convert(tmp_path / "model.pkl", tmp_path)


def test_a_missing_library_is_refused_with_what_to_install(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules["skl2onnx"] = None
from pathlib import Path
from hub.publish.sklearn_model import convert
try:
    convert(Path("model.joblib"), Path({str(tmp_path)!r}))
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "skl2onnx is not installed: pip install scikit-learn skl2onnx" in done.stdout
    assert "--runtime files" in done.stdout
