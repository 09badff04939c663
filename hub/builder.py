"""Turns `model.onnx`, its reference and its golden inputs into a manifest and stored blocks. The hub's only reader of ONNX.

Everything is checked before anything is stored, and what is stored is stored as a whole or not at all.
"""

import hashlib
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import ValidationError

from hub.core import release as core
from hub.core.baseline import build_baseline
from hub.core.cutting import Span, cut, tensor_spans
from hub.core.encode import encode_block
from hub.core.noise import sigma2_for
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.limits import FILE_BYTES_MAX, FILES_PER_VARIANT_MAX
from schemas.manifest import Baseline, Block, File, Golden, Limits, Manifest, Privacy, Tensor, Variant
from schemas.names import FILE_PATTERN, check_name, check_version, sha256

COLUMNS_KEY = "fleetcast.columns"  # of the model's own metadata: its features in order, separated by commas
MODEL_FILE, GOLDEN_FILE = "model.onnx", "golden.npz"
BATCH_ROWS = 4096  # of the reference, run through the model at a time
ENCODERS = 4  # threads, since zstd leaves the interpreter; a publisher's machine has that many cores
BLOCKS_AHEAD = 64  # read before they are encoded: 8 MB, whatever the model's size
Arrays = dict[str, NDArray[Any]]


class Batch(Protocol):
    """Payloads that are kept together or not at all."""

    @property
    def added_bytes(self) -> int:
        """How much the store grows by them."""

    def put(self, digest: bytes, data: bytes) -> None:
        """Add one."""


class Payloads(Protocol):
    """Where payloads are kept: hub.blockstore.BlockStore."""

    def batch(self) -> AbstractContextManager[Batch]:
        """Put many: durable when the block ends, none of them kept when it is left by an exception."""


class Reference(Protocol):
    """The publisher's reference data, read: hub.reference.Reference."""

    def fit(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, named: Sequence[str] | None, blocks_column: str | None
    ) -> core.Fitted:
        """The columns as the model takes them."""


@dataclass(frozen=True)
class PublishRequest:
    """What the publisher says. `feature_columns` names the reference's columns in the model's order, before what its metadata names."""

    model_path: Path
    name: str
    version: str
    reference: Reference | None = None
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
    """A manifest, its bytes and its digest, which is the release's; every payload that it names is stored and durable."""

    manifest: Manifest
    document: bytes
    digest: bytes
    file_bytes: int  # of all files, unpacked
    wire_bytes: int  # what a device that has nothing yet fetches
    stored_bytes: int  # by how much the store grew
    unwatched: tuple[str, ...]  # input columns that are no signals, because there were more than a window may hold


@dataclass(frozen=True, slots=True)
class _Content:
    """A file of the release: its name there, how it is cut, and how to read it."""

    name: str
    cuts: list[Span]
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True)
class _Watch:
    """What becomes of a reference."""

    fitted: core.Fitted | None = None
    baseline: Baseline | None = None
    privacy: Privacy | None = None
    unwatched: tuple[str, ...] = ()


