"""Make smaller builds of an ONNX model: int8 by ONNX Runtime's own quantisation, float16 by its converter, and pruned ones.

Knows no release. A device runs exactly the operators in the graph. Inputs and outputs keep their types, so all builds are called alike.
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
from numpy.typing import NDArray

from fleetcast import disk_room
from fleetcast.quiet_onnxruntime import onnxruntime
from hub.core.publish.release import first_line, listed
from hub.core.publish.samples import Samples
from schemas.errors import Code, FleetcastError, Refused, mismatch
from schemas.limits import MIB

MODEL_BYTES_MAX = 1900 * MIB  # A protobuf message holds 2 GiB, and a quantiser writes the whole model into one.
NARROW_VALUES_MIN = 1024  # For smaller tensors the added names weigh more than the saved bytes.
WEIGHT_VALUES_MIN = 256  # Size of a tensor that is worth pruning; smaller ones are biases and shapes.
CALIBRATION_ROWS_MAX = 64  # Rows at a time, since every activation of these rows is held in memory.
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
PER_CHANNEL_OPSET = 13  # Earlier opsets have DequantizeLinear without an axis.
QUIET, WARNINGS = 4, 2  # onnxruntime's severities: only fatal messages, and its default.
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
    """Write the requested build of `source` to `target`; `what` names it in a refusal.

    Raises:
        Refused: VARIANT_FAILED: this model cannot be built that way; the text has the reason.
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
    except Exception as error:  # The tools raise anything: ValueError, KeyError, IndexError, errors of protobuf and onnxruntime.
        raise Refused(Code.VARIANT_FAILED, f"{what} cannot be made: {type(error).__name__}: {first_line(error)}") from error


def sparsity_of(path: Path) -> float:
    """Return the share of zeros among the weights that pruning would consider."""
    model = onnx.load_model(str(path))
    _lift_constants(model.graph)
    weights = [values for _, values in _weights(model)]
    total = sum(values.size for values in weights)
    return sum(int((values == 0).sum()) for values in weights) / total if total else 0.0


def _load(what: str, source: Path) -> onnx.ModelProto:
    """Return the model with its external data loaded."""
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
    """Make a build with weights in int8, and activations by the range of each request.

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
    """Make a build with weights and activations in int8; the range of activations is that of the calibration rows."""
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
        """Yield the calibration rows, a few at a time."""

        def __init__(self) -> None:
            self._batches = rows.batches(CALIBRATION_ROWS_MAX)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """Return inputs by name; None when there are no more."""
            found = next(self._batches, None)
            return found[2] if found is not None else None

    onnx.save_model(model, str(scratch / "source.onnx"))
    ready = scratch / "ready.onnx"
    # The model is fused and has inferred shapes; symbolic inference would need sympy, and plain inference is enough for quantisation.
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
        reduce_range=True,  # See above.
    )
    return _quantised(what, model, onnx.load_model(str(scratch / "made.onnx")), expected)


def _flatten_biases(path: Path) -> None:
    """Change biases of shape [1, n] to [n], which add up alike: fusing makes them, and the quantiser fails on them (onnxruntime #24815)."""
    model = onnx.load_model(str(path))
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    others = {name for node in model.graph.node for place, name in enumerate(node.input) if (node.op_type, place) != ("Gemm", 2)}
    for tensor in model.graph.initializer:
        if tensor.name in biases - others and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]
    onnx.save_model(model, str(path))


def _check_kinds(what: str, model: onnx.ModelProto, kinds: Sequence[str], expected: str) -> None:
    """Refuse a model without any operator that the tool could change; the tool's own error would be unrelated."""
    if not any(node.op_type in kinds for node in _nodes(model.graph)):
        raise _nothing(what, model, expected)


def _quantised(what: str, before: onnx.ModelProto, after: onnx.ModelProto, expected: str) -> onnx.ModelProto:
    if not any(node.op_type in QUANTISED for node in _nodes(after.graph)):
        raise _nothing(what, before, expected)
    return after


def _narrow(what: str, model: onnx.ModelProto) -> None:
    """Store large weights in int8 and compute as before: w = scale * q, one scale per output channel, |q| at most 127.

    A quarter of the bytes travel. The two operators that turn them into floats again are folded when the model is loaded, so a device
    computes, and holds in memory, what it would for the original. Processors do not differ, as they do with activations in int8.
    """
    if not sum(_narrow_graph(graph) for graph in reversed(list(_graphs(model.graph)))):
        raise _nothing(what, model, f"weights in float32 with two axes and at least {NARROW_VALUES_MIN} values")


def _narrow_graph(graph: onnx.GraphProto) -> int:
    given = {one.name for one in graph.input}  # A default that a request may replace is not a weight.
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
    """Convert weights and computations to float16 where operators accept it; inputs and outputs keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415
    from onnxruntime.transformers.onnx_model import OnnxModel  # noqa: PLC0415

    was = sum(tensor.data_type == onnx.TensorProto.FLOAT for tensor in _initializers(model.graph))
    halved = convert_float_to_float16(onnx.ModelProto.FromString(model.SerializeToString()), keep_io_types=True)
    if was == 0 or not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in _initializers(halved.graph)):
        raise _nothing(what, model, "weights in float32 of operators that take float16")
    sorted_ = OnnxModel(halved)
    sorted_.topological_sort()  # Casts were added at the end.
    found: onnx.ModelProto = sorted_.model
    return found


def _prune(what: str, model: onnx.ModelProto, sparsity: float) -> None:
    """Set the smallest of each large tensor's weights to zero, in place (magnitude pruning: Han et al. 2015, arXiv:1506.02626).

    Fewer bytes travel, since zeros compress well; memory and computation on a device stay the same.
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
    """Return float tensors with two axes or more that are an operator's weights, wherever they are in the model."""
    named = {node.input[place] for node in _nodes(model.graph) for place in WEIGHTED.get(node.op_type, ()) if place < len(node.input)}
    for tensor in _initializers(model.graph):
        if tensor.name in named and tensor.data_type in FLOATS and len(tensor.dims) >= 2:
            values = onnx.numpy_helper.to_array(tensor)
            if values.size >= WEIGHT_VALUES_MIN:
                yield tensor, values


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn tensors of Constant nodes into initializers, which mean the same: the tools look only there, and exporters write both."""
    for inner in reversed(list(_graphs(graph))):  # Inner graphs come first, since a replaced message is replaced by a copy.
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
    """Replace the messages of a repeated field by these, some of which may be in it."""
    copies = [type(one).FromString(one.SerializeToString()) for one in messages]
    del field[:]
    field.extend(copies)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs in its nodes."""
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
    """Restore the publisher's description of inputs and outputs: a tool's shape inference changes names and sizes of axes."""
    for field, declared in ((model.graph.input, inputs), (model.graph.output, outputs)):
        by_name = {one.name: one for one in declared}
        for one in field:
            if one.name in by_name and one.type.tensor_type.elem_type == by_name[one.name].type.tensor_type.elem_type:
                one.CopyFrom(by_name[one.name])


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the tools' advice on the terminal, and the folder that one of them adds to the path."""
    path, level = list(sys.path), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(QUIET)
    try:
        yield
    finally:
        logging.disable(level)
        onnxruntime.set_default_logger_severity(WARNINGS)
        sys.path[:] = path
