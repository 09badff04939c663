"""Turn a staged release into a warm worker with evidence, or a refusal and no process. Knows no request, slot or HTTP."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, Literal

import numpy as np

from fleetcast.joining.row_proof import Tried, try_rows
from node.core.activation import golden
from node.core.activation.effective_parameters import EffectiveParameters
from node.core.inference.tensors import DATATYPES, DTYPES, Array, Raw, Spec, array_of, check_signature, raw_of
from node.serving.batching import SECONDS_MAX
from node.workers.inline import Inline
from node.workers.worker_handle import REQUEST_SECONDS_MAX, Load, Runner, Worker
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Golden, Joining, Manifest, Tensor
from schemas.receipt import Evidence

WARM_RUNS: Final = 3  # the first run allocates, the second plans memory
LATENCY_RUNS: Final = 21  # odd: the median is one of them
LATENCY_SECONDS_MAX: Final = 3.0  # a slow model is measured on fewer runs; it is still measured
MIN_RUNS: Final = 3
ROWS_WORTH: Final = 2  # Rows of one question from which on joining is worth anything.
HUNG_TIMES: Final = 10.0  # a request that takes this many times the release's own limit is not slow, it hangs
SYNTHETIC_AXIS: Final = 1  # A free axis's length, where no golden input sets it.


@dataclass(frozen=True, slots=True)
class Staged:
    """Hold a verified release on disk. `model_path` is the first file of its variant, with the other files beside it."""

    model: str
    version: str
    digest: bytes
    manifest: Manifest
    model_path: Path
    golden_path: Path | None
    threads: int = 1
    runtime: str = "onnx"
    variant: str = ""  # the first, where none is named
    providers: tuple[str, ...] = ()
    parameters: EffectiveParameters = field(default_factory=EffectiveParameters)
    isolation: Literal["process", "inline"] = "process"
    cores: tuple[int, ...] = ()
    check: Callable[[], Iterator[None]] | None = None  # compares the files with the manifest, a stretch at a time
    rollout: str = ""  # The id under which its worker is logged.

    @property
    def golden(self) -> Golden | None:
        """Return what this variant has to answer."""
        chosen = next((one for one in self.manifest.variants if one.name == self.variant), self.manifest.variants[0])
        return self.manifest.golden_of(chosen)

    @property
    def joining(self) -> Joining | None:
        """Return what its publisher found when it tried to join rows of this variant; None where it did not try."""
        return next((one for one in self.manifest.variants if one.name == self.variant), self.manifest.variants[0]).joining

    @property
    def load(self) -> Load:
        """Return how its model is to be loaded. A model that is slow by its own limits is not taken for one that hangs."""
        bounds = self.manifest.limits
        return Load(
            self.model_path,
            runtime=self.runtime,
            threads=self.threads,
            providers=self.providers,
            parameters=self.parameters.runtime,
            inputs=specs_of(self.manifest.inputs),
            memory_bytes_max=bounds.memory_bytes_max,
            cores=self.cores,
            request_seconds=max(REQUEST_SECONDS_MAX, HUNG_TIMES * bounds.latency_ms_max / 1e3),
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """Report that the release is warm and loaded; `evidence` lacks only what the transfer knows."""

    digest: bytes
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Activated:
    """Hold a proven worker. `sample` is one row (or the golden batch, where no axis is free), to warm up another worker with.

    `joins_rows`: rows of several requests may be asked together, since the runtime says that the graph keeps rows apart, and golden rows
    were answered alike whatever stood beside them, here or where the release was published; `row_seconds` is what one of them takes.
    """

    worker: Runner
    evidence: Evidence
    sample: tuple[Raw, ...]
    joins_rows: bool = False
    row_seconds: float = 0.0


def specs_of(tensors: Sequence[Tensor]) -> tuple[Spec, ...]:
    """Return the manifest's tensors as plain values."""
    return tuple(Spec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)


async def start(staged: Staged, *, urgent: bool = False) -> Runner:
    """Return the model, loaded: in a process of its own, or in this one. Urgent: though it takes the processor from what is served
    meanwhile.

    Raises:
        Refused: MODEL_LOAD, MODEL_TOO_LARGE, RUNTIME_ABSENT, WORKER_CRASHED or WORKER_HUNG.
    """
    return await (Inline.start(staged.load) if staged.isolation == "inline" else Worker.start(staged.load, urgent=urgent))


StartWorker = Callable[..., Awaitable[Runner]]  # `start`; another in a simulated fleet, where a worker is no process


async def check_files(staged: Staged) -> None:
    """Compare the files on disk with the manifest, in a thread, right before they are loaded.

    Raises:
        Refused: DISK_DAMAGED, where one is missing, cannot be read or differs.
    """
    if staged.check is None:
        return
    steps, given_up = staged.check(), threading.Event()

    def run() -> None:
        for _ in steps:
            if given_up.is_set():
                return

    try:
        await asyncio.to_thread(run)
    finally:
        given_up.set()  # nobody waits for the rest of a large file


