"""Describe a release before anything is stored: its signature, its builds and their files, its golden case, its signals."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from fleetcast.golden_file import pack_golden
from hub.core.publish import release as core
from hub.core.publish import tried_inputs
from hub.core.publish.preview import Preview
from hub.core.publish.signature_compatibility import Signature, check_published, optional_inputs
from hub.publish import golden
from hub.publish.chunk_files import GOLDEN_FILE
from hub.publish.foreign_models import LITERT, signature_of
from hub.publish.golden_prompts import SUFFIXES, read_prompts
from hub.publish.onnx_model import OnnxModel
from hub.publish.publish_request import FILES, ONNX, Build, GoldenTerms, PublishRequest
from hub.publish.reference_accuracy import accuracy_of
from hub.publish.release_preview import preview_of, unproven
from hub.publish.signal_selection import Watch, fit, watch, watch_unread
from hub.publish.true_shapes import free_inputs, true_outputs
from hub.publish.variants import LeftOut, Part, files_of, make_variants
from schemas.accuracy import Accuracy
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Tensor

RUNTIME_TRIES_MAX = 4  # Each takes a process of the device's command.


@dataclass(frozen=True)
class Described:
    """Hold the description; `unanswered` are golden inputs that only the device's own runtime can answer.

    `tried` are such inputs that were made up; the first that it answers becomes the case.
    """

    parts: tuple[Part, ...]
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    watch: Watch = field(default_factory=Watch)
    case: golden.Case | None = None
    unanswered: core.Golden | None = None
    tried: tuple[core.Golden, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    accuracy: Accuracy | None = None
    preview: Preview = field(default_factory=Preview)

    @property
    def cases(self) -> tuple[golden.Case, ...]:
        """Return all golden files; the release's own is first if a build shares it."""
        shared = [self.case] if self.case is not None and any(part.case is None for part in self.parts) else []
        return *shared, *(part.case for part in self.parts if part.case is not None)


def describe(request: PublishRequest, scratch: Path) -> Described:
    """Read the model and the publisher's request; files that are made on the way are in the scratch folder.

    Raises:
        Refused: the model, the reference, the golden inputs or the variants are wrong, or programs that use the predecessor would break.
    """
    return _onnx(request, scratch) if request.runs_as == ONNX else _foreign(request)


def _onnx(request: PublishRequest, scratch: Path) -> Described:
    files_of(request.model_path)  # This names the fault before the model is loaded.
    freed = free_inputs(request, OnnxModel(request.model_path), scratch)
    request, model = freed.request, freed.model
    fitted = fit(request, model)
    made = golden.made_up(request, model, fitted) if request.golden_path is None else None
    true = true_outputs(request, model, made.inputs if made is not None else _given_inputs(request, model), scratch)
    request, model = true.request, true.model
    _check_declared(request, model)
    _check_compatible(request, model.inputs, model.outputs)
    watched = watch(request, model, fitted)
    if request.golden_terms.text_agreement_min is not None and all(one.datatype != "BYTES" for one in model.outputs):
        expected = "an output of texts, to which it applies; take it out"
        raise mismatch(Code.SETTINGS_INVALID, "golden.text_agreement_min", expected=expected, actual=core.signature(model.outputs))
    case = _onnx_case(request, model, made)
    parts, left_out = make_variants(request, model, files_of(request.model_path), case, fitted, scratch)
    accuracy = accuracy_of(request, model, fitted)
    seen = preview_of(model, watched, made, case, mended=(*freed.mended, *true.mended), asks=request.tries)
    return Described(parts, model.inputs, model.outputs, watched, case, left_out=left_out, accuracy=accuracy, preview=seen)


def _given_inputs(request: PublishRequest, model: OnnxModel) -> core.Arrays | None:
    """Return the inputs of the publisher's golden file, with or without answers."""
    path = request.golden_path
    if path is None:
        return None
    if path.suffix.lower() in SUFFIXES:
        return read_prompts(path, model.inputs, model.outputs)[0].inputs
    return core.parse_golden(str(path), golden.read(path), model.inputs, model.outputs).inputs


