"""Decide whether a graph answers each row by itself, whatever stands in the rows beside it. Knows no runtime and no file.

Rows of several requests may be asked together only of such a graph. The operators are walked in order, and of each tensor it is known
whether its first axis are the rows (`Rows`) or whether it is the same for any rows (`Same`). Each operator that is listed here keeps rows
apart under the conditions that its rule states; what is not listed, and what meets no condition, is taken to mix them: dynamic
quantisation, whose scale is of all rows together, sorting, reductions over the first axis, graphs in branches and loops.
"""

from collections.abc import Mapping
from typing import Final

from fleetcast.joining import row_arithmetic as arithmetic
from fleetcast.joining import row_shapes as shapes
from fleetcast.joining.onnx_graph import Graph, Reader, Unreadable
from fleetcast.joining.row_values import Call, Mixes, Rows, Rule, Same, Value

NODES_MAX: Final = 20_000


def why_not(view: memoryview) -> str | None:
    """Return what in a model file may let rows see each other; None when nothing does."""
    try:
        reader = Reader(view)
        graph = reader.graph()
        return _why_not(graph, reader)
    except Unreadable as error:
        return f"the graph cannot be looked through: {error}"
    except (IndexError, RecursionError, OverflowError, MemoryError):  # an operator with fewer inputs than it has by its definition
        return "the graph cannot be looked through"


def _why_not(graph: Graph, reader: Reader) -> str | None:
    if len(graph.nodes) > NODES_MAX:
        return f"more than {NODES_MAX} operators"
    known: dict[str, Value] = {name: Same(one.shape, one.items) for name, one in graph.constants.items()}
    for name, shape in graph.inputs.items():
        if not shape or shape[0] != -1:
            return f"input {name!r} has no free first axis"
        known[name] = Rows(len(shape), fixed=all(axis > 0 for axis in shape[1:]))
    for node in graph.nodes:
        rule = RULES.get((node.domain, node.op))
        what = f"{node.domain}.{node.op}" if node.domain else node.op
        if rule is None:
            return f"{what} is not known to keep rows apart"
        try:
            inputs = [known[name] if name else None for name in node.inputs]
            outputs = rule(Call(node, inputs, reader, graph.opset))
        except (KeyError, Mixes):
            return f"{what} is not known to keep rows apart as it is used here"
        known |= zip(node.outputs, outputs, strict=False)
    for name in graph.outputs:
        value = known.get(name)
        if not isinstance(value, Rows) or value.behind_one:
            return f"output {name!r} has no row of its own for each row"
    return None


def _listed(rule: Rule, names: str, domain: str = "") -> dict[tuple[str, str], Rule]:
    return {(domain, name): rule for name in names.split()}


RULES: Final[Mapping[tuple[str, str], Rule]] = {
    **_listed(
        arithmetic.elementwise,
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Cos Cosh"
        " Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual"
        " Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal RegexFullMatch Relu Round Selu Shrink Sigmoid Sign Sin Sinh"
        " Softplus Softsign Sqrt StringConcat Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor",
    ),
    **_listed(arithmetic.quantised, "QuantizeLinear DequantizeLinear"),
    **_listed(
        arithmetic.by_channel,
        "AveragePool Conv ConvInteger ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization"
        " InstanceNormalization LRN LpPool MaxPool QLinearConv SpaceToDepth",
    ),
    **_listed(arithmetic.batch_norm, "BatchNormalization"),
    **_listed(arithmetic.dropout, "Dropout"),
    **_listed(
        arithmetic.along, "Hardmax LayerNormalization LogSoftmax LpNormalization RMSNormalization SimplifiedLayerNormalization Softmax"
    ),
    **_listed(arithmetic.cumulated, "CumSum"),
    **_listed(arithmetic.matmul, "MatMul"),
    **_listed(arithmetic.matmul_integer, "MatMulInteger"),
    **_listed(arithmetic.qlinear_matmul, "QLinearMatMul"),
    **_listed(arithmetic.gemm, "Gemm"),
    **_listed(
        arithmetic.reduced,
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
    ),
    **_listed(arithmetic.best, "ArgMax ArgMin"),
    **_listed(arithmetic.top, "TopK"),
    **_listed(shapes.joined, "Concat"),
    **_listed(shapes.split, "Split"),
    **_listed(shapes.gather, "Gather"),
    **_listed(shapes.gather_elements, "GatherElements"),
    **_listed(shapes.sliced, "Slice"),
    **_listed(shapes.squeezed, "Squeeze"),
    **_listed(shapes.unsqueezed, "Unsqueeze"),
    **_listed(shapes.flattened, "Flatten"),
    **_listed(shapes.reshaped, "Reshape"),
    **_listed(shapes.transposed, "Transpose"),
    **_listed(shapes.expanded, "Expand"),
    **_listed(shapes.filled, "ConstantOfShape"),
    **_listed(shapes.padded, "Pad"),
    **_listed(shapes.repeated, "Tile"),
    **_listed(shapes.resized, "Resize Upsample"),
    **_listed(shapes.shape, "Shape"),
    **_listed(shapes.constant, "Constant"),
    **_listed(arithmetic.hot, "OneHot"),
    **_listed(
        arithmetic.table,
        "Binarizer Imputer LinearRegressor Normalizer Scaler SVMRegressor TreeEnsemble TreeEnsembleRegressor",
        "ai.onnx.ml",
    ),
    **_listed(arithmetic.table, "TfIdfVectorizer"),
    **_listed(arithmetic.classified, "LinearClassifier SVMClassifier TreeEnsembleClassifier", "ai.onnx.ml"),
    **_listed(arithmetic.columns, "FeatureVectorizer", "ai.onnx.ml"),
    **_listed(arithmetic.extracted, "ArrayFeatureExtractor", "ai.onnx.ml"),
    **_listed(arithmetic.encoded, "OneHotEncoder", "ai.onnx.ml"),
    **_listed(arithmetic.mapped, "CategoryMapper LabelEncoder", "ai.onnx.ml"),
    **_listed(
        arithmetic.elementwise, "BiasGelu FastGelu Gelu QLinearAdd QLinearLeakyRelu QLinearMul QLinearSigmoid QuickGelu", "com.microsoft"
    ),
    **_listed(arithmetic.by_channel, "QLinearAveragePool QLinearGlobalAveragePool", "com.microsoft"),
}
