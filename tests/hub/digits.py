"""Real models for tests of builds: a classifier of handwritten digits, its held-out rows, and what no tool can make smaller."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

PIXELS = [f"p{number}" for number in range(64)]
TRAINED = 1200  # rows; the rest is held out


def rows() -> tuple[np.ndarray, np.ndarray]:
    features, digits = load_digits(return_X_y=True)
    return (features / 16).astype(np.float32), digits


@cache
def classifier(seed: int = 0, hidden: int = 128) -> bytes:
    features, digits = rows()
    model = MLPClassifier((hidden, 64), max_iter=60, random_state=seed).fit(features[:TRAINED], digits[:TRAINED])
    return bytes(to_onnx(model, features[:1], target_opset=17, options={"zipmap": False}).SerializeToString())


@cache
def forest() -> bytes:
    features, digits = rows()
    model = RandomForestClassifier(10, max_depth=6, random_state=0).fit(features[:TRAINED], digits[:TRAINED])
    return bytes(to_onnx(model, features[:1], target_opset=17, options={"zipmap": False}).SerializeToString())


@cache
def regressor() -> bytes:
    features, target = load_diabetes(return_X_y=True)
    model = MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=300, random_state=0).fit(features, target)
    return bytes(to_onnx(model, features[:1].astype(np.float32), target_opset=17).SerializeToString())


def convolutions(scale: float = 1.0) -> bytes:
    """A small network of convolutions whose weights are Constant nodes, as Paddle's exporter writes them."""
    rng = np.random.default_rng(0)
    first = (rng.normal(0, 0.2, (16, 1, 3, 3)) * scale).astype(np.float32)
    second = rng.normal(0, 0.1, (32, 16, 3, 3)).astype(np.float32)
    last = rng.normal(0, 0.1, (32, 10)).astype(np.float32)
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
        for name, value in {"w1": first, "w2": second, "w3": last}.items()
    ]
    nodes = [
        *constants,
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "w3"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, ["n", 1, 8, 8])], [value("y", TensorProto.FLOAT, ["n", 10])])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())


def overflowing() -> bytes:
    """A model whose activations are far beyond float16's 65504, where they are moved, not only reckoned with: infinity there."""
    first, second = (
        numpy_helper.from_array(np.full(shape, 9000, np.float32), name) for name, shape in (("w1", (64, 64)), ("w2", (256, 64)))
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Concat", ["h", "h"], ["twice"], axis=1),
        helper.make_node("Concat", ["twice", "twice"], ["more"], axis=1),
        helper.make_node("MatMul", ["more", "w2"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 64])], [value("y", TensorProto.FLOAT, ["n", 64])], [first, second]
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())


def custom_operator() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Secret", ["x"], ["y"], domain="com.acme")],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def future_opset() -> bytes:
    model = onnx.load_model_from_string(classifier())
    next(one for one in model.opset_import if not one.domain).version = 999
    return bytes(model.SerializeToString())


def held_out(path: Path, *, nan: bool = False) -> Path:
    """The rows that the classifier has not seen, with the digit that each is."""
    features, digits = rows()
    columns: dict[str, np.ndarray] = {name: features[TRAINED:, number] for number, name in enumerate(PIXELS)}
    if nan:
        columns["p3"] = columns["p3"].copy()
        columns["p3"][7] = np.nan
    np.savez(path, **columns, digit=digits[TRAINED:])  # type: ignore[arg-type]
    return path


def seen(path: Path, *, pixels: int = 64) -> Path:
    """Rows that it was trained on, for calibration."""
    features, _ = rows()
    np.savez(path, **{name: features[:TRAINED, number % 64] for number, name in enumerate([f"p{j}" for j in range(pixels)])})  # type: ignore[arg-type]
    return path
