"""Run .tflite models on LiteRT, once TensorFlow Lite, through ai-edge-litert (extra `litert`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from fleetcast.litert_file import NoModel, keeps_variables, variable_operators_of
from node.core.inference.tensors import DATATYPES, Array, Spec
from node.runtimes import Options, Signature
from node.runtimes.reasons import first_line
from schemas.errors import Code, Refused


class LiteRt:
    """Run a .tflite model on the CPU. Sizes that the file leaves open are the release's, and those that it leaves open too are what a
    request brings: the model is allocated anew when they differ from the last.

    What recurrent operators keep is set back before each request, so that each begins where the model's training did and none sees another.
    """

    def load(self, path: Path, options: Options) -> None:
        """Read the file and allocate its tensors."""
        _refuse_variables(path)
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=options.threads)
            self._inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            self._free = {str(one["name"]): tuple(map(int, _signature(one))) for one in self._inputs}
            self._settled = {spec.name: spec.shape for spec in options.inputs if settles(self._free.get(spec.name, ()), spec.shape)}
            for one in self._inputs:
                if shape := self._settled.get(one["name"]):
                    self._interpreter.resize_tensor_input(one["index"], [max(axis, 1) for axis in shape], strict=True)
            self._interpreter.allocate_tensors()
        except Exception as error:  # it raises ValueError and RuntimeError, by where it fails
            raise Refused(Code.MODEL_LOAD, f"LiteRT cannot load the model: {first_line(error)}{self._open_sizes()}") from None
        self._inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()

    def describe(self) -> Signature:
        """Return the file's own inputs and outputs, with the sizes that the release settles."""
        inputs, outputs = (tuple(_spec(one) for one in side) for side in (self._inputs, self._outputs))
        settled = tuple(spec._replace(shape=self._settled.get(spec.name, spec.shape)) for spec in inputs)
        return Signature(settled, outputs, "litert_tflite")

    def infer(self, inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> Sequence[Array]:
        """Run the graph."""
        try:
            self._fit(inputs)
        except (ValueError, RuntimeError) as error:
            raise Refused(Code.REQUEST_INVALID, f"LiteRT: {first_line(error)}") from None
        try:
            self._interpreter.reset_all_variables()
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

    def _open_sizes(self) -> str:
        """Return what to do where the model may need sizes that nobody gave it."""
        free = {name: shape for name, shape in getattr(self, "_free", {}).items() if -1 in shape and name not in self._settled}
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in free.items())
        return f"; the file leaves sizes of {listed} open, which publish --input-shape sets" if free else ""


def settles(free: Sequence[int], shape: Sequence[int]) -> bool:
    """Return whether a shape sets sizes that the file leaves open (-1), and changes none of the others."""
    fits = len(free) == len(shape) and all(want in (-1, have) for want, have in zip(free, shape, strict=True))
    return fits and tuple(free) != tuple(shape)


def _refuse_variables(path: Path) -> None:
    """Refuse a model whose variables live as long as it is loaded: one client's request would change another's answer."""
    try:
        found = variable_operators_of(path)
    except (OSError, NoModel) as error:
        raise Refused(Code.MODEL_LOAD, f"LiteRT cannot load the model: it is no .tflite file: {first_line(error)}") from None
    if found:
        raise Refused(Code.MODEL_LOAD, keeps_variables(found))


def _signature(one: Mapping[str, Any]) -> Sequence[int]:
    shape: Sequence[int] = one["shape_signature"] if len(one["shape_signature"]) else one["shape"]
    return shape


def _spec(one: Mapping[str, Any]) -> Spec:
    dtype = np.dtype(one["dtype"])
    return Spec(str(one["name"]), DATATYPES.get(dtype, str(dtype)), tuple(int(axis) if axis >= 0 else -1 for axis in _signature(one)))
