"""Why a model is refused: every refusal of the corpus is of one of these kinds, which pages list, or it is a fault."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from schemas.errors import Code
from tests.corpus.cases import Case, Reference
from tests.corpus.path import Refusal, Step


@dataclass(frozen=True)
class Reason:
    """A kind of refusal: its name in figures, a sentence for pages, and what it is known by."""

    name: str
    sentence: str
    step: Step
    codes: tuple[str, ...]
    holds: Callable[[Case, Reference, Refusal], bool] = lambda case, known, refusal: True


def _says(pattern: str) -> Callable[[Case, Reference, Refusal], bool]:
    return lambda case, known, refusal: re.search(pattern, refusal.reason) is not None


def _empty_axis(case: Case, known: Reference, refusal: Refusal) -> bool:
    arrays = [*(case.inputs or {}).values(), *(known.outputs or {}).values()]
    return any(array.size == 0 for array in arrays)


def _not_finite(case: Case, known: Reference, refusal: Refusal) -> bool:
    return any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in (known.outputs or {}).values())


def _not_run(case: Case, known: Reference, refusal: Refusal) -> bool:
    return known.outputs is None


_NUMBERS = "takes or gives numbers of 8 or 4 bits that are no integers"
_FAILS = "ONNX Runtime loads it, and fails on its inputs"
_SIGNATURE, _GOLDEN = (Code.MODEL_SIGNATURE,), (Code.GOLDEN_INVALID,)

REASONS = (
    Reason("sequence", "takes or gives a sequence", "publish", _SIGNATURE, _says(r"found (?:optional\()?seq\(")),
    Reason("optional", "takes or gives an optional", "publish", _SIGNATURE, _says(r"found optional\(")),
    Reason("float8", _NUMBERS, "publish", _SIGNATURE, _says(r"found tensor\(float[48]")),
    Reason("int4", "takes or gives integers of 4 or 2 bits", "publish", _SIGNATURE, _says(r"found tensor\(u?int[24]\)")),
    Reason("bfloat16", "takes or gives bfloat16", "publish", _SIGNATURE, _says(r"found tensor\(bfloat16\)")),
    Reason("complex", "takes or gives complex numbers", "publish", _SIGNATURE, _says(r"found tensor\(complex")),
    Reason("no_inputs", "takes no input: its answer is always the same", "publish", _SIGNATURE, _says("inputs: expected at least one")),
    Reason("not_loaded", "ONNX Runtime does not load it", "publish", (Code.MODEL_LOAD,), _not_run),
    Reason("not_run", _FAILS, "publish", (Code.MODEL_RUN, Code.GOLDEN_INVALID), _not_run),
    Reason("not_run", _FAILS, "activate", (Code.MODEL_RUN, Code.MODEL_SIGNATURE), _not_run),
    Reason("empty_axis", "its golden inputs have an axis of 0", "publish", _GOLDEN, _empty_axis),
    Reason("not_finite", "its golden answers are NaN or infinite", "publish", _GOLDEN, _not_finite),
    Reason("json_input", "an input is NaN or infinite, which JSON cannot carry", "json", ("0",)),
    Reason("json_output", "an output is NaN or infinite, which JSON cannot carry", "json", ("400",), _says("ask for it with binary_data")),
)


def reason_of(case: Case, known: Reference, refusal: Refusal) -> Reason | None:
    """Return the kind of a refusal; None for one that is of no kind known here."""
    return next(
        (one for one in REASONS if one.step == refusal.step and refusal.code in one.codes and one.holds(case, known, refusal)), None
    )
