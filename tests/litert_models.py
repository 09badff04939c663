"""Small models in LiteRT's own format: recurrent, with variables, and with sizes that the file leaves open."""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tflite

Operator = tflite.BuiltinOperator


class Graph:
    """One graph, tensor by tensor and operator by operator."""

    def __init__(self) -> None:
        self._model = tflite.ModelT()
        self._model.version, self._model.operatorCodes, self._model.buffers = 3, [], [tflite.BufferT()]
        self._graph = tflite.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._model.subgraphs = [self._graph]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        *,
        free: Sequence[int] | None = None,
        values: np.ndarray | None = None,
        variable: bool = False,
        kind: int = tflite.TensorType.FLOAT32,
    ) -> int:
        one = tflite.TensorT()
        one.name, one.shape, one.type, one.buffer, one.isVariable = name, list(shape), kind, 0, variable
        if free is not None:
            one.shapeSignature = list(free)
        if values is not None:
            buffer = tflite.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self._model.buffers.append(buffer)
            one.buffer = len(self._model.buffers) - 1
        self._graph.tensors.append(one)
        return len(self._graph.tensors) - 1

    def operator(self, code: int, inputs: Sequence[int], outputs: Sequence[int], kind: int = 0, options: Any = None) -> None:
        entry = tflite.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
        self._model.operatorCodes.append(entry)
        one = tflite.OperatorT()
        one.opcodeIndex = len(self._model.operatorCodes) - 1
        one.inputs, one.outputs, one.builtinOptionsType, one.builtinOptions = list(inputs), list(outputs), kind, options
        self._graph.operators.append(one)

    def packed(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def recurrent() -> bytes:
    """A recurrent layer of one unit that adds what it is given to what it keeps: x [1, 1] to y [1, 1]."""
    graph, one = Graph(), np.ones((1, 1), np.float32)
    x, weights, again = graph.tensor("x", [1, 1]), graph.tensor("w", [1, 1], values=one), graph.tensor("r", [1, 1], values=one)
    bias = graph.tensor("b", [1], values=np.zeros(1, np.float32))
    state, y = graph.tensor("kept", [1, 1], variable=True), graph.tensor("y", [1, 1])
    graph.operator(Operator.RNN, [x, weights, again, bias, state], [y], tflite.BuiltinOptions.RNNOptions, tflite.RNNOptionsT())
    return graph.packed([x], [y])


def remembering() -> bytes:
    """A model that writes x [1] into a variable and reads it back."""
    graph = Graph()
    x, y = graph.tensor("x", [1]), graph.tensor("y", [1])
    handle = graph.tensor("handle", [1], kind=tflite.TensorType.RESOURCE)
    named = tflite.VarHandleOptionsT()
    named.container, named.sharedName = "", "kept"
    graph.operator(Operator.VAR_HANDLE, [], [handle], tflite.BuiltinOptions.VarHandleOptions, named)
    written = tflite.BuiltinOptions.AssignVariableOptions, tflite.AssignVariableOptionsT()
    graph.operator(Operator.ASSIGN_VARIABLE, [handle, x], [], *written)
    graph.operator(Operator.READ_VARIABLE, [handle], [y], tflite.BuiltinOptions.ReadVariableOptions, tflite.ReadVariableOptionsT())
    return graph.packed([x], [y])


def windowed() -> bytes:
    """The sum of a window of four, x [-1, -1] to y [-1, 1]; the file states both sizes as 1, for which it cannot be allocated."""
    graph = Graph()
    x, y = graph.tensor("x", [1, 1], free=[-1, -1]), graph.tensor("y", [1, 1], free=[-1, 1])
    weights = graph.tensor("w", [4, 1], values=np.ones((4, 1), np.float32))
    graph.operator(Operator.BATCH_MATMUL, [x, weights], [y], tflite.BuiltinOptions.BatchMatMulOptions, tflite.BatchMatMulOptionsT())
    return graph.packed([x], [y])
