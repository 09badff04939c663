"""Which graphs keep rows apart: what is taken for such keeps them apart in ONNX Runtime, and what may not is never taken for it."""

from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fleetcast.joining.row_independence import why_not
from fleetcast.joining.row_proof import HOSTILE, hostile
from tests.hub import digits

pytestmark = pytest.mark.heavy

node = helper.make_node
value = helper.make_tensor_value_info


def model(
    *nodes: Any, rank: int = 2, functions: Any = (), kind: int = TensorProto.FLOAT, ml: bool = False, **constants: np.ndarray
) -> bytes:
    """From x to y, both with a free first axis, three further values an axis."""
    shape = ["n", 3, 3, 3][:rank]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "g", [value("x", TensorProto.FLOAT, shape)], [value("y", kind, ["n", 3])], tensors)
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 17), ("com.microsoft", 1), ("own", 1), ("ai.onnx.ml", 3))]
    return bytes(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9).SerializeToString())


def why(data: bytes) -> str | None:
    return why_not(memoryview(data))


THREE = np.ones(3, np.float32)
SQUARE = np.ones((3, 3), np.float32)
QUANTISED = (node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"]))
INNER = helper.make_graph([node("ReduceMax", ["x"], ["m"], keepdims=0)], "inner", [], [value("m", TensorProto.FLOAT, [])])
FUNCTION = helper.make_function("own", "Relu", ["a"], ["b"], [node("CumSum", ["a", "zero"], ["b"])], [helper.make_opsetid("", 17)])

MIXING = {
    "dynamic quantisation": model(*QUANTISED),
    "a dynamically quantised product": model(
        node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft"), w=SQUARE, s=THREE
    ),
    "a dynamically quantised LSTM": model(node("DynamicQuantizeLSTM", ["x"], ["y"], domain="com.microsoft")),
    "a product with a scale that is reckoned": model(
        QUANTISED[0], node("MatMulIntegerToFloat", ["q", "w", "s", "t"], ["y"], domain="com.microsoft"), w=SQUARE, t=THREE
    ),
    "a maximum over all axes": model(node("ReduceMax", ["x"], ["m"]), node("Div", ["x", "m"], ["y"])),
    "a maximum over the rows": model(node("ReduceMax", ["x"], ["m"], axes=[0]), node("Div", ["x", "m"], ["y"])),
    "a maximum over the rows, counted from behind": model(node("ReduceMax", ["x"], ["m"], axes=[-2]), node("Div", ["x", "m"], ["y"])),
    "a mean over axes that are input": model(node("ReduceSum", ["x", "a"], ["m"]), node("Div", ["x", "m"], ["y"]), a=np.array([0])),
    "a softmax over the rows": model(node("Softmax", ["x"], ["y"], axis=0)),
    "a softmax of one axis": model(node("Softmax", ["x"], ["y"]), rank=1),
    "a norm over the rows": model(node("LpNormalization", ["x"], ["y"], axis=0)),
    "mean and variance over the rows": model(node("MeanVarianceNormalization", ["x"], ["y"], axes=[0])),
    "a batch norm in training": model(
        node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "u", "v"], training_mode=1), s=THREE
    ),
    "a running sum": model(node("CumSum", ["x", "a"], ["y"]), a=np.array(0)),
    "the largest row": model(node("ArgMax", ["x"], ["y"]), kind=TensorProto.INT64),
    "the largest rows": model(node("TopK", ["x", "k"], ["y", "i"], axis=0), k=np.array([1])),
    "what is not zero": model(node("NonZero", ["x"], ["y"]), kind=TensorProto.INT64),
    "what is distinct": model(node("Unique", ["x"], ["y"])),
    "all rows as one": model(node("Flatten", ["x"], ["f"], axis=0), node("Softmax", ["f"], ["y"])),
    "rows shaped into one": model(node("Reshape", ["x", "s"], ["f"]), node("Softmax", ["f"], ["y"]), s=np.array([1, -1])),
    "rows that are turned": model(node("Transpose", ["x"], ["t"]), node("Softmax", ["t"], ["s"]), node("Transpose", ["s"], ["y"])),
    "rows beside each other": model(node("Squeeze", ["x"], ["y"])),
    "rows below each other": model(node("Concat", ["x", "x"], ["y"], axis=0)),
    "the first row for all": model(node("Gather", ["x", "i"], ["r"]), node("Add", ["x", "r"], ["y"]), i=np.array([0])),
    "rows that are left out": model(node("Slice", ["x", "a", "b"], ["y"]), a=np.array([1]), b=np.array([9])),
    "rows times each other": model(node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])),
    "a product from the left": model(node("MatMul", ["w", "x"], ["y"]), w=SQUARE),
    "a product of what is turned": model(node("Gemm", ["x", "w"], ["y"], transA=1), w=SQUARE),
    "a constant for each row": model(node("Add", ["x", "c"], ["y"]), c=SQUARE),
    "a constant of more axes": model(node("Add", ["x", "c"], ["y"]), c=np.ones((1, 1, 3), np.float32)),
    "the number of rows": model(
        node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=1), node("Gather", ["f", "i"], ["c"]), node("Div", ["x", "c"], ["y"]),
        i=np.array(0),
    ),
    "a branch": model(
        node("ReduceSum", ["x"], ["s"], keepdims=0), node("Cast", ["s"], ["b"], to=9),
        node("If", ["b"], ["m"], then_branch=INNER, else_branch=INNER), node("Div", ["x", "m"], ["y"]),
    ),
    "a function of its own": model(node("Relu", ["x"], ["y"], domain="own"), functions=[FUNCTION]),
    "an operator that is not known": model(node("Secret", ["x"], ["y"], domain="com.acme")),
    "an answer that is no row": model(node("Identity", ["c"], ["y"]), c=SQUARE),
    "noise": model(node("RandomNormalLike", ["x"], ["y"])),
    "pooling that says where": model(node("MaxPool", ["x"], ["p", "y"], kernel_shape=[1, 1]), rank=4, kind=TensorProto.INT64),
}  # fmt: skip


