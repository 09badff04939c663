"""Makes smaller builds of an ONNX model: int8 by ONNX Runtime's own quantisation, float16 by its converter, and pruned ones.

Knows no release. What stands in the graph is what a device runs: inputs and outputs keep their types, so that every build is called alike.
"""

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from fleetcast import disk_room
from hub.core.publish.release import first_line, listed
from hub.core.publish.samples import Samples
from schemas.errors import Code, FleetcastError, Refused, mismatch
from schemas.limits import MIB

MODEL_BYTES_MAX = 1900 * MIB  # a protobuf message holds 2 GiB, and a quantiser writes the whole model into one
NARROW_VALUES_MIN = 1024  # below it the names of what is added weigh more than what is saved
WEIGHT_VALUES_MIN = 256  # of a tensor that is worth pruning; below it stand biases and shapes
CALIBRATION_ROWS_MAX = 64  # at a time: every activation of these rows is held
WEIGHTED = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Gather": (0,),
}
DYNAMIC = ("MatMul", "Gemm", "LSTM", "Gather", "Attention", "EmbedLayerNormalization")
STATIC = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Gather")
PER_CHANNEL_OPSET = 13  # before it DequantizeLinear knew no axis
QUIET, WARNINGS = 4, 2  # onnxruntime's severities: nothing but what is fatal, and its default
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
QUANTISED = {
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeLSTM",
    "QAttention",
    "DequantizeLinear",
    "QLinearMatMul",
    "QLinearConv",
    "QGemm",
}


def make(what: str, source: Path, target: Path, how: str, *, sparsity: float, calibration: Samples | None) -> None:
    """Write the build of `source` that is asked for to `target`; `what` names it in a refusal.

    Raises:
        Refused: VARIANT_FAILED: it cannot be made of this model, and why.
    """
    try:
        model = _load(what, source)
        outside = list(model.graph.input), list(model.graph.output)
        _lift_constants(model.graph)
        if sparsity or how == "pruned":
            _prune(what, model, sparsity)
        with _quietly(), tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            match how:
                case "int8":
                    model = _dynamic(what, model, Path(scratch))
                case "int8-static":
                    model = _static(what, model, Path(scratch), calibration)
                case "int8-weights":
                    _narrow(what, model)
                case "fp16":
                    model = _halved(what, model)
        _keep_outside(model, *outside)
        target.write_bytes(model.SerializeToString(deterministic=True))
    except FleetcastError:
        raise
    except OSError as error:
        if error.errno in disk_room.FULL:
            raise Refused(Code.DISK_FULL, f"no room in {target.parent} to make {what}") from error
        raise Refused(Code.VARIANT_FAILED, f"{what} cannot be made: {first_line(error)}") from error
    except Exception as error:  # the tools raise whatever they stumble over: ValueError, KeyError, IndexError, protobuf's, onnxruntime's
        raise Refused(Code.VARIANT_FAILED, f"{what} cannot be made: {type(error).__name__}: {first_line(error)}") from error


def sparsity_of(path: Path) -> float:
    """The share of zeros among the weights that pruning would look at."""
    model = onnx.load_model(str(path))
    _lift_constants(model.graph)
    weights = [values for _, values in _weights(model)]
    total = sum(values.size for values in weights)
    return sum(int((values == 0).sum()) for values in weights) / total if total else 0.0


def _load(what: str, source: Path) -> onnx.ModelProto:
    """The model with its external data inside."""
    whole = sum(path.stat().st_size for path in {source, *_external(source)})
    if whole > MODEL_BYTES_MAX:
        raise mismatch(Code.VARIANT_FAILED, f"{what}: bytes of the model", expected=f"at most {MODEL_BYTES_MAX}", actual=whole)
    return onnx.load_model(str(source))


def _external(source: Path) -> set[Path]:
    model = onnx.load_model(str(source), load_external_data=False)
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    return {source.parent / entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}


# Builds


