"""Read an ONNX model: its signature, its answers, and the files beside it that hold its weights. Only this module of the hub reads ONNX."""

import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import ValidationError

from hub.core.delivery.chunker import ONNX_DTYPES, TensorSpan
from hub.core.publish import release as core
from schemas.errors import Code, Refused, mismatch
from schemas.limits import FILE_BYTES_MAX, FILES_PER_VARIANT_MAX
from schemas.manifest import Tensor
from schemas.names import FILE_PATTERN

OFFSET_DIGITS_MAX = 20  # As many as any place in a file has.
STANDARD = "ai.onnx"  # The empty name means the same domain.
DOMAINS = {STANDARD, "ai.onnx.ml", "com.microsoft"}  # Domains that onnxruntime includes.
COLUMNS_KEY = "fleetcast.columns"  # Key in the model's own metadata for its features in order, separated by commas.
Arrays = dict[str, NDArray[Any]]


class OnnxModel:
    """Hold a loaded model and its signature."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types without a base of their own.
            raise Refused(Code.MODEL_LOAD, f"{path} cannot be loaded as an ONNX model: {core.first_line(error)}") from error
        self.inputs = tuple(_tensor(path, one) for one in self._session.get_inputs())
        self.outputs = tuple(_tensor(path, one) for one in self._session.get_outputs())
        self.axes = {one.name: tuple(axis if isinstance(axis, str) else "" for axis in one.shape) for one in self._session.get_inputs()}
        if not self.inputs:
            reason = "expected at least one, found none: its answer is always the same; give that to programs as a file"
            raise Refused(Code.MODEL_SIGNATURE, f"{path}: inputs: {reason}")
        named = self._session.get_modelmeta().custom_metadata_map.get(COLUMNS_KEY)
        self.columns = tuple(name.strip() for name in named.split(",")) if named else None

    def run(self, feeds: Mapping[str, NDArray[Any]], code: Code, *, seconds_max: float | None = None) -> Arrays:
        """Return the outputs by name.

        Raises:
            Refused: the model failed, or took longer than it may; the error carries `code`.
        """
        names = [tensor.name for tensor in self.outputs]
        options = ort.RunOptions()
        timer = threading.Timer(seconds_max, setattr, (options, "terminate", True)) if seconds_max is not None else None
        try:
            if timer is not None:
                timer.start()
            return {name: np.asarray(value) for name, value in zip(names, self._session.run(names, dict(feeds), options), strict=True)}
        except Exception as error:  # See above.
            raise Refused(code, f"the model cannot be run on these inputs: {core.first_line(error)}") from error
        finally:
            if timer is not None:
                timer.cancel()


def known_providers() -> list[str]:
    """Return the execution providers that ONNX Runtime has a name for, here or on other devices."""
    return list(ort.get_all_providers())


def write_with_shapes(source: Path, target: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the model with other declared shapes of some inputs and outputs, -1 for a free axis; its external data is placed beside it.

    Raises:
        Refused: the model cannot be read.
    """
    external = external_data(source)
    model = onnx.load_model(str(source), format="protobuf", load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in shapes:
            declared = value.type.tensor_type.shape
            names = [axis.dim_param for axis in declared.dim]
            del declared.dim[:]
            for at, length in enumerate(shapes[value.name]):
                axis = declared.dim.add()
                if length >= 0:
                    axis.dim_value = length
                else:
                    axis.dim_param = names[at] if at < len(names) and names[at] else f"{value.name}_{at}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(model.SerializeToString())
    for name in external:
        beside = target.parent / name
        beside.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.hardlink_to((source.parent / name).resolve())
        except OSError:  # The folder is on another disk, or the disk has no links.
            shutil.copyfile(source.parent / name, beside)


def _tensor(path: Path, one: Any) -> Tensor:
    if one.type not in core.DATATYPES:
        hint = "; convert a classifier with zipmap=False" if "map" in one.type else ""
        what = f"{path}: type of tensor {one.name!r}"
        raise mismatch(Code.MODEL_SIGNATURE, what, expected=f"one of {', '.join(core.DATATYPES)}", actual=one.type + hint)
    shape = tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in one.shape)
    try:
        return Tensor.model_validate({"name": one.name, "datatype": core.DATATYPES[one.type], "shape": shape})
    except ValidationError as error:
        raise core.invalid(Code.MODEL_SIGNATURE, f"{path}: tensor {one.name[:64]!r}", error) from None


