"""Try whether a model answers a row alike whatever stands beside it. Knows no runtime: the caller puts the questions and gives the answers.

Golden rows are asked alone, and then among rows that another client may send: in another order, ten thousand times larger and smaller, at
the ends of their datatype, and not numbers. Floats and whole numbers are changed one after the other, since a model may refuse either.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleetcast.golden_comparison import compare_output

ROWS_MIN: Final = 2
ROWS_ASKED: Final = 4
TOLERANCE: Final = 1e-3  # A kernel may add up in another order for one row than for many.
ALONE: Final = "alone"
PERMUTED: Final = "permuted"
HOSTILE: Final = ("times 1e4", "times 1e-4", "lowest", "highest", "NaN")
KINDS: Final = {"floats": "f", "whole numbers": "iub"}

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(slots=True)
class Tried:
    """Hold what was tried, in order, and what was found: empty where no row changed another's answer."""

    tried: list[str] = field(default_factory=list)
    found: str = ""

    @property
    def apart(self) -> bool:
        """Return whether rows were answered alike in all that was tried."""
        return bool(self.tried) and not self.found


def try_rows(inputs: Arrays, together: Arrays, rows: int) -> Generator[Arrays, Arrays | None, Tried]:
    """Yield questions, and take an answer to each; None where the model refuses it.

    `inputs` are golden rows, and `together` what the model answers to all of them at once.
    """
    result = Tried()
    if rows < ROWS_MIN or not together or any(array.shape[:1] != (rows,) for side in (inputs, together) for array in side.values()):
        result.found = f"fewer than {ROWS_MIN} golden rows, each with an answer of its own"
        return result
    asked = min(rows, ROWS_ASKED)
    golden = {name: array[:asked] for name, array in inputs.items()}
    known = {name: array[:asked] for name, array in together.items()}
    result.tried.append(ALONE)
    for row in range(asked):
        answers = yield {name: array[row : row + 1] for name, array in golden.items()}
        if fault := _fault({name: array[row : row + 1] for name, array in known.items()}, answers, 0):
            result.found = f"asked alone, {fault}"
            return result
    for how, others in _others(golden):
        result.tried.append(how)
        before = asked // 2
        answers = yield {name: np.concatenate([others[name][:before], array, others[name][before:]]) for name, array in golden.items()}
        if answers is None and how != PERMUTED:
            continue  # A question that fails as a whole is asked again row by row, so it changes nobody's answer.
        if fault := _fault(known, answers, before):
            result.found = f"beside other rows ({how}), {fault}"
            return result
    return result


def _others(golden: Arrays) -> Generator[tuple[str, Arrays], None, None]:
    """Yield what may stand beside the golden rows, and its name."""
    permuted = {name: array[::-1] for name, array in golden.items()}
    yield PERMUTED, permuted
    for what, kinds in KINDS.items():
        chosen = [name for name, array in golden.items() if array.dtype.kind in kinds]
        if not chosen:
            continue
        for how in HOSTILE:
            if how == "NaN" and kinds != "f":
                continue
            yield f"{what} {how}", {**permuted, **{name: hostile(permuted[name], how) for name in chosen}}


def hostile(rows: Array, how: str) -> Array:
    """Return rows of the same datatype that are far from what they were."""
    if rows.dtype.kind == "b":
        return np.full_like(rows, how in ("times 1e4", "highest"))
    lowest, highest = _ends(rows.dtype)
    if how in ("lowest", "highest", "NaN"):
        return np.full_like(rows, {"lowest": lowest, "highest": highest, "NaN": np.nan}[how])
    factor = 1e4 if how == "times 1e4" else 1e-4
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        far = np.where(rows == 0, 1.0, rows).astype(np.float64) * factor
        far = np.nan_to_num(far, nan=1.0, posinf=highest, neginf=lowest)
    beyond = (far <= float(lowest), far >= float(highest))  # Python's own ends: a float may round beyond what an integer holds.
    inside = np.where(beyond[0] | beyond[1], 0.0, far).astype(rows.dtype)
    return np.where(beyond[0], lowest, np.where(beyond[1], highest, inside)).astype(rows.dtype)


def _ends(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    bounds = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return dtype.type(bounds.min), dtype.type(bounds.max)


def _fault(known: Arrays, answers: Arrays | None, begin: int) -> str:
    """Return how rows from `begin` on were answered otherwise; empty where they were not."""
    if answers is None:
        return "the rows were refused"
    for name, array in known.items():
        if name not in answers or answers[name].shape[:1] < (begin + len(array),):
            return f"{name} had fewer rows than were asked"
        relative, absolute = _tolerance(array)
        sides = _without_shared_nan(array, answers[name][begin : begin + len(array)])
        difference = compare_output(name, *sides, relative=relative, absolute=absolute)
        if not difference.agrees:
            return f"{difference.where} was {difference.actual} and not {difference.expected}"
    return ""


def _without_shared_nan(known: Array, answer: Array) -> tuple[Array, Array]:
    """Return both with zeros where both are NaN: here that is the same answer."""
    if known.shape != answer.shape or known.dtype.kind != "f" or answer.dtype.kind != "f":
        return known, answer
    both = np.isnan(known) & np.isnan(answer)
    return np.where(both, 0.0, known), np.where(both, 0.0, answer)


def _tolerance(known: Array) -> tuple[float, float]:
    """Return the tolerance for one output: none for whole numbers, and for floats a share of the largest, up to the share itself."""
    if known.dtype.kind != "f":
        return 0.0, 0.0
    finite = np.abs(known[np.isfinite(known)].astype(np.float64))
    return TOLERANCE, TOLERANCE * min(1.0, float(finite.max(initial=0.0)))