def build(request: PublishRequest, store: Payloads, *, now: int) -> BuiltRelease:
    """Read, check, cut, encode, store and describe; `now` is in seconds since 1970, UTC.

    Raises:
        Refused: whatever is wrong with the model, the reference or the golden inputs, or no room to store it; nothing is left behind.
        Unreachable: the store's disk does not answer.
    """
    check_name("model", request.name)
    check_version(request.version)
    _check_settings(request)
    external = _external_data(request.model_path)
    paths = [request.model_path, *(request.model_path.parent / name for name in external)]
    stamps = [_stamp(path) for path in paths]
    model = _Model(request.model_path)
    watch = _watch(request, model)
    golden = _golden(request, model, watch.fitted)
    contents = [_model_content(request.model_path)]
    contents += [_Content(name, cut(stamps[at][0], spans), _opener(paths[at])) for at, (name, spans) in enumerate(external.items(), 1)]
    if golden is not None:
        contents.append(_Content(GOLDEN_FILE, cut(len(golden), []), lambda: BytesIO(golden)))
    inline = core.inline_files([len(content.cuts) for content in contents])

    def describe(files: Sequence[File]) -> Manifest:
        return _manifest(request, model, watch, files, with_golden=golden is not None, now=now)

    core.check_size(describe([core.foreseen_file(one.name, one.cuts, inline=fits) for one, fits in zip(contents, inline, strict=True)]))
    with store.batch() as batch, ThreadPoolExecutor(ENCODERS) as encoders:
        stored = [_store(request, content, batch, encoders, inline=one) for content, one in zip(contents, inline, strict=True)]
        if [_stamp(path) for path in paths] != stamps:
            raise _changed(request.model_path)
        manifest = describe([file for file, _ in stored])
        document = codec.encode(manifest)
    return BuiltRelease(
        manifest=manifest,
        document=document,
        digest=sha256(document),
        file_bytes=sum(file.bytes for file, _ in stored),
        wire_bytes=sum(count for _, count in stored),
        stored_bytes=batch.added_bytes,
        unwatched=watch.unwatched,
    )


# The description


def _check_settings(request: PublishRequest) -> None:
    try:
        Privacy(
            epsilon=request.epsilon, delta=request.delta, sigma2_numerator=1, sigma2_denominator=1, window_seconds=request.window_seconds
        )
    except ValidationError as error:
        raise core.invalid(Code.SETTINGS_INVALID, "telemetry", error) from None
    if request.reference is None:
        given = {"block column": request.blocks_column, "feature columns": request.feature_columns, "signals": request.signals}
        needless = [what for what, value in given.items() if value is not None]
        if needless:
            raise Refused(Code.REFERENCE_INVALID, f"{' and '.join(needless)} are named, but no reference is given")


def _manifest(request: PublishRequest, model: "_Model", watch: _Watch, files: Sequence[File], *, with_golden: bool, now: int) -> Manifest:
    try:
        return Manifest(
            model=request.name,
            version=request.version,
            created=now,
            description=request.description,
            licence=request.licence,
            parent=request.parent,
            inputs=model.inputs,
            outputs=model.outputs,
            variants=(Variant(name="default", files=tuple(files[:-1] if with_golden else files)),),
            golden=Golden(file=files[-1]) if with_golden else None,
            limits=request.limits,
            baseline=watch.baseline,
            privacy=watch.privacy,
        )
    except ValidationError as error:
        raise core.invalid(Code.SETTINGS_INVALID, "release", error) from None


# The model


