"""Put together what a publisher is shown of an ONNX release before it is signed."""

from collections.abc import Iterator

from hub.core.publish import preview
from hub.core.publish import release as core
from hub.core.publish.preview import Preview
from hub.publish.golden import Case, Made, refusal_of_zeros
from hub.publish.onnx_model import OnnxModel
from hub.publish.signal_selection import Watch, rows_max
from schemas.errors import Code


def preview_of(model: OnnxModel, watched: Watch, made: Made | None, case: Case | None, *, mended: tuple[str, ...], asks: bool) -> Preview:
    """Return the tables and warnings of a release. With `asks` the model may be run here to find out what devices will find.

    Raises:
        Refused: the model cannot answer the reference.
    """
    fitted = watched.fitted
    signals = watched.baseline.signals if watched.baseline is not None else ()
    golden = None if case is None else f"made from the {made.source}" if made is not None else "given"
    return Preview(
        columns=() if fitted is None else preview.columns_of(fitted, signals),
        outputs=preview.outputs_of(model.outputs, signals, watched.unwatched),
        answers=_answers(model, fitted, case),
        warnings=(
            *(f"{one}: the published file differs from the given one" for one in mended),
            *preview.warnings_of(fitted, signals, watched.unwatched),
            *(_unproven(model) if asks and case is None else []),
        ),
        golden=golden,
    )


def unproven(runtime: str) -> Preview:
    """Return the warning of a release that only its runtime on a device can run, and that comes without golden inputs."""
    return Preview(warnings=(f"devices run this model by {runtime!r} without golden inputs to prove it; give some with --golden",))


def _unproven(model: OnnxModel) -> Iterator[str]:
    reason = refusal_of_zeros(model)
    if reason is not None:
        yield (
            "devices will refuse this release: without golden inputs they ask the model with zeros, and it does not answer those;"
            f" give golden inputs with --golden ({reason})"
        )


def _answers(model: OnnxModel, fitted: core.Fitted | None, case: Case | None) -> tuple[dict[str, str], ...]:
    if fitted is None:
        return () if case is None else tuple(map(dict, preview.answers_of(case.arrays.inputs, case.arrays.outputs)))
    step = rows_max(model, preview.ROWS_SHOWN)
    found: list[dict[str, str]] = []
    for at in range(0, preview.ROWS_SHOWN, step):
        feeds = core.feeds(fitted.features, {name: column[at : at + step] for name, column in fitted.columns.items()})
        found += map(dict, preview.answers_of(feeds, model.run(feeds, Code.MODEL_RUN)))
    return tuple(found[: preview.ROWS_SHOWN])