def _dynamic(what: str, model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    """Weights in int8, activations by the range that each request has.

    Seven bits of the eight are used (`reduce_range`): with all of them, processors that add up pairs of products in 16 bits (x86 before
    VNNI) saturate where others do not, and a device would answer otherwise than the publisher's machine. Convolutions stay as they are:
    in integers with a range of their own for each request they take ten times as long as in float (docs/decisions/0008).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    hint = " (convolutions need int8-static)" if any(node.op_type == "Conv" for node in _nodes(model.graph)) else ""
    expected = f"operators with weights of {', '.join(DYNAMIC)}{hint}"
    _check_kinds(what, model, DYNAMIC, expected)
    onnx.save_model(model, str(scratch / "source.onnx"))
    quantize_dynamic(
        scratch / "source.onnx",
        scratch / "made.onnx",
        op_types_to_quantize=list(DYNAMIC),
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        extra_options={"EnableSubgraph": True},
    )
    return _quantised(what, model, onnx.load_model(str(scratch / "made.onnx")), expected)


def _static(what: str, model: onnx.ModelProto, scratch: Path, calibration: Samples | None) -> onnx.ModelProto:
    """Weights and activations in int8, activations by the range that they had on the calibration rows."""
    if calibration is None:
        raise mismatch(Code.VARIANT_FAILED, what, expected="calibration rows (calibration = ... of the release)", actual="none")
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    expected = f"operators with weights such as {', '.join(STATIC)}"
    _check_kinds(what, model, STATIC, expected)
    rows = calibration

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        """The calibration rows, a few at a time."""

        def __init__(self) -> None:
            self._batches = rows.batches(CALIBRATION_ROWS_MAX)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """Inputs by name, None when there are no more."""
            found = next(self._batches, None)
            return found[2] if found is not None else None

    onnx.save_model(model, str(scratch / "source.onnx"))
    ready = scratch / "ready.onnx"
    # Fused and with inferred shapes; symbolic inference would need sympy, and plain inference does for what is quantised.
    quant_pre_process(scratch / "source.onnx", ready, skip_symbolic_shape=True)
    _flatten_biases(ready)
    quantize_static(
        ready,
        scratch / "made.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=_opset(model) >= PER_CHANNEL_OPSET,
        reduce_range=True,  # as above
    )
    return _quantised(what, model, onnx.load_model(str(scratch / "made.onnx")), expected)


def _flatten_biases(path: Path) -> None:
    """Biases of shape [1, n] as [n], which adds up alike: fusing makes them, and the quantiser fails on them (onnxruntime #24815)."""
    model = onnx.load_model(str(path))
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    others = {name for node in model.graph.node for place, name in enumerate(node.input) if (node.op_type, place) != ("Gemm", 2)}
    for tensor in model.graph.initializer:
        if tensor.name in biases - others and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]
    onnx.save_model(model, str(path))


def _check_kinds(what: str, model: onnx.ModelProto, kinds: Sequence[str], expected: str) -> None:
    """Before a tool is asked: of a model without any such operator it says whatever it stumbles over."""
    if not any(node.op_type in kinds for node in _nodes(model.graph)):
        raise _nothing(what, model, expected)


def _quantised(what: str, before: onnx.ModelProto, after: onnx.ModelProto, expected: str) -> onnx.ModelProto:
    if not any(node.op_type in QUANTISED for node in _nodes(after.graph)):
        raise _nothing(what, before, expected)
    return after


def _narrow(what: str, model: onnx.ModelProto) -> None:
    """Large weights in int8, and reckoned with as before: w = scale * q, a scale an output channel, |q| at most 127.

    A quarter of the bytes travel. The two operators that make them floats again are folded away when the model is loaded, so that a device
    reckons, and holds in memory, what it would of the original; processors do not differ, as they do when activations are in int8.
    """
    if not sum(_narrow_graph(graph) for graph in reversed(list(_graphs(model.graph)))):
        raise _nothing(what, model, f"weights in float32 with two axes and at least {NARROW_VALUES_MIN} values")


def _narrow_graph(graph: onnx.GraphProto) -> int:
    given = {one.name for one in graph.input}  # a default that a request may replace is no weight
    by_column = {node.input[1] for node in graph.node if node.op_type == "MatMul"}
    kept, before = [], []
    for tensor in graph.initializer:
        size = int(np.prod(tensor.dims))
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or size < NARROW_VALUES_MIN or tensor.name in given:
            kept.append(tensor)
            continue
        values = onnx.numpy_helper.to_array(tensor)
        channel = values.ndim - 1 if tensor.name in by_column else 0
        most = np.abs(values).max(axis=tuple(axis for axis in range(values.ndim) if axis != channel), keepdims=True)
        scale = np.where(most > 0, most / 127, 1).astype(np.float32)
        names = {part: f"{tensor.name}.{part}" for part in ("int8", "scale", "float")}
        kept.append(onnx.numpy_helper.from_array(np.rint(values / scale).astype(np.int8), names["int8"]))
        kept.append(onnx.numpy_helper.from_array(scale, names["scale"]))
        before.append(onnx.helper.make_node("Cast", [names["int8"]], [names["float"]], f"{tensor.name}.cast", to=onnx.TensorProto.FLOAT))
        before.append(onnx.helper.make_node("Mul", [names["float"], names["scale"]], [tensor.name], f"{tensor.name}.mul"))
    _replace(graph.initializer, kept)
    _replace(graph.node, [*before, *graph.node])
    return len(before)


def _halved(what: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and what is reckoned with them in float16, where the operators take it; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415
    from onnxruntime.transformers.onnx_model import OnnxModel  # noqa: PLC0415

    was = sum(tensor.data_type == onnx.TensorProto.FLOAT for tensor in _initializers(model.graph))
    halved = convert_float_to_float16(onnx.ModelProto.FromString(model.SerializeToString()), keep_io_types=True)
    if was == 0 or not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in _initializers(halved.graph)):
        raise _nothing(what, model, "weights in float32 of operators that take float16")
    sorted_ = OnnxModel(halved)
    sorted_.topological_sort()  # casts were put at the end
    found: onnx.ModelProto = sorted_.model
    return found


def _prune(what: str, model: onnx.ModelProto, sparsity: float) -> None:
    """Set the smallest of each large tensor's weights to zero, in place (magnitude pruning: Han et al. 2015, arXiv:1506.02626).

    What travels shrinks since zeros are told in few bytes; what a device holds and reckons does not.
    """
    found = False
    for tensor, values in _weights(model):
        zeros = int(values.size * sparsity)
        flat = np.abs(values.astype(np.float32)).ravel()
        pruned = values.copy().ravel()
        pruned[np.argsort(flat, kind="stable")[:zeros]] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(pruned.reshape(values.shape), tensor.name))
        found = True
    if not found:
        raise _nothing(what, model, f"weights of {', '.join(WEIGHTED)} with at least {WEIGHT_VALUES_MIN} values")