def external_data(path: Path) -> dict[str, list[TensorSpan]]:
    """Return the files beside the model that hold its weights, by the name in the model, and where each tensor is in them.

    Raises:
        Refused: the file is not ONNX, or points outside its own folder.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= FILE_BYTES_MAX:
            raise mismatch(Code.MODEL_LOAD, f"{path}: size", expected=f"1 to {FILE_BYTES_MAX} bytes", actual=size)
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise Refused(Code.MODEL_LOAD, f"{path} cannot be read: {error.strerror}") from None
    except Refused:
        raise
    except Exception as error:  # The module of protobuf's decode error differs between versions.
        raise Refused(Code.MODEL_LOAD, f"{path} is not an ONNX model, or is cut short: {core.first_line(error)}") from error
    if not model.graph.node or not model.opset_import:
        raise Refused(Code.MODEL_LOAD, f"{path} is not an ONNX model, or is cut short: it has no graph")
    _check_operators(path, model)
    found: dict[str, list[TensorSpan]] = {}
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries, name = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}, _text(tensor.name)
            location, offset, length = entries.get("location", ""), entries.get("offset", "0"), entries.get("length", "")
            if location not in found:
                _check_location(path.parent, location, name)
            spans = found.setdefault(location, [])
            if all(one.isdecimal() and len(one) <= OFFSET_DIGITS_MAX for one in (offset, length)):
                spans.append(TensorSpan(int(offset), int(length), name[:256], ONNX_DTYPES.get(tensor.data_type)))
    if len(found) >= FILES_PER_VARIANT_MAX:
        expected = f"fewer than {FILES_PER_VARIANT_MAX}"
        raise mismatch(Code.MODEL_EXTERNAL_DATA, f"{path}: files of external data", expected=expected, actual=len(found))
    return found


def _text(found: str | bytes) -> str:
    """Return a text of the file. The library gives bytes where they are not UTF-8."""
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    """Check that a device's runtime, which gets no library of the publisher's, can know every operator."""
    newest = onnx.defs.onnx_opset_version()
    imported = {one.domain or STANDARD: one.version for one in model.opset_import}
    for domain in {one.domain or STANDARD for one in _all_nodes(model)}:
        if domain not in imported:
            raise mismatch(Code.MODEL_LOAD, f"{path}: opset of its operators of {domain}", expected="a version", actual="none")
    if imported.get(STANDARD, 1) > newest:
        raise mismatch(Code.MODEL_LOAD, f"{path}: opset of {STANDARD}", expected=f"at most {newest}", actual=imported[STANDARD])
    own = DOMAINS | {one.domain or STANDARD for one in model.functions}
    custom = sorted({f"{one.domain}.{one.op_type}" for one in _all_nodes(model) if (one.domain or STANDARD) not in own})
    if custom:
        expected = f"those of {', '.join(sorted(DOMAINS))}, which every device has"
        raise mismatch(Code.MODEL_LOAD, f"{path}: operators", expected=expected, actual=f"custom ones, {core.listed(custom)}")


def _all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of the graph and of the graphs in its nodes; nodes of functions import opsets of their own."""
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            yield node
            for attribute in node.attribute:
                graphs += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model, wherever it is: onnxruntime reads the external data of all of them."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            yield from (part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices))
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            yield from (part for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors) for part in (sparse.values, sparse.indices))
            graphs += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _check_location(folder: Path, location: str, tensor: str) -> None:
    what = f"external data of tensor {tensor[:64]!r}"
    inside = f"a file inside {folder.resolve()}"
    # The pattern allows no "..", no absolute path and no unusual character, so it is checked first.
    if not re.fullmatch(FILE_PATTERN[1:-1], location):
        raise mismatch(Code.MODEL_EXTERNAL_DATA, what, expected=f"{inside}, named with A-Z, a-z, 0-9 and ._-", actual=repr(location[:128]))
    target = (folder / location).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise mismatch(Code.MODEL_EXTERNAL_DATA, what, expected=inside, actual=f"{location}, a link to {target}")
    if not target.is_file():
        raise mismatch(Code.MODEL_EXTERNAL_DATA, what, expected=inside, actual=f"no {location} there")
    if not 0 < target.stat().st_size <= FILE_BYTES_MAX:
        size = target.stat().st_size
        raise mismatch(Code.MODEL_EXTERNAL_DATA, f"{what}: size of {location}", expected=f"1 to {FILE_BYTES_MAX} bytes", actual=size)
