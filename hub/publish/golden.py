"""Prepare the golden inputs of a release and each build's answers: given by the publisher, made from the reference or the signature."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fleetcast.golden_file import pack_golden
from hub.core.publish import release as core
from hub.core.publish import tried_inputs
from hub.publish.onnx_model import OnnxModel
from hub.publish.publish_request import GoldenTerms, PublishRequest
from hub.publish.signal_selection import rows_max
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Golden, Tensor

_TERMS = Golden.model_fields
TRY_SECONDS_MAX = 20.0  # For inputs that are made up; a large model takes a second for each.
RUN_SECONDS_MAX = 60.0  # For one of them: some loops never end, for numbers that are none of the publisher's.
MIXES = 4  # Orders in which values of the reference are put together.


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Hold the golden file as it is shipped, its arrays, and the tolerance for a device's answers.

    Two cases are equal only if identical.
    """

    data: bytes
    arrays: core.Golden
    terms: GoldenTerms

    @property
    def relative(self) -> float:
        """Return the tolerance as a share of the expected value."""
        stated = self.terms.relative_tolerance
        return float(_TERMS["relative_tolerance"].default) if stated is None else stated

    @property
    def absolute(self) -> float:
        """Return the tolerance in the output's own units."""
        stated = self.terms.absolute_tolerance
        return float(_TERMS["absolute_tolerance"].default) if stated is None else stated


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Hold inputs that were made up and answered, and where they come from."""

    source: str
    inputs: core.Arrays
    outputs: core.Arrays


def case_of(request: PublishRequest, model: OnnxModel, made: Made | None) -> Case | None:
    """Return the publisher's case, or the one that was made up; the model's answers must agree with it.

    Raises:
        Refused: GOLDEN_INVALID: it does not fit the model, or the model gives other answers.
    """
    if request.golden_path is not None:
        return checked_case(str(request.golden_path), read(request.golden_path), model, request.golden_terms)
    if made is None or not request.proves:
        return None
    data = pack_golden(made.inputs, made.outputs)
    return checked_case(f"golden inputs made from the {made.source}", data, model, request.golden_terms)


def made_up(request: PublishRequest, model: OnnxModel, fitted: core.Fitted | None) -> Made | None:
    """Return inputs made from the reference, else from the signature, that the model answers with finite numbers and alike twice.

    Raises:
        Refused: GOLDEN_INVALID: none was found, and the publisher does not publish without a proof.
    """
    until, tried, why = time.monotonic() + TRY_SECONDS_MAX, 0, "no inputs could be made"
    for source, feeds in _candidates(request, model, fitted):
        if tried and time.monotonic() > until:
            break
        tried += 1
        try:
            outputs = _stable(request, model, feeds)
        except Refused as refusal:
            why = refusal.reason
            continue
        return Made(source, feeds, outputs)
    if not request.proves or not (request.tries or tried):
        return None
    raise Refused(
        Code.GOLDEN_INVALID,
        f"{request.model_path}: golden inputs, which every device has to answer before it serves: {tried} were made up, and the model"
        f" answered none of them with finite numbers and alike twice; give some with --golden, or publish without any by --no-proof; the"
        f" last: {why}",
    )


def _candidates(request: PublishRequest, model: OnnxModel, fitted: core.Fitted | None) -> Iterator[tuple[str, core.Arrays]]:
    if fitted is not None:
        rows = rows_max(model, core.GOLDEN_ROWS)
        for mix in range(MIXES):
            yield "reference", core.feeds(fitted.features, core.golden_columns(fitted.columns, rows=rows, mix=mix))
        yield "reference", core.feeds(fitted.features, core.typical_columns(fitted.columns, rows=rows))
        yield "reference", core.feeds(fitted.features, core.golden_columns(fitted.columns, rows=1))
    if not request.tries:
        return
    inputs = [tried_inputs.Input(tensor, model.axes[tensor.name]) for tensor in model.inputs]
    yield from (("signature", feeds) for feeds in tried_inputs.tries(inputs))


def _stable(request: PublishRequest, model: OnnxModel, feeds: core.Arrays) -> core.Arrays:
    """Return the outputs that are the same when the model is asked twice; a sampled one proves nothing.

    Raises:
        Refused: GOLDEN_INVALID: the model fails, answers NaN or infinity, or answers differently each time.
    """
    first, second = (model.run(feeds, Code.GOLDEN_INVALID, seconds_max=RUN_SECONDS_MAX) for _ in range(2))
    if not tried_inputs.answered(first):
        raise Refused(Code.GOLDEN_INVALID, "it gives NaN or infinity, or nothing")
    terms = Case(b"", core.Golden({}, {}), request.golden_terms)
    stable = {}
    for name, values in first.items():
        with suppress(Refused):
            core.check_golden(name, {name: values}, second, relative=terms.relative, absolute=terms.absolute)
            stable[name] = values
    if not stable:
        raise Refused(Code.GOLDEN_INVALID, "it answers the same inputs differently each time")
    size = sum(one.nbytes for one in (*feeds.values(), *stable.values()))
    if size > core.GOLDEN_UNPACKED_BYTES_MAX or (size > core.GOLDEN_BYTES_MAX < len(pack_golden(feeds, stable))):
        raise mismatch(
            Code.GOLDEN_INVALID,
            "bytes of inputs and answers",
            expected=f"at most {core.GOLDEN_BYTES_MAX}, which every node fetches",
            actual=size,
        )
    return stable


def refusal_of_zeros(model: OnnxModel) -> str | None:
    """Return why a device would refuse the model without golden inputs, which it then asks with zeros; None if it would not."""
    shapes = {one.name: tuple(1 if axis < 0 else axis for axis in one.shape) for one in model.inputs}
    zeros = {one.name: np.zeros(shapes[one.name], core.DTYPES[one.datatype]) for one in model.inputs if one.datatype != "BYTES"}
    zeros |= {one.name: np.full(shapes[one.name], "", object) for one in model.inputs if one.datatype == "BYTES"}
    try:
        answers = model.run(zeros, Code.GOLDEN_INVALID, seconds_max=TRY_SECONDS_MAX)
    except Refused as refusal:
        return refusal.reason
    bad = [name for name, one in answers.items() if one.dtype.kind == "f" and not np.isfinite(one).all()]
    return f"it gives NaN or infinity as {core.listed(bad)}" if bad else None


def checked_case(what: str, data: bytes, model: OnnxModel, terms: GoldenTerms) -> Case:
    """Return a case with which the model's answers agree.

    Raises:
        Refused: GOLDEN_INVALID: it does not fit the model, or the model gives other answers.
    """
    arrays = core.parse_golden(what, data, model.inputs, model.outputs)
    case = Case(data, arrays, terms)
    answers = model.run(dict(arrays.inputs), Code.GOLDEN_INVALID)
    core.check_golden(what, arrays.outputs, answers, relative=case.relative, absolute=case.absolute)
    return case


def own_case(name: str, case: Case, model: OnnxModel, *, rounds: bool) -> Case | None:
    """Return a build's own case if its answers differ from the original's by more than the tolerance; else None.

    `rounds`: the build computes in fewer bits, so another processor may round differently: a device may differ from this
    machine by as much as the build differs from the original here.

    Raises:
        Refused: VARIANT_FAILED: the build cannot answer the inputs, or gives NaN where the original gives numbers.
    """
    found = model.run(dict(case.arrays.inputs), Code.VARIANT_FAILED)
    answers = {output: found[output] for output in case.arrays.outputs}
    try:
        core.check_golden(name, case.arrays.outputs, answers, relative=case.relative, absolute=case.absolute)
    except Refused:
        pass
    else:
        return None
    difference = 0.0
    for output, known in case.arrays.outputs.items():
        answer = answers[output]
        if known.shape != answer.shape:
            where = f"variant {name!r}: shape of golden output {output!r}"
            raise mismatch(Code.VARIANT_FAILED, where, expected=list(known.shape), actual=list(answer.shape))
        if answer.dtype.kind == "f" and known.dtype.kind == "f":
            finite = np.isfinite(known)
            if not np.isfinite(answer[finite]).all():
                where = f"variant {name!r}: golden output {output!r}"
                raise mismatch(Code.VARIANT_FAILED, where, expected="numbers, as the original gives", actual="NaN or infinity")
            difference = max(difference, float(np.max(np.abs(answer[finite].astype(np.float64) - known[finite]), initial=0.0)))
    terms = case.terms
    if rounds and difference > case.absolute:
        terms = GoldenTerms(terms.relative_tolerance, difference, terms.text_agreement_min)
    arrays = core.Golden(case.arrays.inputs, answers)
    return Case(pack_golden(arrays.inputs, arrays.outputs), arrays, terms)


def given_case(what: str, data: bytes, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], terms: GoldenTerms) -> Case:
    """Return the publisher's case for a model that cannot run here; devices have to agree with it.

    Raises:
        Refused: GOLDEN_INVALID: it does not fit the signature.
    """
    return Case(data, core.parse_golden(what, data, inputs, outputs, one_by_one=True), terms)


def answered(inputs: core.Golden, answers: Mapping[str, core.Array]) -> bytes:
    """Return the case with the answers that the model gave elsewhere."""
    return pack_golden(inputs.inputs, answers)


def read(path: Path) -> bytes:
    """Return the bytes of a golden file.

    Raises:
        Refused: GOLDEN_INVALID: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(core.GOLDEN_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(Code.GOLDEN_INVALID, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > core.GOLDEN_BYTES_MAX:
        raise mismatch(Code.GOLDEN_INVALID, f"{path}: size", expected=f"at most {core.GOLDEN_BYTES_MAX} bytes", actual="more")
    return data
