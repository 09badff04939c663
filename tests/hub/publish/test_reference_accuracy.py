"""What a publisher knows of right and wrong answers, by a day: counted over held-out rows with the truth, or as it is given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

from hub.operations.release_inputs import request_for
from hub.publish.block_store import BlockStore
from hub.publish.builder import build
from hub.publish.publish_request import PublishRequest, Truth
from hub.publish.reference_accuracy import read_counts
from hub.publish.release_file import read_release
from hub.publish.sample_reader import read_rows
from schemas.accuracy import Accuracy
from schemas.errors import Code, Refused
from tests.hub import digits
from tests.hub.cli.fleets import ridge

NOW = 1_700_000_000


def held_out(folder: Path) -> pd.DataFrame:
    """Rows that the classifier of digits has not seen, of six days."""
    features, truth = digits.rows()
    frame = pd.DataFrame(features[digits.TRAINED :], columns=digits.PIXELS)
    frame["digit"], frame["day"] = truth[digits.TRAINED :], np.arange(len(frame)) // 100
    frame.to_parquet(folder / "held.parquet")
    return frame


def release(folder: Path, accuracy: str, *, reference: bool = False) -> PublishRequest:
    """A release file of the classifier, parsed and read as `publish` does."""
    (folder / "model.onnx").write_bytes(digits.forest())
    lines = ['name = "digits"', 'version = "1.0.0"', 'model = "model.onnx"']
    lines += ["[reference]", 'data = "held.parquet"', 'blocks = "day"', 'signals = ["label"]'] if reference else []
    (folder / "release.toml").write_text("\n".join([*lines, "[accuracy]", accuracy]))
    return request_for(read_release(folder / "release.toml", {}), tell=lambda *_: None)


def built(request: PublishRequest, folder: Path) -> Accuracy:
    accuracy = build(request, BlockStore(folder / "blocks"), now=NOW).manifest.accuracy
    assert accuracy is not None
    return accuracy


def refusal(request: PublishRequest, folder: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        build(request, BlockStore(folder / "blocks"), now=NOW)
    return caught.value


@pytest.mark.parametrize("reference", [True, False])
def test_right_and_wrong_answers_are_counted_by_day_and_no_label_is_published(tmp_path: Path, reference: bool) -> None:
    frame = held_out(tmp_path)
    said = 'truth = "digit"' if reference else 'truth = "digit"\ndata = "held.parquet"\nblocks = "day"\noutput = "label"\nepsilon = 2.0'

    accuracy = built(release(tmp_path, said, reference=reference), tmp_path)

    model = ort.InferenceSession(str(tmp_path / "model.onnx"))
    right = model.run(["label"], {"X": frame[digits.PIXELS].to_numpy(np.float32)})[0] == frame["digit"].to_numpy()
    (signal,) = accuracy.baseline.signals
    assert signal.counts == (int((~right).sum()), int(right.sum()), 0)
    assert (accuracy.baseline.rows, accuracy.baseline.blocks) == (len(frame), frame["day"].nunique())
    assert signal.between
    assert (accuracy.privacy.epsilon, accuracy.privacy.window_seconds) == (0.5 if reference else 2.0, 86_400)


def test_one_table_of_held_out_rows_serves_builds_and_accuracy(tmp_path: Path) -> None:
    frame = held_out(tmp_path)
    said = (
        'truth = "digit"\ndata = "held.parquet"\nblocks = "day"\n[variants]\nbuilds = ["fp32"]\nheld_out = "held.parquet"\ntruth = "digit"'
    )

    manifest = build(release(tmp_path, said), BlockStore(tmp_path / "blocks"), now=NOW).manifest

    assert manifest.accuracy is not None
    measured = manifest.variants[0].measured
    assert measured is not None
    assert measured.score == pytest.approx(manifest.accuracy.baseline.signals[0].counts[1] / len(frame), abs=1e-6)


def test_a_number_is_right_when_it_is_near_enough(tmp_path: Path) -> None:
    features, target = load_diabetes(return_X_y=True)
    (tmp_path / "model.onnx").write_bytes(ridge())
    columns = {f"x{number}": features[:, number].astype(np.float32) for number in range(features.shape[1])}
    np.savez(tmp_path / "rows.npz", progress=target, **columns)
    rows = read_rows(tmp_path / "rows.npz", truth="progress")
    request = PublishRequest(tmp_path / "model.onnx", "diabetes", "1.0.0", accuracy=Truth(rows=rows, right_within=60.0))

    accuracy = built(request, tmp_path)

    answers = ort.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"X": features.astype(np.float32)})[0].ravel()
    assert accuracy.baseline.signals[0].counts[1] == int((np.abs(answers - target) <= 60.0).sum())
    assert accuracy.baseline.signals[0].between == ()
    unsaid = replace(request, accuracy=Truth(rows=rows))
    assert "right_within" in refusal(unsaid, tmp_path).reason


def test_counts_may_be_given_where_nothing_here_can_run_the_model(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("day,right, wrong\nmon,90,10\ntue,80, 20\nwed,95,5\n")
    (tmp_path / "chat.gguf").write_bytes(b"GGUF" + bytes(1000))
    given = Truth(counts=read_counts(tmp_path / "counts.csv"))
    request = PublishRequest(tmp_path / "chat.gguf", "chat", "1.0.0", runtime="files", accuracy=given, noise="laplace")

    accuracy = built(request, tmp_path)

    assert accuracy.baseline.signals[0].counts == (35, 265, 0)
    assert (accuracy.baseline.blocks, accuracy.privacy.delta) == (3, 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("right,wrong\n", "rows: expected one a block, found none"),
        ("good,bad\n1,2\n", "columns: expected right and wrong, found good, bad"),
        ("right,wrong\n5,-1\n", "column 'wrong', row 0"),
        ("right,wrong\n5,1\n7\n", "column 'wrong', row 1"),
        ("right,wrong\n1.5,1\n", "found '1.5'"),
        ("", "found none"),
    ],
)
def test_counts_that_are_none_are_refused_with_their_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "counts.csv").write_text(text)

    with pytest.raises(Refused) as caught:
        read_counts(tmp_path / "counts.csv")

    assert caught.value.code is Code.REFERENCE_INVALID
    assert words in caught.value.reason


def test_days_without_any_answer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(digits.forest())
    request = PublishRequest(tmp_path / "model.onnx", "digits", "1.0.0", accuracy=Truth(counts=((0, 0), (0, 0))))

    assert "counts of right and wrong answers" in refusal(request, tmp_path).reason


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('truth = "species"\ndata = "held.parquet"', "truth: expected a column 'species'"),
        ('truth = "digit"\ndata = "held.parquet"\nblocks = "week"', "block column: expected week"),
        ('truth = "digit"\ndata = "held.parquet"\nblocks = "day"\noutput = "score"', "found score"),
        ('truth = "digit"', "accuracy.data, in which truth is a column"),
        ("epsilon = 1.0", "either truth"),
        ('truth = "digit"\ncounts = "held.parquet"', "either truth"),
        ('counts = "held.parquet"\nright_within = 1.0', "omit them with counts"),
        ('counts = "none.csv"', "accuracy.counts"),
        ('counts = "held.parquet"', "held.parquet"),
        ('truth = "digit"\nwithin = 3', "accuracy"),
    ],
)
def test_what_is_said_of_accuracy_wrongly_is_refused_by_a_sentence(tmp_path: Path, said: str, words: str) -> None:
    held_out(tmp_path)

    with pytest.raises(Refused) as caught:
        build(release(tmp_path, said), BlockStore(tmp_path / "blocks"), now=NOW)

    assert words in caught.value.reason


def test_rows_with_their_truth_are_no_use_to_a_model_that_nothing_here_runs(tmp_path: Path) -> None:
    held_out(tmp_path)
    (tmp_path / "chat.gguf").write_bytes(b"GGUF" + bytes(1000))
    rows = read_rows(tmp_path / "held.parquet", truth="digit")
    request = PublishRequest(tmp_path / "chat.gguf", "chat", "1.0.0", runtime="files", accuracy=Truth(rows=rows))

    assert "give counts of right and wrong" in refusal(request, tmp_path).reason
