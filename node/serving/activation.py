"""A staged release becomes a warm worker with evidence, or a refusal and no process. Knows no request, slot or HTTP."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from node.core import golden
from node.core.tensors import DTYPES, Raw, Spec, array_of, check_signature, raw_of
from node.workers import Worker
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Manifest, Tensor
from schemas.receipt import Evidence

WARM_RUNS: Final = 3  # the first run allocates, the second plans memory
LATENCY_RUNS: Final = 21  # odd: the median is one of them
LATENCY_SECONDS_MAX: Final = 3.0  # a slow model is measured on fewer runs; it is still measured
MIN_RUNS: Final = 3
SYNTHETIC_AXIS: Final = 1  # of a free axis, where no golden input says how long it is


@dataclass(frozen=True, slots=True)
class Staged:
    """A verified release on disk. `model_path` is the first file of its variant, with the other files beside it."""

    model: str
    version: str
    digest: bytes
    manifest: Manifest
    model_path: Path
    golden_path: Path | None
    threads: int = 1
    runtime: str = "onnx"


@dataclass(frozen=True, slots=True)
class Prepared:
    """The release is warm and held; `evidence` lacks only what the transfer knows."""

    digest: bytes
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Activated:
    """A proven worker. `sample` is one row (or the golden batch, where no axis is free), to warm up another worker with."""

    worker: Worker
    evidence: Evidence
    sample: tuple[Raw, ...]


def specs_of(tensors: Sequence[Tensor]) -> tuple[Spec, ...]:
    """The manifest's tensors as plain values."""
    return tuple(Spec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)


async def activate(staged: Staged) -> Activated:
    """Start a worker and have it prove itself on this device.

    Raises:
        Refused: MODEL_LOAD, MODEL_SIGNATURE, GOLDEN_INVALID, MODEL_GOLDEN, MODEL_RUN, MODEL_TOO_SLOW, MODEL_TOO_LARGE, WORKER_CRASHED or
            WORKER_HUNG; the worker is gone.
    """
    started = time.perf_counter()
    worker = await Worker.start(staged.model_path, runtime=staged.runtime, threads=staged.threads)
    load_ms = (time.perf_counter() - started) * 1e3
    try:
        check_signature("inputs", declared=specs_of(staged.manifest.inputs), found=worker.inputs)
        check_signature("outputs", declared=specs_of(staged.manifest.outputs), found=worker.outputs)
        sample, error_max, rows = await _self_test(worker, staged)
        latency_ms = await _latency_ms(worker, sample)
        memory_bytes = await worker.memory_bytes()
        _check_limits(staged.manifest, latency_ms, memory_bytes)
    except BaseException:  # a cancelled activation leaves no process either
        await worker.close()
        raise
    evidence = Evidence(
        golden_error_max=error_max, golden_rows=rows, load_ms=round(load_ms, 3), latency_ms=round(latency_ms, 3), memory_bytes=memory_bytes
    )
    return Activated(worker, evidence, sample)


async def warm(worker: Worker, sample: Sequence[Raw]) -> None:
    """Run the model until its buffers are there.

    Raises:
        Refused: the model fails, or the worker does.
    """
    for _ in range(WARM_RUNS):
        await worker.infer(sample)


async def _self_test(worker: Worker, staged: Staged) -> tuple[tuple[Raw, ...], float, int]:
    inputs = specs_of(staged.manifest.inputs)
    terms = staged.manifest.golden
    if terms is None or staged.golden_path is None:
        if terms is not None:
            raise Refused(Code.GOLDEN_INVALID, f"the manifest names golden inputs ({terms.file.path}), and none are staged")
        return tuple(_blank(spec) for spec in inputs), 0.0, 0
    case = await asyncio.to_thread(_read_golden, staged.golden_path)  # unpacking must not hold up requests
    fitted = golden.fit_inputs(case, inputs)
    raws = [raw_of(name, array) for name, array in fitted.items()]
    answers = {raw.name: array_of(raw) for raw in await worker.infer(raws)}
    error_max = await asyncio.to_thread(
        golden.compare, case.outputs, answers, relative=terms.relative_tolerance, absolute=terms.absolute_tolerance
    )
    one_row = all(spec.shape[:1] == (-1,) for spec in inputs)
    sample = [raw_of(name, array[:1]) for name, array in fitted.items()] if one_row else raws
    return tuple(sample), error_max, case.rows


def _read_golden(path: Path) -> golden.GoldenCase:
    try:
        if path.stat().st_size > golden.GOLDEN_BYTES_MAX:
            raise mismatch(Code.GOLDEN_INVALID, "golden bytes", expected=f"at most {golden.GOLDEN_BYTES_MAX}", actual=path.stat().st_size)
        return golden.parse(path.read_bytes())
    except OSError as error:
        raise Refused(Code.GOLDEN_INVALID, f"the golden file cannot be read: {error.strerror}") from None


async def _latency_ms(worker: Worker, sample: Sequence[Raw]) -> float:
    await warm(worker, sample)
    taken: list[float] = []
    while len(taken) < LATENCY_RUNS and (len(taken) < MIN_RUNS or sum(taken) < LATENCY_SECONDS_MAX):
        began = time.perf_counter()
        await worker.infer(sample)
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