@pytest.mark.parametrize("data", MIXING.values(), ids=MIXING.keys())
def test_a_graph_that_may_mix_rows_is_not_taken_to_keep_them_apart(data: bytes) -> None:
    onnx.load_model_from_string(data)

    assert why(data) is not None


def test_what_a_dynamic_build_does_is_named() -> None:
    assert why(MIXING["dynamic quantisation"]) == "DynamicQuantizeLinear is not known to keep rows apart"


def classifiers() -> dict[str, bytes]:
    """What people publish: scikit-learn's as skl2onnx writes them, and networks."""
    features, labels = load_digits(return_X_y=True)
    rows = features[:300].astype(np.float32)
    found = {"network of convolutions": digits.convolutions(), "regressor": digits.regressor()}
    for estimator in (
        LogisticRegression(max_iter=20), RandomForestClassifier(3), GradientBoostingClassifier(n_estimators=2), SVC(), SGDClassifier(),
        GaussianNB(), MLPClassifier((8,), max_iter=5), make_pipeline(StandardScaler(), PCA(5), LogisticRegression(max_iter=20)),
    ):  # fmt: skip
        estimator.fit(rows, labels[:300].astype(str))
        options = {"zipmap": False}
        found[type(estimator).__name__] = bytes(to_onnx(estimator, rows[:1], options=options).SerializeToString())
    return found


@pytest.mark.filterwarnings("ignore")
def test_common_models_keep_rows_apart_and_are_joined() -> None:
    assert {name: found for name, data in classifiers().items() if (found := why(data)) is not None} == {}


def test_shapes_that_are_taken_from_the_input_keep_rows_apart() -> None:
    flattened = model(  # x.view(x.size(0), -1), as PyTorch exports it
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "i"], ["n"]), node("Unsqueeze", ["n", "i1"], ["n1"]),
        node("Concat", ["n1", "rest"], ["to"], axis=0), node("Reshape", ["x", "to"], ["f"]), node("MatMul", ["f", "w"], ["y"]),
        rank=4, i=np.array(0), i1=np.array([0]), rest=np.array([-1]), w=np.ones((27, 3), np.float32),
    )  # fmt: skip

    assert why(flattened) is None