def _onnx_case(request: PublishRequest, model: OnnxModel, made: golden.Made | None) -> golden.Case | None:
    if request.golden_path is None or request.golden_path.suffix.lower() not in SUFFIXES:
        return golden.case_of(request, model, made)
    arrays, terms = read_prompts(request.golden_path, model.inputs, model.outputs)
    if not arrays.outputs:
        arrays = replace(arrays, outputs=model.run(dict(arrays.inputs), Code.GOLDEN_INVALID))
    return golden.checked_case(
        str(request.golden_path), pack_golden(arrays.inputs, arrays.outputs), model, _with(request.golden_terms, terms)
    )


def _foreign(request: PublishRequest) -> Described:
    signature = signature_of(request, request.model_path)
    _check_compatible(request, *signature)
    parts = tuple(_foreign_part(request, build, signature) for build in request.variants.builds)
    case, unanswered = _foreign_case(request, *signature)
    watched = watch_unread(request, *signature)
    seen = unproven(request.runs_as) if case is None and request.runs_as != FILES and request.proves else Preview()
    tried = _made_up(request, signature[0]) if case is None else ()
    accuracy = accuracy_of(request, None)
    return Described(parts, *signature, watched, case=case, unanswered=unanswered, tried=tried, accuracy=accuracy, preview=seen)


def _made_up(request: PublishRequest, inputs: tuple[Tensor, ...]) -> tuple[core.Golden, ...]:
    """Return golden inputs to ask the device's own runtime, where it can be asked here and its models answer numbers."""
    if request.runs_as != LITERT or request.answers is None or not (request.proves and request.tries):
        return ()
    known = [tried_inputs.Input(tensor, ("",) * len(tensor.shape)) for tensor in inputs]
    return tuple(core.Golden(feeds, {}) for feeds in islice(tried_inputs.tries(known), RUNTIME_TRIES_MAX))


def with_tried(described: Described, one: core.Golden, terms: GoldenTerms) -> Described:
    """Return the description with inputs that were made up, yet to be answered."""
    case = golden.Case(pack_golden(one.inputs, {}), one, terms)
    return replace(described, case=case, unanswered=one, preview=Preview(golden="made from the signature"))


def _foreign_part(request: PublishRequest, build: Build, signature: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]) -> Part:
    if build.how != "as-is" or build.sparsity:
        raise mismatch(
            Code.VARIANT_FAILED, f"variant {build.name!r}", expected="an ONNX model to make it of", actual=str(request.model_path)
        )
    path = build.model_path or request.model_path
    if build.model_path is not None and signature_of(request, path) != signature:
        expected = f"what {request.model_path.name} takes and gives"
        raise mismatch(Code.MODEL_SIGNATURE, f"variant {build.name!r}: inputs and outputs of {path}", expected=expected, actual="others")
    return Part(build.name, request.runs_as, {path.name: path}, requirements=build.requirements)