async def activate(staged: Staged, *, urgent: bool = False, start: StartWorker = start) -> Activated:
    """Start a worker and have it prove itself on this device. Urgent: as `start`.

    Raises:
        Refused: as `check_files` and `start`, and MODEL_SIGNATURE, GOLDEN_INVALID, MODEL_GOLDEN, MODEL_RUN, MODEL_NOT_FINITE,
            MODEL_TOO_SLOW; the worker is gone.
    """
    await check_files(staged)
    started = time.perf_counter()
    worker = await start(staged, urgent=urgent)
    load_ms = (time.perf_counter() - started) * 1e3
    try:
        check_signature("inputs", declared=specs_of(staged.manifest.inputs), found=worker.inputs)
        check_signature("outputs", declared=specs_of(staged.manifest.outputs), found=worker.outputs)
        proof = await _self_test(worker, staged)
        latency_ms = await _latency_ms(worker, staged, proof.sample)
        memory_bytes = await worker.memory_bytes()
        _check_limits(staged.manifest, latency_ms, memory_bytes)
    except BaseException:
        await worker.close()
        raise
    evidence = Evidence(
        golden_error_max=proof.error_max,
        golden_rows=proof.rows,
        load_ms=load_ms,
        latency_ms=latency_ms,
        memory_bytes=memory_bytes,
        variant=staged.variant or None,
        threads=staged.threads,
    )
    return Activated(worker, evidence, proof.sample, proof.joins_rows, row_seconds=latency_ms / 1e3)


async def warm(worker: Runner, staged: Staged, sample: Sequence[Raw]) -> None:
    """Run the model until its buffers are there.

    Raises:
        Refused: the model fails, or the worker does.
    """
    for _ in range(WARM_RUNS):
        await worker.infer(sample, staged.parameters.runtime)


@dataclass(frozen=True, slots=True)
class _Proof:
    sample: tuple[Raw, ...]
    error_max: float = 0.0
    rows: int = 0
    joins_rows: bool = False


async def _self_test(worker: Runner, staged: Staged) -> _Proof:
    inputs, outputs = specs_of(staged.manifest.inputs), specs_of(staged.manifest.outputs)
    terms = staged.golden
    if terms is None or staged.golden_path is None:
        if terms is not None:
            raise Refused(Code.GOLDEN_INVALID, f"the manifest names golden inputs ({terms.file.path}), and none are staged")
        sample = tuple(_blank(spec) for spec in inputs)
        try:
            answers = await _asked(worker, staged, sample)
        except Refused as refusal:
            if refusal.code is not Code.REQUEST_INVALID:
                raise
            asked = ", ".join(f"{raw.name} {list(raw.shape)}" for raw in sample)
            reason = f"without golden inputs it is asked with zeros ({asked}), which it does not take: {refusal.reason}"
            raise Refused(Code.GOLDEN_INVALID, reason) from None
        _check_answers(outputs, answers, known={})
        return _Proof(sample)
    case = await asyncio.to_thread(_read_golden, staged.golden_path)  # unpacking must not hold up requests
    questions = golden.questions(case, inputs)
    answers = await answers_of(worker, staged, questions)
    error_max = await asyncio.to_thread(
        golden.compare,
        case.outputs,
        answers,
        relative=terms.relative_tolerance,
        absolute=terms.absolute_tolerance,
        text_agreement_min=terms.text_agreement_min,
    )
    if len(questions) == 1:
        _check_answers(outputs, answers, known=case.outputs)
    one_row, fitted = all(spec.shape[:1] == (-1,) for spec in inputs), questions[0]
    sample = tuple(raw_of(name, array[:1] if one_row else array) for name, array in fitted.items())
    free = one_row and all(spec.shape[:1] == (-1,) for spec in outputs)
    joins = free and worker.rows_apart and await _rows_apart(worker, staged, fitted, answers, case.rows)
    return _Proof(sample, error_max, case.rows, joins)


