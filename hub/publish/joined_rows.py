"""Try whether rows of several requests may be answered together: by a model's graph, and by asking it beside hostile rows."""

import mmap
from pathlib import Path

from fleetcast.joining.row_independence import why_not
from fleetcast.joining.row_proof import try_rows
from hub.core.publish import release as core
from hub.publish.onnx_model import OnnxModel
from schemas.errors import Code, Refused
from schemas.limits import JOINING_FOUND_MAX
from schemas.manifest import Joining

GRAPH = "graph"


def joining_of(path: Path, model: OnnxModel, inputs: core.Arrays | None) -> Joining | None:
    """Return what was found, for the manifest; None where there are no golden rows to ask with, and the graph mixes nothing.

    A device that reads it need not try again. The model file is mapped, so a large one is not read into memory.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        reason = why_not(view)
    if reason is not None:
        return Joining(together=False, tried=(GRAPH,), found=reason[:JOINING_FOUND_MAX])
    if inputs is None:
        return None
    together = _answers(model, inputs)
    trying = try_rows(inputs, together or {}, len(next(iter(inputs.values()))))
    try:
        question = next(trying)
        while True:
            question = trying.send(_answers(model, question))
    except StopIteration as end:
        tried = end.value
        return Joining(together=tried.apart, tried=(GRAPH, *tried.tried), found=tried.found[:JOINING_FOUND_MAX])


def _answers(model: OnnxModel, question: core.Arrays) -> core.Arrays | None:
    try:
        return model.run(dict(question), Code.MODEL_RUN)
    except Refused:
        return None
