"""Make the builds of an ONNX model: load each, measure it against the original, and keep it or leave it out with a reason."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from hub.core.delivery.chunker import TensorSpan
from hub.core.publish import accuracy_eval
from hub.core.publish import release as core
from hub.core.publish.samples import Samples
from hub.publish import golden, quantise
from hub.publish.chunk_files import GOLDEN_FILE, MODEL_FILE
from hub.publish.joined_rows import joining_of
from hub.publish.onnx_model import OnnxModel, external_data
from hub.publish.publish_request import ONNX, Build, PublishRequest
from hub.publish.signal_selection import names_for
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Joining, Measured, Requirements

LATENCY_RUNS = 51  # The number is odd, so the median is one of the runs.
LATENCY_SECONDS_MAX = 1.0  # Time per build; a slow one is measured on fewer runs.
LATENCY_RUNS_MIN = 3
ROUNDS = {"int8", "int8-static", "fp16"}  # Builds that compute in fewer bits than the original.
Files = tuple[dict[str, Path], dict[str, list[TensorSpan]]]  # Paths by the name on a device, and the tensors of each file if known.


@dataclass(frozen=True)
class Part:
    """Describe a build that is published: its files by the name on a device, and positions of tensors if the file does not list them.

    `case` is its own golden case; None if it answers as the original does.
    """

    name: str
    runtime: str
    paths: Mapping[str, Path]
    spans: Mapping[str, list[TensorSpan]] = field(default_factory=dict)
    requirements: Requirements = field(default_factory=Requirements)
    case: golden.Case | None = None
    measured: Measured | None = None
    joining: Joining | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Describe a build that was requested and is not published."""

    name: str
    code: Code
    reason: str


def files_of(path: Path) -> Files:
    """Return an ONNX model's files by the name on a device, and the tensors of those that hold external data.

    Raises:
        Refused: the file is not ONNX, points outside its folder, or takes a reserved name.
    """
    external = external_data(path)
    taken = {MODEL_FILE, GOLDEN_FILE} & {name.casefold() for name in external}
    if taken:
        raise mismatch(Code.MODEL_EXTERNAL_DATA, f"{path}: external data", expected="other names", actual=core.listed(list(external)))
    return {MODEL_FILE: path, **{name: path.parent / name for name in external}}, external


def make_variants(
    request: PublishRequest, original: OnnxModel, files: Files, case: golden.Case | None, fitted: core.Fitted | None, scratch: Path
) -> tuple[tuple[Part, ...], tuple[LeftOut, ...]]:
    """Make every requested build; new files are in the scratch folder.

    Raises:
        Refused: the held-out or calibration rows do not fit the model; or a build fails or loses too much, and all are required or none is
        left.
    """
    workshop = _Workshop(request, original, files, case, fitted, scratch)
    parts: list[Part] = []
    left_out: list[LeftOut] = []
    for build in request.variants.builds:
        try:
            parts.append(workshop.make(build))
        except Refused as refusal:
            if refusal.code not in {Code.VARIANT_FAILED, Code.VARIANT_LOSS} or request.variants.all_or_none:
                raise
            left_out.append(LeftOut(build.name, refusal.code, refusal.reason))
    if not parts:
        raise Refused(left_out[0].code, f"no variant is left to publish: {'; '.join(one.reason for one in left_out)}")
    return tuple(parts), tuple(left_out)


