"""Compare a model's answers with those that are known: publishers and devices use the same function, so that they cannot disagree.

An element agrees when `abs(actual - expected) <= absolute + relative * abs(expected)`; equal infinities agree, NaN agrees with nothing, and
texts and bools have to be equal. Of two answers of different shapes nothing agrees.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ELEMENT_CHARACTERS_MAX = 64
NAN_AGREES_WITH_NOTHING = "NaN, which agrees with nothing, not even with NaN"

BEYOND = float(np.nextafter(1.0, 2.0))

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """Describe the worst element: `error` is its error as a share of the tolerance, 1.0 being the limit.

    `where` is what differs: an element by its place, or the shape. `expected` and `actual` are for a sentence, and `rule` says what would
    agree.
    """

    error: float
    where: str = ""
    expected: str = ""
    actual: str = ""
    rule: str = ""

    @property
    def agrees(self) -> bool:
        """Return whether every element is within the tolerance."""
        return self.error <= 1.0


def compare_output(name: str, known: Array, answer: Array, *, relative: float, absolute: float) -> Difference:
    """Return how one output differs from what is known of it."""
    if known.shape != answer.shape:
        return Difference(np.inf, f"shape of {name}", str([*known.shape]), str([*answer.shape]))
    if known.size == 0:
        return Difference(0.0)
    if known.dtype.kind in "iuf" and answer.dtype.kind in "iuf":
        share, rule = _shares(known, answer, relative, absolute), f"within {absolute:g} + {relative:g} * |expected|"
    else:
        share, rule = np.where(np.asarray(known.astype(str) != answer.astype(str)), np.inf, 0.0), "equal"
    at = np.unravel_index(int(np.argmax(share)), share.shape)
    if share[at] <= 1.0:
        return Difference(float(share[at]))
    where = f"{name}{[int(axis) for axis in at]}"
    if known.dtype.kind == "f" and np.isnan(known[at]):
        return Difference(np.inf, where, "a number in the golden file", f"{NAN_AGREES_WITH_NOTHING}, in the golden file")
    found = NAN_AGREES_WITH_NOTHING if answer.dtype.kind == "f" and np.isnan(answer[at]) else str(answer[at])[:ELEMENT_CHARACTERS_MAX]
    return Difference(float(share[at]), where, str(known[at])[:ELEMENT_CHARACTERS_MAX], found, rule)


def _shares(known: Array, answer: Array, relative: float, absolute: float) -> Array:
    want, have = known.astype(np.float64), answer.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        difference, allowed = np.abs(have - want), absolute + relative * np.abs(want)
        share = difference / allowed
    share = np.where(difference > allowed, np.maximum(share, BEYOND), share)  # The quotient of neighbours may be rounded to 1.
    share = np.where(known == answer, 0.0, share)  # Equal infinities, and equality under a tolerance of nothing.
    return np.where(np.isnan(share), np.inf, share)