class _Model:
    """A loaded model and its signature."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen kinds, none of them its own base
            raise Refused(Code.MODEL_LOAD, f"{path} cannot be loaded as an ONNX model: {core.first_line(error)}") from error
        self.inputs = tuple(_tensor(path, one) for one in self._session.get_inputs())
        self.outputs = tuple(_tensor(path, one) for one in self._session.get_outputs())
        named = self._session.get_modelmeta().custom_metadata_map.get(COLUMNS_KEY)
        self.columns = tuple(name.strip() for name in named.split(",")) if named else None

    def run(self, feeds: Arrays, code: Code) -> Arrays:
        """The outputs by name.

        Raises:
            Refused: with `code`, the model failed.
        """
        names = [tensor.name for tensor in self.outputs]
        try:
            return {name: np.asarray(value) for name, value in zip(names, self._session.run(names, feeds), strict=True)}
        except Exception as error:  # as above
            raise Refused(code, f"the model cannot be run on these inputs: {core.first_line(error)}") from error


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


def _external_data(path: Path) -> dict[str, list[Span]]:
    """Files beside the model that hold its weights, by the name under which it looks for them, and where in each a tensor stands.

    Raises:
        Refused: not an ONNX file, or one that points outside its own folder.
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
    except Exception as error:  # protobuf's decode error changes its home between versions
        raise Refused(Code.MODEL_LOAD, f"{path} is not an ONNX model, or is cut short: {core.first_line(error)}") from error
    if not model.graph.node or not model.opset_import:
        raise Refused(Code.MODEL_LOAD, f"{path} is not an ONNX model, or is cut short: it has no graph")
    found: dict[str, list[Span]] = {}
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            if location not in found:
                _check_location(path.parent, location, tensor.name)
            spans = found.setdefault(location, [])
            if entries.get("offset", "0").isdecimal() and entries.get("length", "").isdecimal():
                spans.append((int(entries.get("offset", "0")), int(entries["length"])))
    names = [name.casefold() for name in (MODEL_FILE, GOLDEN_FILE, *found)]
    if len(set(names)) != len(names) or len(found) >= FILES_PER_VARIANT_MAX:
        expected = f"fewer than {FILES_PER_VARIANT_MAX} names, none {MODEL_FILE} or {GOLDEN_FILE}, no two that differ only in case"
        raise mismatch(Code.MODEL_EXTERNAL_DATA, f"{path}: files of external data", expected=expected, actual=core.listed(list(found)))
    return found


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, wherever it may stand: onnxruntime reads the external data of all of them."""
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
    if not re.fullmatch(FILE_PATTERN[1:-1], location):  # first of all: it has no "..", is not absolute, and holds nothing odd
        raise mismatch(Code.MODEL_EXTERNAL_DATA, what, expected=f"{inside}, named with A-Z, a-z, 0-9 and ._-", actual=repr(location[:128]))
    target = (folder / location).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise mismatch(Code.MODEL_EXTERNAL_DATA, what, expected=inside, actual=f"{location}, a link to {target}")
    if not target.is_file():
        raise mismatch(Code.MODEL_EXTERNAL_DATA, what, expected=inside, actual=f"no {location} there")
    if not 0 < target.stat().st_size <= FILE_BYTES_MAX:
        size = target.stat().st_size
        raise mismatch(Code.MODEL_EXTERNAL_DATA, f"{what}: size of {location}", expected=f"1 to {FILE_BYTES_MAX} bytes", actual=size)


# The reference and the golden inputs


def _watch(request: PublishRequest, model: _Model) -> _Watch:
    if request.reference is None:
        return _Watch()
    named = request.feature_columns if request.feature_columns is not None else model.columns
    fitted = request.reference.fit(model.inputs, model.outputs, named=named, blocks_column=request.blocks_column)
    signals, unwatched = core.watched(fitted, _outputs_over(request, model, fitted), request.signals)
    numerator, denominator = sigma2_for(request.epsilon, request.delta, len(signals))
    try:
        baseline = build_baseline(signals, fitted.blocks)
        privacy = Privacy(
            epsilon=request.epsilon,
            delta=request.delta,
            sigma2_numerator=numerator,
            sigma2_denominator=denominator,
            window_seconds=request.window_seconds,
        )
    except ValidationError as error:
        raise core.invalid(Code.REFERENCE_INVALID, "baseline", error) from None
    return _Watch(fitted, baseline, privacy, unwatched)


def _outputs_over(request: PublishRequest, model: _Model, fitted: core.Fitted) -> Arrays:
    """What the model answers to the reference, [rows, ...]: outputs that have a value a row, or that a signal names."""
    parts: dict[str, list[NDArray[Any]]] = {tensor.name: [] for tensor in model.outputs}
    step = _rows_max(model, BATCH_ROWS)
    for at in range(0, fitted.rows, step):
        request.progress("running the reference", at, fitted.rows)
        rows = min(step, fitted.rows - at)
        feeds = core.feeds(fitted.features, {name: column[at : at + rows] for name, column in fitted.columns.items()})
        for name, values in model.run(feeds, Code.MODEL_RUN).items():
            by_row = values.ndim > 0 and len(values) == rows
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                row = at + int(np.argwhere(~np.isfinite(values))[0][0]) if by_row else at
                raise mismatch(
                    Code.MODEL_RUN, f"output {name!r} of reference row {row}", expected="finite numbers", actual="NaN or infinity"
                )
            wanted = values.size == rows or any(signal.startswith(f"{name}[") for signal in request.signals or ())
            if not (by_row and wanted):
                parts.pop(name, None)
            elif name in parts:
                parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _rows_max(model: _Model, rows: int) -> int:
    return 1 if any(tensor.shape[:1] == (1,) for tensor in model.inputs) else rows


def _golden(request: PublishRequest, model: _Model, fitted: core.Fitted | None) -> bytes | None:
    """The golden file as it will be shipped: the publisher's, or one made up from the reference; the model has to agree with it."""
    if request.golden_path is not None:
        what, data = str(request.golden_path), _read_golden(request.golden_path)
    elif fitted is not None:
        columns = core.golden_columns(fitted.columns, rows=_rows_max(model, core.GOLDEN_ROWS))
        feeds = core.feeds(fitted.features, columns)
        what, data = "golden inputs made from the reference", core.pack_golden(core.Golden(feeds, model.run(feeds, Code.MODEL_RUN)))
    else:
        return None
    golden = core.parse_golden(what, data, model.inputs, model.outputs)
    terms = Golden.model_fields
    core.check_golden(
        what,
        golden.outputs,
        model.run(dict(golden.inputs), Code.GOLDEN_INVALID),
        relative=terms["relative_tolerance"].default,
        absolute=terms["absolute_tolerance"].default,
    )
    return data


