"""Measures how good a build of a model is on held-out rows: by the truth where it is known, else by agreement with the original."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hub.core.publish.release import listed
from schemas.errors import Code, Refused, mismatch

Array = NDArray[Any]
Answers = Mapping[str, Array]  # by output, the rows along the first axis
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 0.1, 1e-3  # within which a single float agrees: schemas.manifest.Shadow's


@dataclass(frozen=True, slots=True)
class Ruler:
    """Hold the metric, and its output; agreement is on all."""

    metric: Literal["accuracy", "r2", "agreement"]
    output: str | None = None


def ruler(truth: Array | None, answers: Answers, named: str | None) -> Ruler:
    """Choose by what the original answers: accuracy where the truth is a class, r2 where it is a number, agreement without any.

    A class is a text or a whole number that an output of the same kind gives, or of which an output gives a score each.

    Raises:
        Refused: REFERENCE_INVALID: no output can be compared with the truth, or the truth is the same in every row.
    """
    if named is not None and named not in answers:
        raise mismatch(
            Code.REFERENCE_INVALID, "output that is compared with the truth", expected=f"one of {listed(list(answers))}", actual=named
        )
    if truth is None:
        return Ruler("agreement", named)
    candidates = {named: answers[named]} if named is not None else answers
    for name, values in candidates.items():
        if _metric(truth, values) == "accuracy":
            return Ruler("accuracy", name)
    for name, values in candidates.items():
        if _metric(truth, values) == "r2":
            if float(np.var(truth.astype(np.float64))) == 0:
                raise mismatch(Code.REFERENCE_INVALID, "truth of the held-out rows", expected="numbers that differ", actual=truth[0])
            return Ruler("r2", name)
    shapes = {name: f"{values.dtype}{list(values.shape[1:])}" for name, values in candidates.items()}
    kind = "texts" if truth.dtype.kind in "OU" else str(truth.dtype)
    raise mismatch(Code.REFERENCE_INVALID, "an output to compare with the truth", expected=f"one that gives {kind} a row", actual=shapes)


def score(by: Ruler, truth: Array | None, original: Answers, answers: Answers) -> float:
    """Return the score: accuracy and agreement are shares of rows, 0 to 1; r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2, at most 1."""
    if by.metric == "agreement" or truth is None or by.output is None:
        names = [by.output] if by.output is not None else list(original)
        same = np.ones(len(original[names[0]]), np.bool_)
        for name in names:
            same &= _agrees(original[name], answers[name])
        return float(np.mean(same))
    values = answers[by.output]
    if by.metric == "accuracy":
        return float(np.mean(_classes(values, truth) == _plain(truth)))
    known, found = truth.astype(np.float64), values.astype(np.float64).reshape(len(values))
    return float(1 - np.sum((known - found) ** 2) / np.sum((known - known.mean()) ** 2))


def right(by: Ruler, truth: Array, answers: Answers, *, within: float | None) -> NDArray[np.bool_]:
    """Return which rows are answered rightly, [rows]: the class that is true, or a number at most `within` from the true one.

    Raises:
        Refused: REFERENCE_INVALID: numbers, and nothing says how near is right; or classes, and something does.
    """
    if by.output is None:
        raise ValueError("agreement with another build is not the truth")
    values = answers[by.output]
    if by.metric == "accuracy":
        if within is not None:
            what = f"right_within, for output {by.output!r} whose answers are classes"
            raise mismatch(Code.REFERENCE_INVALID, what, expected="none; a class is right or wrong", actual=within)
        return np.asarray(_classes(values, truth) == _plain(truth))
    if within is None:
        what = f"output {by.output!r}, which is a number: how far from the truth is still right (right_within)"
        raise mismatch(Code.REFERENCE_INVALID, what, expected="a number", actual="none")
    return np.asarray(np.abs(values.astype(np.float64).reshape(len(values)) - truth.astype(np.float64)) <= within)


def finite(what: str, original: Answers, answers: Answers) -> None:
    """Check that a build gives numbers where the original does.

    Raises:
        Refused: VARIANT_FAILED: it gives NaN or infinity, with the output and the row.
    """
    for name, values in answers.items():
        if values.dtype.kind == "f":
            wrong = np.argwhere(~np.isfinite(values) & np.isfinite(original[name]))
            if len(wrong):
                where = f"{what}: output {name!r} of held-out row {wrong[0][0]} ({len(np.unique(wrong[:, 0]))} such rows)"
                actual = values[tuple(wrong[0])]
                raise mismatch(
                    Code.VARIANT_FAILED,
                    where,
                    expected=f"a number such as the original's {original[name][tuple(wrong[0])]:g}",
                    actual=actual,
                )


def check_answers(what: str, original: Answers, answers: Answers) -> None:
    """Check that a build's answers can be compared with the original's at all.

    Raises:
        Refused: VARIANT_FAILED: another kind or shape.
    """
    for name, values in answers.items():
        have, want = f"{values.dtype}{list(values.shape)}", f"{original[name].dtype}{list(original[name].shape)}"
        if have != want:
            raise mismatch(Code.VARIANT_FAILED, f"{what}: output {name!r} over the held-out rows", expected=want, actual=have)


def by_row(parts: Mapping[str, Sequence[Array]], rows: int) -> dict[str, Array]:
    """Join the answers of each batch to answers over all rows; an output that has not one answer of one shape a row is left out."""
    alike = {name: values for name, values in parts.items() if len({one.shape[1:] for one in values}) == 1 and values[0].ndim > 0}
    joined = {name: np.concatenate(values) for name, values in alike.items()}
    return {name: values for name, values in joined.items() if len(values) == rows}


def _metric(truth: Array, values: Array) -> str | None:
    single = values.size == len(values)
    match truth.dtype.kind, values.dtype.kind:
        case ("O" | "U", "O" | "U") | ("b" | "i" | "u", "b" | "i" | "u"):
            return "accuracy" if single else None
        case ("b" | "i" | "u", "f") if not single and values.size == len(values) * values.shape[-1]:
            return "accuracy" if int(truth.min()) >= 0 and int(truth.max()) < values.shape[-1] else None
        case ("i" | "u" | "f", "f" | "i" | "u"):
            return "r2" if single else None
    return None


def _classes(values: Array, truth: Array) -> Array:
    if values.dtype.kind == "f":
        return np.asarray(values.reshape(len(values), -1).argmax(axis=1))
    flat = values.reshape(len(values))
    return flat.astype(np.str_) if truth.dtype.kind in "OU" else flat


def _plain(truth: Array) -> Array:
    return truth.astype(np.str_) if truth.dtype.kind in "OU" else truth


def _agrees(old: Array, new: Array) -> NDArray[np.bool_]:
    """Compare row by row, as a device compares two releases (schemas.manifest.Shadow)."""
    rows = len(old)
    one, other = old.reshape(rows, -1), new.reshape(rows, -1)
    if old.dtype.kind != "f":
        return np.asarray(
            (one.astype(np.str_) == other.astype(np.str_)).all(axis=1) if old.dtype.kind in "OUS" else (one == other).all(axis=1)
        )
    if one.shape[1] > 1:
        return np.asarray(one.argmax(axis=1) == other.argmax(axis=1))
    known, found = one[:, 0].astype(np.float64), other[:, 0].astype(np.float64)
    same = np.abs(found - known) <= ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * np.abs(known)
    return np.asarray(same | (known == found) | (np.isnan(known) & np.isnan(found)))


def check_loss(name: str, by: Ruler, *, original: float, scored: float, loss_max: float) -> None:
    """Check that a build is good enough to be published.

    Raises:
        Refused: VARIANT_LOSS: it loses more than is allowed, with both scores.
    """
    if not original - scored <= loss_max:
        expected = f"at least {original - loss_max:.4f} (the original has {original:.4f}, and {loss_max:g} may be lost)"
        raise Refused(Code.VARIANT_LOSS, f"variant {name!r}: {by.metric} on the held-out rows: expected {expected}, found {scored:.4f}")
