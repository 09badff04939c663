"""Count a release's right and wrong answers before it serves, over held-out rows or as the publisher gives them.

The labels stay here: a manifest has the numbers of right and wrong answers, and how much blocks (days, batches) differ in them.
"""

import csv
from pathlib import Path

import numpy as np

from hub.core.drift.accuracy import accuracy_baseline
from hub.core.publish import accuracy_eval
from hub.core.publish.release import Fitted
from hub.publish.onnx_model import OnnxModel
from hub.publish.publish_request import PublishRequest, Truth
from hub.publish.signal_selection import names_for, noise_for
from hub.publish.variants import answers_over
from schemas.accuracy import Accuracy
from schemas.errors import Code, Refused, mismatch
from schemas.limits import MIB
from schemas.quantities import Count

COUNTS_BYTES_MAX = MIB  # Room for tens of thousands of blocks.
COUNT_MAX = 2**53  # Bound of schemas.signals.Count.
COUNT_DIGITS_MAX = 16  # As many as `COUNT_MAX` has. A longer text is not even read as a number.
COLUMNS = ("right", "wrong")


def accuracy_of(request: PublishRequest, model: OnnxModel | None, fitted: Fitted | None = None) -> Accuracy | None:
    """Return the release's reference of right and wrong answers; None if the publisher gives none.

    Raises:
        Refused: REFERENCE_INVALID: the rows do not fit the model, no output can be compared with the truth, or there are no answers.
    """
    given = request.accuracy
    if given is None:
        return None
    blocks = given.counts or _counted(request, given, model, fitted)
    try:
        baseline = accuracy_baseline(blocks)
    except ValueError as error:
        raise Refused(Code.REFERENCE_INVALID, f"accuracy: {error}") from None
    noise = noise_for(request.noise, given.epsilon, request.delta, window_seconds=given.window_seconds, signals=1)
    return Accuracy(baseline=baseline, privacy=noise)


def _counted(request: PublishRequest, given: Truth, model: OnnxModel | None, fitted: Fitted | None) -> tuple[tuple[int, int], ...]:
    if model is None or given.rows is None:
        raise Refused(
            Code.REFERENCE_INVALID,
            f"accuracy: {request.model_path} is run as {request.runs_as!r}: the hub cannot run it; give counts of right and wrong answers",
        )
    rows = given.rows.fit(model.inputs, model.outputs, named=names_for(request, model, fitted))
    if rows.truth is None:
        raise mismatch(Code.REFERENCE_INVALID, "accuracy: truth", expected="a column", actual="none")
    request.progress("counting right answers", 0, rows.rows)
    answers = answers_over(model, rows, Code.REFERENCE_INVALID)
    ruler = accuracy_eval.ruler(rows.truth, answers, given.output)
    right = accuracy_eval.right(ruler, rows.truth, answers, within=given.right_within)
    keys = np.zeros(rows.rows, np.intp) if rows.blocks is None else np.unique(rows.blocks, return_inverse=True)[1]
    sizes, good = np.bincount(keys), np.bincount(keys, weights=right)
    return tuple((int(count), int(size - count)) for count, size in zip(good, sizes, strict=True))


def read_counts(path: Path) -> tuple[tuple[int, int], ...]:
    """Return right and wrong answers per block in order of time, from a CSV with the columns `right` and `wrong` among any others.

    Raises:
        Refused: REFERENCE_INVALID: the file is unreadable, lacks these columns, or has a value that is not a count.
    """
    try:
        with path.open("rb") as file:
            data = file.read(COUNTS_BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:
        raise Refused(Code.REFERENCE_INVALID, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refused(Code.REFERENCE_INVALID, f"{path} cannot be read: it is not UTF-8 text") from None
    if len(data) > COUNTS_BYTES_MAX:
        raise mismatch(Code.REFERENCE_INVALID, f"{path}: size", expected=f"at most {COUNTS_BYTES_MAX} bytes", actual="more")
    try:
        return _counts(path, csv.DictReader(text.splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise Refused(Code.REFERENCE_INVALID, f"{path} cannot be read as CSV: {error}") from None


def _counts(path: Path, lines: "csv.DictReader[str]") -> tuple[tuple[int, int], ...]:
    if not set(COLUMNS) <= set(lines.fieldnames or ()):
        raise mismatch(
            Code.REFERENCE_INVALID, f"{path}: columns", expected=" and ".join(COLUMNS), actual=", ".join(lines.fieldnames or ()) or "none"
        )
    found = tuple((_count(path, number, "right", line), _count(path, number, "wrong", line)) for number, line in enumerate(lines))
    if not found:
        raise mismatch(Code.REFERENCE_INVALID, f"{path}: rows", expected="one a block", actual="none")
    return found


def _count(path: Path, number: int, column: str, line: dict[str, str | None]) -> Count:
    text = (line[column] or "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= COUNT_DIGITS_MAX and int(text) <= COUNT_MAX):
        what = f"{path}: column {column!r}, row {number} (counted from 0)"
        raise mismatch(Code.REFERENCE_INVALID, what, expected="a count", actual=repr(text[:64]))
    return int(text)
