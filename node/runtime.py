"""How a model is loaded and run: the protocol that a runtime fulfils, and ONNX Runtime, the default. Imported in worker processes only.

Knows no socket, request or manifest.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime

from node.core.tensors import DATATYPES, Array, Spec
from schemas.errors import Code, Refused

REASON_CHARACTERS_MAX: Final = 300  # a runtime's message names nodes and shapes first; the rest is source lines
FATAL_ONLY: Final = 4  # ONNX Runtime's severity; whatever goes wrong is raised, and reported with its reason


class Runtime(Protocol):
    """A loaded model."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs, in the order of `outputs`.

        Raises:
            Refused: REQUEST_INVALID when the inputs do not fit the graph, MODEL_RUN when the model fails on them.
        """
        ...


class OnnxRuntime:
    """An ONNX model on this device's execution providers, sequential, with `threads` threads inside an operator."""

    def __init__(self, path: Path, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL_ONLY
        # A device has other work than to spin while it waits for the next request.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        # The remote provider would send rows off the device.
        providers = [name for name in onnxruntime.get_available_providers() if not name.startswith("Azure")]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's own classes have no common base
            raise Refused(Code.MODEL_LOAD, f"ONNX Runtime cannot load the model: {_first_line(error)}") from None
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs, in the order of `outputs`.

        Raises:
            Refused: REQUEST_INVALID when the inputs do not fit the graph, MODEL_RUN when the model fails on them.
        """
        try:
            answers = self._session.run(self._output_names, inputs)
        except Exception as error:
            code = Code.REQUEST_INVALID if type(error).__name__ == "InvalidArgument" else Code.MODEL_RUN
            raise Refused(code, f"ONNX Runtime: {_first_line(error)}") from None
        return [np.asarray(answer) for answer in answers]


def _spec(node: Any) -> Spec:
    """A graph's input or output; what is no tensor keeps ONNX Runtime's own name for its type."""
    datatype = str(node.type)
    if datatype.startswith("tensor("):
        datatype = ONNX_DATATYPES.get(datatype[len("tensor(") : -1], datatype)
    shape = node.shape if isinstance(node.shape, list) else []  # None for what is no tensor
    return Spec(node.name, datatype, tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in shape))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:REASON_CHARACTERS_MAX]


ONNX_DATATYPES: Final = {
    {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name): datatype for dtype, datatype in DATATYPES.items()
} | {"string": "BYTES"}