def freed(source: onnx.ModelProto, arrays: dict[str, np.ndarray], rows: list[str]) -> bytes:
    """The model with the first axis of some inputs free, and what the others are as constants."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    inputs = list(model.graph.input)
    del model.graph.input[:]
    for one in inputs:
        if one.name in rows:
            one.type.tensor_type.shape.dim[0].Clear()
            one.type.tensor_type.shape.dim[0].dim_param = "n"
            model.graph.input.append(one)
        else:
            model.graph.initializer.append(numpy_helper.from_array(arrays[one.name], one.name))
    for one in model.graph.output:
        one.type.tensor_type.ClearField("shape")
    return bytes(model.SerializeToString())


def far_from(array: np.ndarray, how: str) -> np.ndarray:
    if how == "permuted" or array.dtype.kind not in "fiub" or (how == "NaN" and array.dtype.kind != "f"):
        return array[::-1]
    return hostile(array, how)


def mixes(data: bytes, feeds: dict[str, np.ndarray]) -> bool | None:
    """Whether ONNX Runtime answers rows otherwise beside hostile ones; None where it cannot be asked, or the answer has no such rows."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    count = len(next(iter(feeds.values())))
    try:
        session = ort.InferenceSession(data, options)
        alone = session.run(None, feeds)
    except Exception:
        return None
    beside = []
    for how in ("permuted", *HOSTILE):
        with suppress(Exception):  # many operators take only some numbers
            beside.append(session.run(None, {name: np.concatenate([array, far_from(array, how)]) for name, array in feeds.items()}))
    if not beside:
        return None
    for answers in beside:
        for one, other in zip(alone, answers, strict=True):
            if one.shape[:1] != (count,) or other.shape[:1] != (2 * count,):
                return None
            if one.dtype.kind not in "fiub":
                same = bool((one == other[:count]).all())
            else:
                same = np.allclose(one.astype(float), other[:count].astype(float), rtol=1e-3, atol=1e-3, equal_nan=True)
            if not same:
                return True
    return False


@pytest.mark.filterwarnings("ignore")
def test_what_is_taken_to_keep_rows_apart_does_so_in_onnx_runtime() -> None:
    found: Counter[str] = Counter()
    wrong = []
    for case in collect_testcases(None):
        source, tensors = case.model, case.data_sets[0][0]
        if len(tensors) != len(source.graph.input) or any(not isinstance(one, np.ndarray) for one in tensors):
            continue
        if any(len(one.type.tensor_type.shape.dim) != array.ndim for one, array in zip(source.graph.input, tensors, strict=True)):
            continue
        arrays = {one.name: tensor for one, tensor in zip(source.graph.input, tensors, strict=True)}
        first = next(iter(arrays.values()), np.zeros(()))
        alike = [name for name, array in arrays.items() if array.ndim and first.ndim and len(array) == len(first) > 0]
        for rows in {tuple(alike[:1]), tuple(alike)} - {()}:
            data = freed(source, arrays, list(rows))
            apart = why(data) is None
            found["apart" if apart else "not"] += 1
            if apart and (outcome := mixes(data, {name: arrays[name] for name in rows})) is not None:
                found["asked"] += 1
                wrong += [case.name] if outcome else []

    assert wrong == []
    assert found["asked"] > 500  # else this test has lost what it tries


@given(st.binary(max_size=200))
def test_what_is_no_graph_is_not_joined(data: bytes) -> None:
    assert why(data) is not None


@settings(max_examples=300)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
def test_a_damaged_graph_is_an_answer_and_no_error(at: int, byte: int, end: int) -> None:
    whole = bytearray(digits.convolutions())
    whole[at % len(whole)] = byte

    why(bytes(whole))
    why(bytes(whole[: end % len(whole)]))


def test_a_graph_of_too_many_operators_is_not_looked_through() -> None:
    nodes = [node("Relu", ["x" if number == 0 else f"t{number - 1}"], [f"t{number}"]) for number in range(20_001)]

    assert "more than" in str(why(model(*nodes, node("Relu", ["t20000"], ["y"]))))
