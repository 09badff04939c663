"""Turns `model.onnx`, its reference and its golden inputs into a manifest and stored blocks. The hub's only reader of ONNX."""

import hashlib
import io
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from hub.core import release as core
from hub.core.baseline import build_baseline
from hub.core.cutting import tensor_spans
from hub.core.noise import sigma2_for
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.limits import FILE_BYTES_MAX, MIB
from schemas.manifest import Baseline, File, Golden, Limits, Manifest, Privacy, Tensor, Variant
from schemas.names import check_name, check_version, sha256

GOLDEN_BYTES_MAX = 16 * MIB  # every node of the fleet fetches it
BATCH_ROWS = 4096
_DATATYPES = {
    "tensor(float)": ("FP32", np.float32),
    "tensor(double)": ("FP64", np.float64),
    "tensor(float16)": ("FP16", np.float16),
    "tensor(int8)": ("INT8", np.int8),
    "tensor(int16)": ("INT16", np.int16),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(uint16)": ("UINT16", np.uint16),
    "tensor(uint32)": ("UINT32", np.uint32),
    "tensor(uint64)": ("UINT64", np.uint64),
    "tensor(bool)": ("BOOL", np.bool_),
    "tensor(string)": ("BYTES", np.object_),
}
Arrays = dict[str, NDArray[Any]]


class Payloads(Protocol):
    """Where payloads are kept."""

    def put(self, digest: bytes, data: bytes) -> None:
        """Keep one."""

    def sync(self) -> None:
        """Make all durable."""


class Columns(Protocol):
    """A reference, read."""

    columns: dict[str, NDArray[Any]]

    def without(self, name: str | None) -> Arrays:
        """The columns but one."""

    def column(self, name: str) -> NDArray[Any]:
        """One column."""


@dataclass(frozen=True)
class PublishRequest:
    """What the publisher says."""

    model_path: Path
    name: str
    version: str
    reference: Columns | None = None
    blocks_column: str | None = None
    feature_columns: tuple[str, ...] | None = None
    signals: tuple[str, ...] | None = None
    golden_path: Path | None = None
    description: str = ""
    licence: str = ""
    parent: bytes | None = None
    epsilon: float = 1.0
    delta: float = 1e-6
    window_seconds: int = 3600
    limits: Limits = field(default_factory=Limits)
    progress: Callable[[str, int, int], None] = lambda what, done, total: None


@dataclass(frozen=True)
class BuiltRelease:
    """A manifest, its bytes and its name; every payload it speaks of is stored."""

    manifest: Manifest
    document: bytes
    digest: bytes


def build(request: PublishRequest, store: Payloads, *, now: int) -> BuiltRelease:
    """Read, check, cut, encode, store and describe.

    Raises:
        Refused: whatever is wrong with the model, the reference or the golden inputs, in a sentence.
    """
    check_name("model", request.name)
    check_version(request.version)
    external = _external_files(request.model_path)
    session = _session(request.model_path)
    inputs = tuple(_tensor(one) for one in session.get_inputs())
    outputs = tuple(_tensor(one) for one in session.get_outputs())
    baseline, privacy, golden_data = _watch(request, session, inputs)
    if request.golden_path is not None:
        golden_data = _read_golden(request.golden_path, session, inputs, outputs)
    files = [_store_path(request, "model.onnx", request.model_path, store)]
    files += [_store_path(request, name, path, store) for name, path in external.items()]
    golden = None
    if golden_data is not None:
        golden = Golden(file=_store_bytes("golden.npz", golden_data, store))
    store.sync()
    manifest = Manifest(
        model=request.name,
        version=request.version,
        created=now,
        description=request.description,
        licence=request.licence,
        parent=request.parent,
        inputs=inputs,
        outputs=outputs,
        variants=(Variant(name="default", files=tuple(files)),),
        golden=golden,
        limits=request.limits,
        baseline=baseline,
        privacy=privacy,
    )
    document = codec.encode(manifest)
    return BuiltRelease(manifest, document, sha256(document))


