"""Decide whether a model answers its golden inputs as its publisher saw it answer. Knows no runtime and no file.

The file is an npz whose arrays are named `input.<tensor>` and `output.<tensor>` (schemas.manifest.Golden). What agrees is decided in
fleetcast.golden_comparison, which publishers use too.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fleetcast.golden_comparison import compare_output
from fleetcast.golden_file import plain_arrays
from node.core.inference.tensors import DTYPES, Array, Spec, check_shape
from schemas.errors import Code, Refused, mismatch
from schemas.limits import MIB

GOLDEN_BYTES_MAX: Final = 64 * MIB  # unpacked; a self-test is a few rows, and a device holds it beside two models


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """Hold inputs with their known outputs, by tensor name; `rows` is the first axis of the first input."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    rows: int


def parse(payload: bytes, *, known: bool = True) -> GoldenCase:
    """Return the case that an npz holds. Not `known`: its outputs may be absent, because the model is yet to be asked.

    Raises:
        Refused: GOLDEN_INVALID: no npz, too large when unpacked, pickled objects, or a side without arrays.
    """
    arrays = plain_arrays("the golden file", io.BytesIO(payload), Code.GOLDEN_INVALID, bytes_max=GOLDEN_BYTES_MAX)
    sides = {
        side: {name[len(side) + 1 :]: array for name, array in arrays.items() if name.startswith(side + ".")}
        for side in ("input", "output")
    }
    if not sides["input"] or (known and not sides["output"]):
        raise mismatch(Code.GOLDEN_INVALID, "golden arrays", expected="input.<tensor> and output.<tensor>", actual=sorted(arrays)[:8])
    first = next(iter(sides["input"].values()))
    return GoldenCase(sides["input"], sides["output"], int(first.shape[0]) if first.ndim else 1)


def questions(case: GoldenCase, specs: Sequence[Spec]) -> list[dict[str, Array]]:
    """Return what the model is to be asked, one question after the other: all rows at once, or each alone where it takes one at a time.

    Raises:
        Refused: as `fit_inputs`.
    """
    one_at_a_time = case.rows > 1 and all(spec.shape[:1] == (1,) for spec in specs)
    if not one_at_a_time or any(array.shape[:1] != (case.rows,) for array in case.inputs.values()):
        return [fit_inputs(case, specs)]
    rows = [{name: array[row : row + 1] for name, array in case.inputs.items()} for row in range(case.rows)]
    return [fit_inputs(GoldenCase(row, {}, 1), specs) for row in rows]


def fit_inputs(case: GoldenCase, specs: Sequence[Spec]) -> dict[str, Array]:
    """Return the inputs as the model takes them, in the order of `specs`: cast to the signature's dtype within its own kind.

    Raises:
        Refused: GOLDEN_INVALID: an input is missing, unknown, or of another kind or shape than the manifest says.
    """
    wanted = {spec.name for spec in specs}
    if wanted != set(case.inputs):
        raise mismatch(Code.GOLDEN_INVALID, "golden inputs", expected=sorted(wanted), actual=sorted(case.inputs))
    fitted: dict[str, Array] = {}
    for spec in specs:
        array = case.inputs[spec.name]
        dtype = np.dtype(object) if spec.datatype == "BYTES" else DTYPES[spec.datatype]
        same = array.dtype.kind in "US" if spec.datatype == "BYTES" else np.can_cast(array.dtype, dtype, "same_kind")
        if not same:
            raise mismatch(Code.GOLDEN_INVALID, f"golden input {spec.name}", expected=spec.datatype, actual=array.dtype)
        try:
            check_shape(spec, [int(axis) for axis in array.shape])
        except Refused as refusal:
            raise Refused(Code.GOLDEN_INVALID, f"golden input {refusal.reason}") from None
        fitted[spec.name] = array.astype(dtype)
    return fitted


def compare(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    *,
    relative: float,
    absolute: float,
    text_agreement_min: float | None = None,
) -> float:
    """Return the worst element's error as a share of its tolerance, 1.0 being the limit.

    Raises:
        Refused: MODEL_GOLDEN, naming the tensor, the worst element and the tolerance; GOLDEN_INVALID when the model has no such output.
    """
    worst = 0.0
    for name, known in expected.items():
        if name not in actual:
            raise mismatch(Code.GOLDEN_INVALID, "golden output", expected=f"one of {sorted(actual)}", actual=name)
        if text_agreement_min is not None and known.dtype.kind in "OUS" and known.shape == actual[name].shape:
            worst = max(worst, _compare_texts(name, known, actual[name], text_agreement_min))
        else:
            worst = max(worst, _compare_one(name, known, actual[name], relative, absolute))
    return worst


def _compare_one(name: str, known: Array, answer: Array, relative: float, absolute: float) -> float:
    found = compare_output(name, known, answer, relative=relative, absolute=absolute)
    if not found.agrees:
        expected = f"{found.expected} ({found.rule})" if found.rule else found.expected
        raise mismatch(Code.MODEL_GOLDEN, found.where, expected=expected, actual=found.actual)
    return found.error


def _compare_texts(name: str, known: Array, answer: Array, agreement_min: float) -> float:
    worst = 0.0
    for at, (want, have) in enumerate(zip(known.ravel().tolist(), answer.ravel().tolist(), strict=True)):
        agreement = leading_words(str(want), str(have))
        if agreement < agreement_min:
            expected = f"{str(want)[:64]!r} ({agreement_min:.0%} of its leading words)"
            raise mismatch(Code.MODEL_GOLDEN, f"{name}[{at}]", expected=expected, actual=f"{str(have)[:64]!r} ({agreement:.0%})")
        worst = max(worst, (1 - agreement) / (1 - agreement_min) if agreement_min < 1 else 0.0)
    return worst


def leading_words(want: str, have: str) -> float:
    """Return the share of the words of `want` that `have` begins with: generated greedily, all differs after the first other word."""
    wanted, found = want.split(), have.split()
    same = next((at for at, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other), min(len(wanted), len(found)))
    return same / len(wanted) if wanted else float(not found)
