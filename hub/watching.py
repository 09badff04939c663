"""What becomes of a reference: the signals that nodes count, the baseline they are compared with, and the noise on every count."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hub.core import release as core
from hub.core.baseline import build_baseline
from hub.core.noise import sigma2_for
from hub.onnxmodel import Arrays, OnnxModel
from hub.request import PublishRequest
from schemas.errors import Code, mismatch
from schemas.manifest import Baseline, Privacy

BATCH_ROWS = 4096  # of the reference, run through the model at a time


@dataclass(frozen=True, slots=True)
class Watch:
    """What becomes of a reference."""

    fitted: core.Fitted | None = None
    baseline: Baseline | None = None
    privacy: Privacy | None = None
    unwatched: tuple[str, ...] = ()


def watch(request: PublishRequest, model: OnnxModel) -> Watch:
    """The signals, baseline and noise of a release; nothing where no reference is given.

    Raises:
        Refused: the reference does not fit the model, or the model cannot answer it.
    """
    if request.reference is None:
        return Watch()
    named = request.feature_columns if request.feature_columns is not None else model.columns
    fitted = request.reference.fit(model.inputs, model.outputs, named=named, blocks_column=request.blocks_column)
    signals, unwatched = core.watched(fitted, _outputs_over(request, model, fitted), request.signals)
    numerator, denominator = sigma2_for(request.epsilon, request.delta, len(signals))
    try:
        baseline = build_baseline(signals, fitted.blocks)
        privacy = Privacy(
            epsilon=request.epsilon,
            delta=request.delta,
            sigma2_numerator=numerator,
            sigma2_denominator=denominator,
            window_seconds=request.window_seconds,
        )
    except ValidationError as error:
        raise core.invalid(Code.REFERENCE_INVALID, "baseline", error) from None
    return Watch(fitted, baseline, privacy, unwatched)


def _outputs_over(request: PublishRequest, model: OnnxModel, fitted: core.Fitted) -> Arrays:
    """What the model answers to the reference, [rows, ...]: outputs that have a value a row, or that a signal names."""
    parts: dict[str, list[NDArray[Any]]] = {tensor.name: [] for tensor in model.outputs}
    step = rows_max(model, BATCH_ROWS)
    for at in range(0, fitted.rows, step):
        request.progress("running the reference", at, fitted.rows)
        rows = min(step, fitted.rows - at)
        feeds = core.feeds(fitted.features, {name: column[at : at + rows] for name, column in fitted.columns.items()})
        for name, values in model.run(feeds, Code.MODEL_RUN).items():
            by_row = values.ndim > 0 and len(values) == rows
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                row = at + int(np.argwhere(~np.isfinite(values))[0][0]) if by_row else at
                raise mismatch(
                    Code.MODEL_RUN, f"output {name!r} of reference row {row}", expected="finite numbers", actual="NaN or infinity"
                )
            wanted = values.size == rows or any(signal.startswith(f"{name}[") for signal in request.signals or ())
            if not (by_row and wanted):
                parts.pop(name, None)
            elif name in parts:
                parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def rows_max(model: OnnxModel, rows: int) -> int:
    """How many rows a model takes at a time, `rows` at the most."""
    return 1 if any(tensor.shape[:1] == (1,) for tensor in model.inputs) else rows
