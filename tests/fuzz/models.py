"""Small files of models, made once: what the readers of models begin with."""

import io
import struct
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fleetcast.golden_file import pack_golden
from tests.litert_models import Graph, Operator


@cache
def onnx_file() -> bytes:
    """Return a graph with weights, shapes and attributes of several kinds."""
    weights = numpy_helper.from_array(np.arange(40, dtype=np.float32).reshape(5, 8), "w")
    axes = numpy_helper.from_array(np.array([-1, 8], np.int64), "shape")
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], alpha=1.0, transB=0),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Concat", ["c", "c"], ["d"], axis=1),
        helper.make_node("Softmax", ["d"], ["y"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weights, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


@cache
def external_onnx_file() -> bytes:
    """Return a graph whose weights are said to be in a file beside it."""
    model = onnx.load_from_string(onnx_file())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "160")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString())


@cache
def tflite_file() -> bytes:
    """Return a graph with two operators."""
    graph = Graph()
    x, y, z = graph.tensor("x", [1, 5]), graph.tensor("y", [1, 5]), graph.tensor("z", [1, 5])
    graph.operator(Operator.ABS, [x], [y])
    graph.operator(Operator.VAR_HANDLE, [y], [z])
    return graph.packed([x], [z])


@cache
def golden_files() -> tuple[bytes, ...]:
    """Return golden inputs with their outputs: numbers, texts, and a file that is not compressed."""
    rows = np.arange(10, dtype=np.float32).reshape(2, 5)
    plain = io.BytesIO()
    np.savez(plain, **{"input.x": rows, "output.y": rows[:, :1]})
    texts = np.array(["a", "bc"], object)
    return pack_golden({"x": rows}, {"y": rows[:, :1]}), pack_golden({"prompt": texts}, {"text": texts}), plain.getvalue()


def _gguf() -> bytes:
    name, key = b"blk.0.weight", b"general.alignment"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, 32)
    info = struct.pack("<Q", len(name)) + name + struct.pack("<I2QIQ", 2, 64, 32, 0, 0)
    return (head + info).ljust(160, b"\0") + bytes(64 * 32 * 4)


def _safetensors() -> bytes:
    head = b'{"w":{"dtype":"F32","shape":[64,64],"data_offsets":[0,16384]},"__metadata__":{"a":"b"}}'
    return struct.pack("<Q", len(head)) + head + bytes(16384)


def tensor_files() -> list[bytes]:
    """Return a small file of each format whose tensors are found."""
    return [_gguf(), _safetensors(), onnx_file()]
