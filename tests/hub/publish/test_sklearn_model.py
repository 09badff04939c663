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
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline
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


NOTES = ["good thing", "BAD thing", "not good, x 7", "ÄRGER mit ŁÓDŹ", "sehr gut"] * 6
VERDICTS = ["yes", "no", "no", "no", "yes"] * 6


def answers_to_texts(path: Path, texts: Sequence[str]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: np.array(texts, object)[:, None]})


@pytest.mark.parametrize(
    "head", [TfidfVectorizer(), CountVectorizer(lowercase=False, ngram_range=(1, 2)), FeatureUnion([("t", TfidfVectorizer())])], ids=repr
)
def test_a_pipeline_that_reads_texts_takes_one_column_of_texts(head: object, tmp_path: Path) -> None:
    model = make_pipeline(head, LogisticRegression()).fit(NOTES, VERDICTS)
    done = convert(kept(model, tmp_path), tmp_path)
    pd.DataFrame({"note": NOTES}).to_csv(tmp_path / "reference.csv", index=False)

    label, probability = answers_to_texts(done.path, NOTES)

    assert "inputs: input BYTES[-1, 1]" in done.steps
    assert (label == model.predict(NOTES)).all()
    assert np.abs(probability - model.predict_proba(NOTES)).max() < 1e-5
    said = compared(done, read_reference(tmp_path / "reference.csv"), named=None, passed_over=[])
    assert said == "its labels differ from scikit-learn's on 0 of 30 rows of the reference"


@pytest.mark.parametrize("column", ["note", 0], ids=["by name", "by number"])
def test_a_column_of_texts_in_a_column_transformer_is_read_as_texts(column: str | int, tmp_path: Path) -> None:
    rows = pd.DataFrame({"note": NOTES, "stars": np.arange(30.0)})
    by = ColumnTransformer([("note", TfidfVectorizer(), column), ("stars", StandardScaler(), ["stars"] if column == "note" else [1])])
    model = make_pipeline(by, LogisticRegression()).fit(rows, VERDICTS)
    done = convert(kept(model, tmp_path), tmp_path)
    rows.to_csv(tmp_path / "reference.csv", index=False)

    label, probability = answers(done.path, rows)

    assert (label == model.predict(rows)).all()
    assert np.abs(probability - model.predict_proba(rows)).max() < 1e-5
    said = compared(done, read_reference(tmp_path / "reference.csv"), named=None, passed_over=[])
    assert said == "its labels differ from scikit-learn's on 0 of 30 rows of the reference"


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (CountVectorizer(strip_accents="unicode"), "CountVectorizer, LogisticRegression"),
        (TfidfVectorizer(token_pattern=r"(?<!x)\w+"), "TfidfVectorizer, LogisticRegression"),
    ],
    ids=["refused by skl2onnx", "refused by ONNX Runtime"],
)
def test_what_cannot_be_converted_is_named_with_a_mend_and_a_reason(head: object, part: str, tmp_path: Path) -> None:
    path = kept(make_pipeline(head, LogisticRegression()).fit(NOTES, VERDICTS), tmp_path)
    (tmp_path / "converted").mkdir()

    with pytest.raises(Refused, match=part) as caught:
        convert(path, tmp_path / "converted")

    ours, _, theirs = caught.value.reason.partition(" The library's reason: ")
    assert ours.startswith(f"{path}: Pipeline of {part}: ")
    assert ours.endswith("or another estimator: docs/how-to/scikit-learn.md.")
    assert theirs
    assert str(tmp_path / "converted") not in theirs


def test_a_reason_of_many_lines_is_shortened_to_its_cause(tmp_path: Path) -> None:
    trees = HistGradientBoostingClassifier(max_iter=2).fit(*load_iris(return_X_y=True))

    with pytest.raises(Refused, match=r"HistGradientBoostingClassifier: skl2onnx cannot convert it\. ") as caught:
        convert(kept(trees, tmp_path), tmp_path)

    assert "array(" not in caught.value.reason
    assert len(caught.value.reason) < len(str(tmp_path)) + 500


def test_texts_that_look_like_numbers_are_compared_as_texts(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = pd.DataFrame(
        {"town": rng.choice(["Bern", "Łódź", ""], 300), "zip": rng.choice(["01067", "00123"], 300), "weight": rng.gamma(2, 2, 300)}
    )
    late = np.where((rows["zip"] == "01067") ^ (rows["town"] == ""), "late", "early")
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    by = ColumnTransformer([("texts", OneHotEncoder(handle_unknown="ignore"), ["town", "zip"]), ("numbers", numbers, ["weight"])])
    done = convert(kept(make_pipeline(by, LogisticRegression()).fit(rows, late), tmp_path), tmp_path)
    rows.to_csv(tmp_path / "reference.csv", index=False)

    said = compared(done, read_reference(tmp_path / "reference.csv"), named=None, passed_over=[])

    assert said == "its labels differ from scikit-learn's on 0 of 256 rows of the reference"


def test_a_model_that_cannot_be_compared_is_a_warning(tmp_path: Path) -> None:
    rows = load_iris(as_frame=True).data
    done = convert(kept(StandardScaler().fit(rows), tmp_path), tmp_path)
    rows.to_csv(tmp_path / "reference.csv", index=False)

    said = compared(done, read_reference(tmp_path / "reference.csv"), named=None, passed_over=[])

    assert said.startswith("warning: its answers could not be compared with scikit-learn's: ")