def _nothing(what: str, model: onnx.ModelProto, expected: str) -> Refused:
    kinds = sorted({node.op_type for node in _nodes(model.graph)})
    return mismatch(Code.VARIANT_FAILED, what, expected=expected, actual=f"only {listed(kinds)} and no such weights")


# The graph


def _weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, NDArray[Any]]]:
    """Float tensors of two axes or more that are an operator's weights, wherever in the model they stand."""
    named = {node.input[place] for node in _nodes(model.graph) for place in WEIGHTED.get(node.op_type, ()) if place < len(node.input)}
    for tensor in _initializers(model.graph):
        if tensor.name in named and tensor.data_type in FLOATS and len(tensor.dims) >= 2:
            values = onnx.numpy_helper.to_array(tensor)
            if values.size >= WEIGHT_VALUES_MIN:
                yield tensor, values


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Tensors of Constant nodes as initializers, which mean the same: the tools look for weights nowhere else, and exporters write both."""
    for inner in reversed(list(_graphs(graph))):  # inner ones first: what is replaced is replaced by a copy
        _lift_from(inner)


def _lift_from(graph: onnx.GraphProto) -> None:
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        value = next((one.t for one in node.attribute if one.name == "value"), None)
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and value is not None:
            value.name = node.output[0]
            graph.initializer.append(value)
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        _replace(graph.node, kept)


def _replace(field: Any, messages: Sequence[Any]) -> None:
    """A repeated field's messages by these, some of which stand in it."""
    copies = [type(one).FromString(one.SerializeToString()) for one in messages]
    del field[:]
    field.extend(copies)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those in its nodes, wherever."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _opset(model: onnx.ModelProto) -> int:
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for inner in _graphs(graph) for node in inner.node)


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    return (tensor for inner in _graphs(graph) for tensor in inner.initializer)


def _keep_outside(model: onnx.ModelProto, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
    """Inputs and outputs as the publisher described them: a tool's shape inference gives axes other names and sizes."""
    for field, declared in ((model.graph.input, inputs), (model.graph.output, outputs)):
        by_name = {one.name: one for one in declared}
        for one in field:
            if one.name in by_name and one.type.tensor_type.elem_type == by_name[one.name].type.tensor_type.elem_type:
                one.CopyFrom(by_name[one.name])


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the tools' advice on the operator's terminal, and without the folder that one of them puts on the path."""
    path, level = list(sys.path), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(QUIET)
    try:
        yield
    finally:
        logging.disable(level)
        onnxruntime.set_default_logger_severity(WARNINGS)
        sys.path[:] = path
