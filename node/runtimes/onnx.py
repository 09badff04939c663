"""Run models on ONNX Runtime, the default. `python -m node.runtimes.onnx` prints the execution providers that it has here, as JSON."""

import json
import mmap
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fleetcast.joining.row_independence import why_not
from fleetcast.quiet_onnxruntime import onnxruntime
from node.core.inference.tensors import DATATYPES, Array, Spec
from node.runtimes import Options, Signature
from node.runtimes.reasons import first_line
from schemas.errors import Code, Refused, mismatch

FATAL_ONLY: Final = 4  # ONNX Runtime's severity; whatever goes wrong is raised, and reported with its reason
OUTSIDE: Final = ("External data path validation failed", "Absolute path not allowed", "escapes")  # whose location is not in the folder
BUFFER_BYTES: Final = re.compile(r"buffer of size (\d+)")
OPERATOR: Final = re.compile(r"while running (\w+) node")
OUT_OF_MEMORY: Final = ("bad allocation", "bad_alloc", "Failed to allocate")


class OnnxRuntime:
    """Run an ONNX model on this device's execution providers, sequential, with a fixed number of threads inside an operator."""

    def load(self, path: Path, options: Options) -> None:
        """Read the graph and optimise it for this device."""
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = options.threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = FATAL_ONLY
        # Its arena keeps for ever what the largest request took, twice over; the C library is as quick (docs/decisions/0033).
        session_options.enable_cpu_mem_arena = False
        # A device has other work than to spin while it waits for the next request.
        session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session_options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        here = providers()
        if absent := set(options.providers) - set(here):
            raise mismatch(Code.MODEL_LOAD, "execution providers", expected=", ".join(sorted(absent)), actual=", ".join(here))
        wanted = [*options.providers, *(name for name in here if name not in options.providers)]
        try:
            self._session = onnxruntime.InferenceSession(str(path), session_options, providers=wanted)
        except Exception as error:  # ONNX Runtime's own classes have no common base
            outside = any(sign in str(error) for sign in OUTSIDE)
            raise _refused(Code.MODEL_EXTERNAL_DATA if outside else Code.MODEL_LOAD, "ONNX Runtime cannot load the model", error) from None
        if idle := set(options.providers) - set(self._session.get_providers()):  # it falls back without a word
            found = ", ".join(self._session.get_providers())
            raise mismatch(Code.MODEL_LOAD, "execution providers in use", expected=", ".join(sorted(idle)), actual=found)
        self._outputs = [node.name for node in self._session.get_outputs()]
        self._rows_apart = rows_apart(path)

    def describe(self) -> Signature:
        """Return the graph's own inputs and outputs."""
        inputs, outputs = (tuple(_spec(node) for node in side) for side in (self._session.get_inputs(), self._session.get_outputs()))
        return Signature(inputs, outputs, "onnxruntime_onnx", self._rows_apart)

    def infer(self, inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> Sequence[Array]:
        """Run the graph."""
        try:
            answers = self._session.run(self._outputs, inputs)
        except Exception as error:
            # An operator that cannot take what it is given says the same as inputs that do not fit the graph, but is the model's fault.
            unfit = type(error).__name__ == "InvalidArgument" and "while running" not in str(error)
            code = Code.REQUEST_INVALID if unfit else Code.MODEL_RUN
            raise _refused(code, "ONNX Runtime", error) from None
        return [np.asarray(answer) for answer in answers]

    def close(self) -> None:
        """Drop the session."""
        del self._session


def providers() -> list[str]:
    """Return execution providers that can be used here; the remote one would send rows off the device."""
    return [name for name in onnxruntime.get_available_providers() if not name.startswith("Azure")]


def rows_apart(path: Path) -> bool:
    """Return whether the graph answers each row by itself. The file is mapped: of a large one only the pages that say so are read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            return why_not(view) is None
    except (OSError, ValueError):
        return False


def _refused(code: Code, what: str, error: Exception) -> Refused:
    text, line = str(error), first_line(error)
    if any(sign in text for sign in OUT_OF_MEMORY):
        if size := BUFFER_BYTES.search(text):
            return Refused(Code.MODEL_TOO_LARGE, f"{what} asked for {size[1]} bytes at once")
        operator = OPERATOR.search(text)
        return Refused(Code.MODEL_TOO_LARGE, f"{what} got no memory for what {operator[1]} gives" if operator else f"{what}: {line}")
    return Refused(code, f"{what}: {line}")


def _spec(node: Any) -> Spec:
    """Return a graph's input or output; what is no tensor keeps ONNX Runtime's own name for its type."""
    datatype = str(node.type)
    if datatype.startswith("tensor("):
        datatype = ONNX_DATATYPES.get(datatype[len("tensor(") : -1], datatype)
    shape = node.shape if isinstance(node.shape, list) else []  # None for what is no tensor
    return Spec(node.name, datatype, tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in shape))


ONNX_DATATYPES: Final = {
    {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name): datatype for dtype, datatype in DATATYPES.items()
} | {"string": "BYTES"}


if __name__ == "__main__":
    json.dump(providers(), sys.stdout)