# The model


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen kinds, none of them its own base
        raise Refused(Code.MODEL_LOAD, f"{path} cannot be loaded as an ONNX model: {_first_line(error)}") from error


def _external_files(path: Path) -> dict[str, Path]:
    """Files beside the model that hold its weights, by the name under which it looks for them.

    Raises:
        Refused: not an ONNX file, or one that points outside its own folder.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= FILE_BYTES_MAX:
            raise mismatch(Code.MODEL_LOAD, f"{path}: size", expected=f"1 to {FILE_BYTES_MAX} bytes", actual=size)
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node or not model.opset_import:
            raise Refused(Code.MODEL_LOAD, f"{path} is not an ONNX model: it has no graph")
    except OSError as error:
        raise Refused(Code.MODEL_LOAD, f"{path}: {error.strerror}") from None
    except Refused:
        raise
    except Exception as error:  # protobuf's decode error changes its home between versions
        raise Refused(Code.MODEL_LOAD, f"{path} is not an ONNX model, or is cut short: {_first_line(error)}") from error
    found: dict[str, Path] = {}
    folder = path.parent.resolve()
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                found[entry.value] = _inside(folder, entry.value, tensor.name)
    return found


def _inside(folder: Path, location: str, tensor: str) -> Path:
    target = folder / location
    if Path(location).is_absolute() or ".." in Path(location).parts or not target.resolve().is_relative_to(folder):
        what = f"external data of tensor {tensor!r}"
        raise mismatch(Code.MODEL_EXTERNAL_DATA, what, expected=f"a file inside {folder}", actual=location)
    if not target.is_file():
        raise Refused(Code.MODEL_EXTERNAL_DATA, f"external data of tensor {tensor!r}: {location} is not in {folder}")
    return target


def _tensor(one: Any) -> Tensor:
    if one.type not in _DATATYPES:
        raise core.unsupported(f"type of tensor {one.name!r}:", one.type)
    shape = tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in one.shape)
    return Tensor.model_validate({"name": one.name, "datatype": _DATATYPES[one.type][0], "shape": shape})


def _run(session: ort.InferenceSession, feeds: Arrays) -> Arrays:
    names = [one.name for one in session.get_outputs()]
    try:
        return {name: np.asarray(value) for name, value in zip(names, session.run(names, feeds), strict=True)}
    except Exception as error:  # as above
        raise Refused(Code.MODEL_SIGNATURE, f"the model cannot be run on these inputs: {_first_line(error)}") from error


# The reference


def _watch(
    request: PublishRequest, session: ort.InferenceSession, inputs: Sequence[Tensor]
) -> tuple[Baseline | None, Privacy | None, bytes | None]:
    if request.reference is None:
        return None, None, None
    columns = request.reference.without(request.blocks_column)
    blocks = request.reference.column(request.blocks_column) if request.blocks_column else None
    features = core.feature_columns(inputs, list(columns), request.feature_columns)
    columns = {name: columns[name] for name, _, _ in features}
    for name, column in columns.items():
        core.check_finite(name, column)
    outputs = _outputs_over(request, session, features, columns)
    watched = core.signal_specs(features, columns, outputs, request.signals)
    baseline = build_baseline(watched, blocks)
    numerator, denominator = sigma2_for(request.epsilon, request.delta, len(watched))
    privacy = Privacy(
        epsilon=request.epsilon,
        delta=request.delta,
        sigma2_numerator=numerator,
        sigma2_denominator=denominator,
        window_seconds=request.window_seconds,
    )
    made = _feeds(features, core.golden_columns(columns), session)
    return baseline, privacy, _golden_bytes(made, _run(session, made))


def _outputs_over(
    request: PublishRequest, session: ort.InferenceSession, features: Sequence[tuple[str, Tensor, int]], columns: Arrays
) -> Arrays:
    rows = len(next(iter(columns.values())))
    parts: list[Arrays] = []
    for at in range(0, rows, BATCH_ROWS):
        request.progress("running the reference", at, rows)
        parts.append(_run(session, _feeds(features, {name: column[at : at + BATCH_ROWS] for name, column in columns.items()}, session)))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, values in found.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise mismatch(Code.MODEL_SIGNATURE, f"output {name!r} over the reference", expected="finite numbers", actual="NaN or infinity")
    return {name: values for name, values in found.items() if len(values) == rows}


def _feeds(features: Sequence[tuple[str, Tensor, int]], columns: Arrays, session: ort.InferenceSession) -> Arrays:
    kinds = {one.name: _DATATYPES[one.type][1] for one in session.get_inputs()}
    by_tensor: dict[str, list[NDArray[Any]]] = {}
    shapes = {tensor.name: tensor.shape for _, tensor, _ in features}
    for name, tensor, _ in features:
        try:
            by_tensor.setdefault(tensor.name, []).append(columns[name].astype(kinds[tensor.name]))
        except (ValueError, TypeError):
            what = f"reference column {name!r}"
            raise mismatch(Code.REFERENCE_INVALID, what, expected=tensor.datatype, actual=str(columns[name].dtype)) from None
    found = {}
    for name, parts in by_tensor.items():
        rows = len(parts[0])
        shape = (rows, *[axis if axis > 0 else 1 for axis in shapes[name][1:]])
        found[name] = np.ascontiguousarray(np.stack(parts, axis=1)).reshape(shape)
    return found


# The golden inputs


def _golden_bytes(inputs: Arrays, outputs: Arrays) -> bytes:
    target = io.BytesIO()
    arrays = {f"input.{name}": value for name, value in inputs.items()} | {f"output.{name}": value for name, value in outputs.items()}
    np.savez_compressed(target, allow_pickle=False, **{name: _plain(value) for name, value in arrays.items()})
    return target.getvalue()


def _plain(value: NDArray[Any]) -> NDArray[Any]:
    """Texts as fixed-width ones: a file with pickled objects would be refused by every node."""
    return value.astype(np.str_) if value.dtype == np.object_ else value


def _read_golden(path: Path, session: ort.InferenceSession, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
    try:
        if path.stat().st_size > GOLDEN_BYTES_MAX:
            raise mismatch(Code.GOLDEN_INVALID, f"{path}: size", expected=f"at most {GOLDEN_BYTES_MAX}", actual=path.stat().st_size)
        data = path.read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise Refused(Code.GOLDEN_INVALID, f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError) as error:
        raise Refused(Code.GOLDEN_INVALID, f"{path} is not an npz of plain arrays: {_first_line(error)}") from error
    feeds = core.need(arrays, "input", [one.name for one in inputs])
    expected = core.need(arrays, "output", [one.name for one in outputs])
    actual = _run(session, feeds)
    tolerance = Golden.model_fields
    for name, values in expected.items():
        core.check_golden(
            name, values, actual[name], relative=tolerance["relative_tolerance"].default, absolute=tolerance["absolute_tolerance"].default
        )
    return data


# Files


def _store_path(request: PublishRequest, name: str, path: Path, store: Payloads) -> File:
    total = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        digest = hashlib.file_digest(file, "sha256").digest()
        view = memoryview(data)
        spans = tensor_spans(view) if path.suffix == ".onnx" else []
        view.release()

        def read(offset: int, length: int) -> bytes:
            request.progress(f"encoding {name}", offset, total)
            return data[offset : offset + length]

        return core.store_file(name, digest, read, total, spans, store.put)


def _store_bytes(name: str, data: bytes, store: Payloads) -> File:
    return core.store_file(name, sha256(data), lambda offset, length: data[offset : offset + length], len(data), [], store.put)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].replace(os.linesep, " ")
