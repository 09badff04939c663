"""Derive from a reference the signals that nodes count, the baseline they are compared with, and the noise on every count."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fleetcast.counted import counted
from hub.core.publish import release as core
from hub.core.publish import signals
from hub.core.publish.baseline import Times, build_baseline
from hub.core.publish.laplace import laplace_for
from hub.core.publish.noise import sigma2_for
from hub.publish.onnx_model import Arrays, OnnxModel
from hub.publish.publish_request import Noise, PublishRequest
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Tensor
from schemas.signals import Baseline, Privacy

OUTPUT_VALUES_MAX = 4096  # Values per row; in wider outputs, only named columns are watched.
BATCH_ROWS = 4096  # Rows of the reference that run through the model at a time.


@dataclass(frozen=True, slots=True)
class Watch:
    """Hold the signals, the baseline and the noise that come from a reference."""

    fitted: core.Fitted | None = None
    baseline: Baseline | None = None
    privacy: Privacy | None = None
    unwatched: tuple[signals.Unwatched, ...] = ()
    not_calibrated: str = ""  # Why nodes get no baselines of their own, although they would by default.


def fit(request: PublishRequest, model: OnnxModel) -> core.Fitted | None:
    """Return the reference as the model takes it; None without one.

    Raises:
        Refused: REFERENCE_INVALID: it does not fit the model.
    """
    if request.reference is None:
        return None
    return request.reference.fit(
        model.inputs,
        model.outputs,
        named=request.feature_columns if request.feature_columns is not None else model.columns,
        blocks_column=request.blocks_column,
        time_column=request.time_column,
        order_before=request.order_before,
    )


def names_for(request: PublishRequest, model: OnnxModel, fitted: core.Fitted | None) -> Sequence[str] | None:
    """Return the feature columns in the model's order, by which other tables than the reference are read; None where nothing names them."""
    named = request.feature_columns if request.feature_columns is not None else model.columns
    if named is None and fitted is not None and fitted.ordered_by == "file":
        return [feature.column for feature in sorted(fitted.features, key=lambda feature: feature.place)]
    return named


def watch(request: PublishRequest, model: OnnxModel, fitted: core.Fitted | None) -> Watch:
    """Return the signals, baseline and noise of a release; nothing is watched without a reference or nodes' own baselines.

    Raises:
        Refused: the model cannot answer the reference, or the request names a signal that does not exist.
    """
    if fitted is None and request.calibration_rows is None:
        return _nothing((*model.inputs, *model.outputs))
    answers = {} if fitted is None else _outputs_over(request, model, fitted)
    return _watched(
        request, signals.Model(model.inputs, model.outputs, request.limits, fitted, answers, request.calibration_rows is not None)
    )