def _read_golden(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(core.GOLDEN_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(Code.GOLDEN_INVALID, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > core.GOLDEN_BYTES_MAX:
        raise mismatch(Code.GOLDEN_INVALID, f"{path}: size", expected=f"at most {core.GOLDEN_BYTES_MAX} bytes", actual="more")
    return data


# Files


def _stamp(path: Path) -> tuple[int, int, int]:
    """Size in bytes, time of last change and inode: what tells that a file is another."""
    try:
        found = path.stat()
    except OSError as error:
        raise Refused(Code.MODEL_LOAD, f"{path} cannot be read: {error.strerror}") from None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _changed(path: Path) -> Refused:
    return Refused(Code.MODEL_LOAD, f"{path} was changed while it was being published: publish it again")


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        try:
            return path.open("rb")
        except OSError:
            raise _changed(path) from None

    return opened


def _model_content(path: Path) -> _Content:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        return _Content(MODEL_FILE, cut(len(view), tensor_spans(view)), _opener(path))


def _store(request: PublishRequest, content: _Content, batch: Batch, encoders: ThreadPoolExecutor, *, inline: bool) -> tuple[File, int]:
    """The file's description once its payloads are in the batch, and what it costs on the wire in bytes."""
    blocks: list[Block] = []
    digest = hashlib.sha256()
    total = sum(length for _, length in content.cuts)
    with content.open() as file:
        for at in range(0, len(content.cuts), BLOCKS_AHEAD):
            ahead = content.cuts[at : at + BLOCKS_AHEAD]
            request.progress(f"encoding {content.name}", ahead[0][0], total)
            read = [file.read(length) for _, length in ahead]
            if [len(data) for data in read] != [length for _, length in ahead]:
                raise _changed(request.model_path)
            for data in read:
                digest.update(data)
            for block, payloads in encoders.map(encode_block, read):
                blocks.append(block)
                for name, payload in payloads.items():
                    batch.put(name, payload)
    described, index = core.assemble_file(content.name, digest.digest(), blocks, inline=inline)
    for name, payload in index.items():
        batch.put(name, payload)
    return described, core.wire_bytes(blocks) + core.wire_bytes(described.index)
