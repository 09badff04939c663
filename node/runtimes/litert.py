"""Run .tflite models on LiteRT, once TensorFlow Lite, through ai-edge-litert (extra `litert`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from node.core.inference.tensors import DATATYPES, Array, Spec
from node.runtimes import Options, Signature
from node.runtimes.reasons import first_line
from schemas.errors import Code, Refused


class LiteRt:
    """Run a .tflite model on the CPU. Free axes are set to what a request brings, which allocates anew when it differs from the last."""

    def load(self, path: Path, options: Options) -> None:
        """Read the file and allocate its tensors."""
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=options.threads)
            self._interpreter.allocate_tensors()
        except Exception as error:  # it raises ValueError and RuntimeError, by where it fails
            raise Refused(Code.MODEL_LOAD, f"LiteRT cannot load the model: {first_line(error)}") from None
        self._inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()

    def describe(self) -> Signature:
        """Return the file's own inputs and outputs."""
        inputs, outputs = (tuple(_spec(one) for one in side) for side in (self._inputs, self._outputs))
        return Signature(inputs, outputs, "litert_tflite")

    def infer(self, inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> Sequence[Array]:
        """Run the graph."""
        try:
            self._fit(inputs)
        except (ValueError, RuntimeError) as error:
            raise Refused(Code.REQUEST_INVALID, f"LiteRT: {first_line(error)}") from None
        try:
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(one["index"]) for one in self._outputs]
        except (ValueError, RuntimeError) as error:
            raise Refused(Code.MODEL_RUN, f"LiteRT: {first_line(error)}") from None

    def close(self) -> None:
        """Drop the interpreter."""
        del self._interpreter

    def _fit(self, inputs: Mapping[str, Array]) -> None:
        changed = False
        for one in self._inputs:
            if tuple(one["shape"]) != inputs[one["name"]].shape:
                self._interpreter.resize_tensor_input(one["index"], inputs[one["name"]].shape, strict=True)
                changed = True
        if changed:
            self._interpreter.allocate_tensors()
            self._inputs = self._interpreter.get_input_details()
        for one in self._inputs:
            self._interpreter.set_tensor(one["index"], np.ascontiguousarray(inputs[one["name"]]))


def _spec(one: Mapping[str, Any]) -> Spec:
    dtype = np.dtype(one["dtype"])
    signature = one["shape_signature"] if len(one["shape_signature"]) else one["shape"]
    return Spec(str(one["name"]), DATATYPES.get(dtype, str(dtype)), tuple(int(axis) if axis >= 0 else -1 for axis in signature))