def _foreign_case(
    request: PublishRequest, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> tuple[golden.Case | None, core.Golden | None]:
    path = request.golden_path
    if path is None:
        return None, None
    if path.suffix.lower() in SUFFIXES:
        arrays, terms = read_prompts(path, inputs, outputs)
        data = pack_golden(arrays.inputs, arrays.outputs)
    else:
        data, terms = golden.read(path), GoldenTerms()
        arrays = core.parse_golden(str(path), data, inputs, outputs, answered=False, one_by_one=True)
    if arrays.outputs:
        return golden.given_case(str(path), data, inputs, outputs, _with(request.golden_terms, terms)), None
    if request.answers is None:
        raise mismatch(
            Code.GOLDEN_INVALID,
            f"{path}: answers",
            expected=f"one for each input, or fleetcast-node here to ask {request.model_path.name}",
            actual="none",
        )
    return golden.Case(data, arrays, _with(request.golden_terms, terms)), arrays


def answered(described: Described, answers: Mapping[str, core.Array], *, what: str) -> Described:
    """Return the description with the model's answers to the golden inputs that had none.

    Raises:
        Refused: GOLDEN_INVALID: these are not answers of this model.
    """
    assert described.unanswered is not None  # noqa: S101  # the caller has looked
    assert described.case is not None  # noqa: S101
    data = golden.answered(described.unanswered, answers)
    case = golden.given_case(what, data, described.inputs, described.outputs, described.case.terms)
    return replace(described, case=case, unanswered=None)


def _with(requested: GoldenTerms, of_file: GoldenTerms) -> GoldenTerms:
    """Return the golden file's terms, overridden by the release's."""
    return GoldenTerms(**{**of_file.stated, **requested.stated})


def _check_declared(request: PublishRequest, model: OnnxModel) -> None:
    for side, declared, found in (("inputs", request.inputs, model.inputs), ("outputs", request.outputs, model.outputs)):
        if declared is not None and declared != found:
            what = f"{request.model_path}: {side}"
            raise mismatch(Code.MODEL_SIGNATURE, what, expected=core.signature(declared), actual=core.signature(found))


def _check_compatible(request: PublishRequest, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Compare the release with its predecessor before any variant is made, which may take minutes."""
    if request.predecessor is not None:
        optional = optional_inputs(request.parameters)
        check_published(Signature(request.name, request.version, inputs, outputs, optional, (request.runs_as,)), request.predecessor)


def check_request(request: PublishRequest) -> None:
    """Check that the request is consistent, before any file is opened.

    Raises:
        Refused: REFERENCE_INVALID or SETTINGS_INVALID.
    """
    if request.runs_as != ONNX and request.reference is not None:
        raise Refused(
            Code.REFERENCE_INVALID, f"{request.model_path} is run as {request.runs_as!r}: the hub cannot run it, so omit the reference"
        )
    if request.runs_as != ONNX and (request.variants.held_out is not None or request.variants.calibration is not None):
        reason = f"{request.model_path} is run as {request.runs_as!r}: nothing here runs it, so it cannot be measured or calibrated"
        raise Refused(Code.REFERENCE_INVALID, reason)
    if request.runs_as != LITERT and request.input_shapes:
        raise mismatch(
            Code.SETTINGS_INVALID,
            "input_shapes",
            expected="none, for a model that is not .tflite",
            actual=core.listed([*request.input_shapes]),
        )
    if request.runs_as == FILES and request.golden_path is not None:
        raise Refused(Code.GOLDEN_INVALID, f"{request.model_path} is delivered as files and no runtime runs it; omit the golden inputs")
    if request.golden_path is not None and not request.proves:
        raise Refused(Code.GOLDEN_INVALID, f"{request.golden_path} has golden inputs, and the release is to have none; omit one of the two")
    if request.reference is None:
        given: dict[str, object] = {"block column": request.blocks_column, "time column": request.time_column}
        given |= {"signals": request.signals} if request.calibration_rows is None else {}
        rows = request.variants.held_out or request.variants.calibration or (request.accuracy and request.accuracy.rows)
        given |= {} if rows else {"feature columns": request.feature_columns}
        needless = [what for what, value in given.items() if value is not None]
        if needless:
            raise Refused(Code.REFERENCE_INVALID, f"{' and '.join(needless)} need a reference; give one with --reference or omit them")
    names = [build.name for build in request.variants.builds]
    if len(set(names)) != len(names) or not names:
        raise mismatch(Code.SETTINGS_INVALID, "variants", expected="at least one, each name once", actual=core.listed(names))
    taken = {GOLDEN_FILE} & {path.name.casefold() for path in request.more_files}
    if taken:
        raise mismatch(
            Code.ARTIFACT_PATH,
            "files of a release",
            expected=f"no {GOLDEN_FILE}, which golden inputs have",
            actual=core.listed(sorted(taken)),
        )