async def answers_of(worker: Runner, staged: Staged, asked: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return what the model answers to golden questions, joined row by row where there are several.

    Raises:
        Refused: the model fails on one, or MODEL_SIGNATURE where an answer to one row is not of the shape that the manifest says.
    """
    found: list[dict[str, Array]] = []
    for question in asked:
        answer = await _asked(worker, staged, [raw_of(name, array) for name, array in question.items()])
        if len(asked) > 1:
            _check_answers(specs_of(staged.manifest.outputs), answer, known=answer)
        found.append(answer)
    return found[0] if len(found) == 1 else {name: np.concatenate([one[name] for one in found]) for name in found[0]}


async def _asked(worker: Runner, staged: Staged, raws: Sequence[Raw]) -> dict[str, Array]:
    return {raw.name: array_of(raw) for raw in await worker.infer(raws, staged.parameters.runtime)}


async def _rows_apart(worker: Runner, staged: Staged, fitted: Mapping[str, Array], together: Mapping[str, Array], rows: int) -> bool:
    """Return whether rows of several requests may be joined: by what the manifest states of this variant, or else by trying it here.

    What was proved where the release was published holds for the processor. A variant for other providers is tried on them.
    """
    stated = staged.joining
    if stated is not None and (not stated.together or not staged.providers):
        return stated.together
    trying = try_rows(fitted, together, rows)
    taken: list[float] = []
    try:
        question = next(trying)
        while True:
            began = time.perf_counter()
            answers = await _asked_or_none(worker, staged, question)
            taken.append((time.perf_counter() - began) / max(1, len(next(iter(question.values())))))
            if len(taken) >= MIN_RUNS and min(taken) * ROWS_WORTH > SECONDS_MAX:
                return False  # So slow that no second row would be joined to one: the rest is not worth trying.
            question = trying.send(answers)
    except StopIteration as end:
        found: Tried = end.value
        return found.apart


async def _asked_or_none(worker: Runner, staged: Staged, question: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return the answers to a question that the model may refuse."""
    try:
        return await _asked(worker, staged, [raw_of(name, array) for name, array in question.items()])
    except Refused as refusal:
        if refusal.code not in {Code.MODEL_GOLDEN, Code.MODEL_RUN, Code.MODEL_TOO_LARGE, Code.REQUEST_INVALID}:
            raise
        return None


def _check_answers(specs: Sequence[Spec], answers: Mapping[str, Array], *, known: Mapping[str, Array]) -> None:
    """Check whether what the model gave is what it says it gives. Where golden outputs are known, `golden.compare` has looked for NaN
    already.

    Raises:
        Refused: MODEL_SIGNATURE or MODEL_NOT_FINITE.
    """
    for spec in specs:
        answer = answers[spec.name]
        datatype = "BYTES" if answer.dtype.kind == "O" else DATATYPES[answer.dtype]
        if datatype != spec.datatype:
            raise mismatch(Code.MODEL_SIGNATURE, f"datatype of {spec.name}", expected=spec.datatype, actual=datatype)
        fits = len(answer.shape) == len(spec.shape) and all(want in (-1, have) for want, have in zip(spec.shape, answer.shape, strict=True))
        if not fits:
            raise mismatch(Code.MODEL_SIGNATURE, f"shape of {spec.name}", expected=list(spec.shape), actual=list(answer.shape))
        if answer.dtype.kind == "f" and spec.name not in known and not np.isfinite(answer).all():
            raise mismatch(Code.MODEL_NOT_FINITE, f"output {spec.name}", expected="finite numbers", actual="NaN or infinity")


def _read_golden(path: Path) -> golden.GoldenCase:
    try:
        if path.stat().st_size > golden.GOLDEN_BYTES_MAX:
            raise mismatch(Code.GOLDEN_INVALID, "golden bytes", expected=f"at most {golden.GOLDEN_BYTES_MAX}", actual=path.stat().st_size)
        return golden.parse(path.read_bytes())
    except OSError as error:
        raise Refused(Code.GOLDEN_INVALID, f"the golden file cannot be read: {error.strerror}") from None


async def _latency_ms(worker: Runner, staged: Staged, sample: Sequence[Raw]) -> float:
    await warm(worker, staged, sample)
    taken: list[float] = []
    while len(taken) < LATENCY_RUNS and (len(taken) < MIN_RUNS or sum(taken) < LATENCY_SECONDS_MAX):
        began = time.perf_counter()
        await worker.infer(sample, staged.parameters.runtime)
        taken.append(time.perf_counter() - began)
    return median(taken) * 1e3


def _check_limits(manifest: Manifest, latency_ms: float, memory_bytes: int) -> None:
    bounds = manifest.limits
    if latency_ms > bounds.latency_ms_max:
        raise mismatch(
            Code.MODEL_TOO_SLOW,
            "median latency of a request",
            expected=f"at most {bounds.latency_ms_max:g} ms",
            actual=f"{latency_ms:.3g} ms",
        )
    if memory_bytes > bounds.memory_bytes_max:
        raise mismatch(
            Code.MODEL_TOO_LARGE,
            "memory of the worker",
            expected=f"at most {bounds.memory_bytes_max} bytes",
            actual=f"{memory_bytes} bytes",
        )


def _blank(spec: Spec) -> Raw:
    shape = tuple(SYNTHETIC_AXIS if axis < 0 else axis for axis in spec.shape)
    dtype = np.dtype(str) if spec.datatype == "BYTES" else DTYPES[spec.datatype]
    return raw_of(spec.name, np.zeros(shape, dtype))
