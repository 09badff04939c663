"""Have a model declare the shapes that it takes and gives: refuse one that does not, or mend the file that is published."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fleetcast.golden_file import plain_arrays
from hub.core.publish import declared_shapes
from hub.core.publish import release as core
from hub.core.publish.declared_shapes import Answers, Shape
from hub.publish.golden_prompts import SUFFIXES
from hub.publish.onnx_model import OnnxModel, write_with_shapes
from hub.publish.publish_request import PublishRequest
from schemas.errors import Code, Refused

FOLDER = "with-true-shapes"  # Files that are mended are in the build's own folder.


@dataclass(frozen=True)
class Checked:
    """Hold the model as it is published, the request for it, and what was mended, in sentences."""

    request: PublishRequest
    model: OnnxModel
    mended: tuple[str, ...] = ()


def free_inputs(request: PublishRequest, model: OnnxModel, scratch: Path) -> Checked:
    """Return the model with free axes where golden inputs or rows of a reference have another length, if the publisher wants it mended.

    Raises:
        Refused: the model or the golden inputs cannot be read.
    """
    if not request.fixes_shapes:
        return Checked(request, model)
    found = declared_shapes.untrue(model.inputs, [_given(request, model)])
    shapes = {name: shape for name, (shape, have) in found.items() if len(shape) == len(have)}
    if request.reference is not None and all(one.shape and one.shape[0] > 1 for one in model.inputs):
        shapes = {one.name: (-1, *shapes.get(one.name, one.shape)[1:]) for one in model.inputs}
    return _mended(request, model, "input", shapes, scratch / FOLDER / "inputs")


def _given(request: PublishRequest, model: OnnxModel) -> Answers:
    path = request.golden_path
    if path is None or path.suffix.lower() in SUFFIXES or not path.is_file():
        return {}
    with path.open("rb") as file:
        arrays = plain_arrays(str(path), file, Code.GOLDEN_INVALID, bytes_max=core.GOLDEN_UNPACKED_BYTES_MAX)
    return {one.name: arrays[f"input.{one.name}"] for one in model.inputs if f"input.{one.name}" in arrays}


def true_outputs(request: PublishRequest, model: OnnxModel, feeds: core.Arrays | None, scratch: Path) -> Checked:
    """Return the model whose outputs have the shapes that it declares, asked with these inputs, one of their rows, and two.

    Raises:
        Refused: MODEL_SIGNATURE: an output has another shape, and the publisher does not want it mended.
    """
    if feeds is None:
        return Checked(request, model)
    runs = list(_runs(model, feeds))
    untrue = declared_shapes.untrue(model.outputs, runs)
    if untrue and not request.fixes_shapes:
        raise _refusal(request, model, untrue)
    checked = _mended(request, model, "output", {name: shape for name, (shape, _) in untrue.items()}, scratch / FOLDER / "outputs")
    if untrue and (still := declared_shapes.untrue(checked.model.outputs, list(_runs(checked.model, feeds)))):
        raise _refusal(request, checked.model, still)
    return checked


def _runs(model: OnnxModel, feeds: core.Arrays) -> Iterator[Answers]:
    """Yield answers to the inputs, and to one and two of their rows where the first axis is free."""
    yield model.run(feeds, Code.GOLDEN_INVALID)
    rows = {len(one) if one.ndim else 0 for one in feeds.values()}
    if len(rows) != 1 or 0 in rows or any(tensor.shape[:1] != (-1,) for tensor in model.inputs):
        return
    for count in {1, 2} - rows:
        try:
            yield model.run({name: np.resize(one, (count, *one.shape[1:])) for name, one in feeds.items()}, Code.GOLDEN_INVALID)
        except Refused:
            continue  # Its first axis is no number of rows.


def _refusal(request: PublishRequest, model: OnnxModel, untrue: Mapping[str, tuple[Shape, Shape]]) -> Refused:
    name, (shape, found) = next(iter(untrue.items()))
    declared = next(list(one.shape) for one in model.outputs if one.name == name)
    return Refused(
        Code.MODEL_SIGNATURE,
        f"{request.model_path}: shape of output {name!r}: expected {list(found)}, which the model answers, found {declared} in the file, so"
        f" every device would refuse it; export it with a free axis, or publish it with --fix-shapes, which declares {list(shape)}",
    )


def _mended(request: PublishRequest, model: OnnxModel, side: str, shapes: Mapping[str, Sequence[int]], folder: Path) -> Checked:
    if not shapes:
        return Checked(request, model)
    tensors = model.inputs if side == "input" else model.outputs
    path = folder / request.model_path.name
    write_with_shapes(request.model_path, path, shapes)
    builds = []
    for number, build in enumerate(request.variants.builds):
        if build.model_path is not None:
            own = folder / str(number) / build.model_path.name
            write_with_shapes(build.model_path, own, shapes)
            builds.append(replace(build, model_path=own))
        else:
            builds.append(build)
    sentences = tuple(
        f"{side} {one.name!r}: declared {list(one.shape)}, published as {list(shapes[one.name])}" for one in tensors if one.name in shapes
    )
    changed = replace(request, model_path=path, variants=replace(request.variants, builds=tuple(builds)))
    return Checked(changed, OnnxModel(path), sentences)