class _Workshop:
    """Make and measure one build after another; results that all share are computed once."""

    def __init__(
        self,
        request: PublishRequest,
        original: OnnxModel,
        files: Files,
        case: golden.Case | None,
        fitted: core.Fitted | None,
        scratch: Path,
    ) -> None:
        self._request, self._original, self._files, self._case, self._scratch = request, original, files, case, scratch
        self._golden_inputs = case.arrays.inputs if case is not None else None
        terms, named = request.variants, names_for(request, original, fitted)
        signature = original.inputs, original.outputs
        self._calibration = terms.calibration.fit(*signature, named=named) if terms.calibration is not None else None
        self._rows: Samples | None = None
        if terms.held_out is not None:
            self._rows = terms.held_out.fit(*signature, named=named)
        elif any(_is_made(build) for build in terms.builds):
            if fitted is None:
                expected = "held-out rows (held_out = ...), or a reference, to measure it on"
                raise mismatch(Code.REFERENCE_INVALID, "rows to measure variants with", expected=expected, actual="neither")
            self._rows = Samples(core.feeds(fitted.features, fitted.columns))
        if self._rows is not None:
            self._answers = answers_over(original, self._rows, Code.REFERENCE_INVALID)
            self._ruler = accuracy_eval.ruler(self._rows.truth, self._answers, terms.output)
            self._score = accuracy_eval.score(self._ruler, self._rows.truth, self._answers, self._answers)

    def make(self, build: Build) -> Part:
        """Make one build.

        Raises:
            Refused: VARIANT_FAILED or VARIANT_LOSS.
        """
        if not _is_made(build):
            paths, spans = self._files
            measured = self._measure(build, self._original) if self._rows is not None else None
            joining = joining_of(self._request.model_path, self._original, self._golden_inputs)
            return Part(build.name, ONNX, paths, spans, build.requirements, None, measured, joining)
        self._request.progress(f"making {build.name}", 0, 1)
        what = f"variant {build.name!r}"
        if build.how == "as-is" and build.model_path is not None and not build.sparsity:
            paths, spans = files_of(build.model_path)
        else:
            source = build.model_path or self._request.model_path
            files_of(source)  # This checks that its external data, if any, is its own.
            target = self._scratch / f"{build.name}.onnx"
            quantise.make(what, source, target, build.how, sparsity=build.sparsity, calibration=self._calibration)
            paths, spans = {MODEL_FILE: target}, {}
        model = self._load(what, paths[MODEL_FILE])
        measured = self._measure(build, model)
        case = golden.own_case(build.name, self._case, model, rounds=build.how in ROUNDS) if self._case is not None else None
        joining = joining_of(paths[MODEL_FILE], model, self._golden_inputs)
        return Part(build.name, ONNX, paths, spans, build.requirements, case, measured, joining)

    def _load(self, what: str, path: Path) -> OnnxModel:
        try:
            model = OnnxModel(path)
        except Refused as refusal:
            raise Refused(Code.VARIANT_FAILED, f"{what} was made, but {refusal.reason.replace(str(path), 'it')}") from None
        for side, want, have in (("inputs", self._original.inputs, model.inputs), ("outputs", self._original.outputs, model.outputs)):
            if want != have:
                expected = f"the original's {core.signature(want)}"
                raise mismatch(Code.VARIANT_FAILED, f"{what}: {side}", expected=expected, actual=core.signature(have))
        return model

    def _measure(self, build: Build, model: OnnxModel) -> Measured:
        assert self._rows is not None  # noqa: S101  # a caller that makes a build has rows
        self._request.progress(f"measuring {build.name}", 0, self._rows.rows)
        what = f"variant {build.name!r}"
        answers = self._answers if model is self._original else answers_over(model, self._rows, Code.VARIANT_FAILED)
        if model is not self._original:
            answers = {name: values for name, values in answers.items() if name in self._answers}
            accuracy_eval.check_answers(what, self._answers, answers)
            accuracy_eval.finite(what, self._answers, answers)
        score = accuracy_eval.score(self._ruler, self._rows.truth, self._answers, answers)
        accuracy_eval.check_loss(build.name, self._ruler, original=self._score, scored=score, loss_max=self._request.variants.loss_max)
        original_ms, own_ms = _latencies(self._rows, self._original, model)
        return Measured(
            rows=self._rows.rows,
            metric=self._ruler.metric,
            score=round(score, 6),
            original=round(self._score, 6),
            latency_ms=round(own_ms, 4),
            original_latency_ms=round(original_ms, 4),
        )


def _is_made(build: Build) -> bool:
    """Return whether the build is another model than the release's."""
    return build.how != "as-is" or build.model_path is not None or build.sparsity > 0


def answers_over(model: OnnxModel, rows: Samples, code: Code) -> dict[str, core.Array]:
    """Return a model's answers to all rows, by output.

    Raises:
        Refused: the model cannot answer them; or, with `code`, no output has one answer per row.
    """
    parts: dict[str, list[core.Array]] = {}
    one_by_one = any(tensor.shape[:1] == (1,) for tensor in model.inputs)
    for _, _, feeds in rows.batches(1) if one_by_one else rows.batches():
        for name, values in model.run(feeds, code).items():
            parts.setdefault(name, []).append(values[np.newaxis] if rows.alone else values)
    found = accuracy_eval.by_row(parts, rows.rows)
    if not found:
        raise mismatch(code, "outputs over the held-out rows", expected="one with an answer a row", actual=core.listed(list(parts)))
    return found


def _latencies(rows: Samples, *models: OnnxModel) -> list[float]:
    """Return the median time of one row in milliseconds for each model. They take turns, so that other load affects all alike."""
    feeds = rows.feeds(0, 1)
    taken: list[list[float]] = [[] for _ in models]
    for model in models:
        model.run(feeds, Code.VARIANT_FAILED)  # The first run allocates memory.
    began = time.perf_counter()
    while len(taken[0]) < LATENCY_RUNS_MIN or (
        len(taken[0]) < LATENCY_RUNS and time.perf_counter() - began < LATENCY_SECONDS_MAX * len(models)
    ):
        for model, times in zip(models, taken, strict=True):
            start = time.perf_counter()
            model.run(feeds, Code.VARIANT_FAILED)
            times.append(time.perf_counter() - start)
    return [median(times) * 1e3 for times in taken]