def watch_unread(request: PublishRequest, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Watch:
    """Return signals for a model that cannot run here: generated answers and the service, compared with each node's own baseline.

    Raises:
        Refused: the request names a signal that does not exist.
    """
    if request.calibration_rows is None or not outputs:
        return _nothing((*inputs, *outputs))
    return _watched(request, signals.Model(inputs, outputs, request.limits, calibrates=True))


def _nothing(tensors: Sequence[Tensor]) -> Watch:
    return Watch(unwatched=tuple(signals.Unwatched(tensor.name, "there is no reference") for tensor in tensors))


def _watched(request: PublishRequest, known: signals.Model) -> Watch:
    fitted = known.fitted
    candidates, unwatched = signals.declared(known, request.signals)
    if any(one.rows is None for one in candidates) and request.calibration_rows is None:
        bare = [one.spec.name for one in candidates if one.rows is None]
        what = f"reference of {core.listed(bare)}"
        raise mismatch(Code.REFERENCE_INVALID, what, expected="the node's own, after --calibrate-rows", actual="none")
    try:
        noise = noise_for(request.noise, request.epsilon, request.delta, window_seconds=request.window_seconds, signals=len(candidates))
        rho = noise.rho(len(candidates))
        if request.calibration_rows is not None and 2 * rho > request.rho_day_max:
            return _uncalibrated(request, known, rho, len(candidates))
        return Watch(fitted, _baseline(request, candidates, fitted), noise, unwatched)
    except ValidationError as error:
        raise core.invalid(Code.REFERENCE_INVALID, "baseline", error) from None


def _uncalibrated(request: PublishRequest, known: signals.Model, rho: float, count: int) -> Watch:
    """Return the same without own baselines, if one day's budget cannot pay for a window and the baseline.

    Raises:
        Refused: the request asks for own baselines, or for signals that need them.
    """
    cost = f"rho {2 * rho:.4f} ({rho:.4f} for a window of {counted(count, 'signal')} and as much for the baseline)"
    without = replace(known, calibrates=False)
    if request.calibrates_by_default and all(one.rows is not None for one in signals.declared(without, request.signals)[0]):
        found = _watched(replace(request, calibration_rows=None), without)
        return replace(found, not_calibrated=f"a node may spend rho {request.rho_day_max:g} a day, and its own baseline takes {cost}")
    raise Refused(
        Code.SETTINGS_INVALID,
        f"a node's own baseline: expected at most rho {request.rho_day_max:g} a day, got {cost}, so no node could ever make one; watch"
        " fewer signals, take a smaller epsilon, or --calibrate-rows 0; if nodes' settings allow more, give the value with --rho-day-max",
    )


def _baseline(request: PublishRequest, candidates: Sequence[signals.Candidate], fitted: core.Fitted | None) -> Baseline:
    values = [(one.spec, one.spec.measured(one.rows)) for one in candidates if one.rows is not None]
    bare = [one.bare() for one in candidates if one.rows is None]
    times = None if fitted is None or fitted.times is None else Times(fitted.times, request.season)
    if times is not None and request.window_seconds > 3600 * times.season.hours:
        what = "--window-seconds with hours compared separately"
        raise mismatch(Code.SETTINGS_INVALID, what, expected=f"at most {3600 * times.season.hours}", actual=request.window_seconds)
    blocks = None if fitted is None else fitted.blocks
    return build_baseline(values, blocks, times=times, calibration_rows=request.calibration_rows, unreferenced=bare)


def noise_for(kind: Noise, epsilon: float, delta: float, *, window_seconds: int, signals: int) -> Privacy:
    """Return the noise of windows in which a record touches one bin in each of this many signals."""
    if kind == "laplace":
        scale, sigma2 = laplace_for(epsilon, signals)
        return Privacy(
            epsilon=epsilon,
            delta=0.0,
            sigma2_numerator=sigma2[0],
            sigma2_denominator=sigma2[1],
            window_seconds=window_seconds,
            laplace_numerator=scale[0],
            laplace_denominator=scale[1],
        )
    numerator, denominator = sigma2_for(epsilon, delta, signals)
    return Privacy(
        epsilon=epsilon,
        delta=delta,
        sigma2_numerator=numerator,
        sigma2_denominator=denominator,
        window_seconds=window_seconds,
    )


def _outputs_over(request: PublishRequest, model: OnnxModel, fitted: core.Fitted) -> Arrays:
    """Return the model's answers to the reference, [rows, ...], for outputs with one value per row or that a signal names."""
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
            asked = any(signal.startswith((f"{name}[", f"{name}:")) for signal in request.signals or ())
            wanted = asked or (request.signals is None and values.size <= rows * OUTPUT_VALUES_MAX) or values.size == rows
            if not (by_row and wanted):
                parts.pop(name, None)
            elif name in parts:
                parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def rows_max(model: OnnxModel, rows: int) -> int:
    """Return how many rows a model takes at a time, at most `rows`."""
    return 1 if any(tensor.shape[:1] == (1,) for tensor in model.inputs) else rows
