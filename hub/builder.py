"""Turns a model, the files beside it, its reference and its golden inputs into a manifest and stored blocks.

Everything is checked before anything is stored, and what is stored is stored as a whole or not at all.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from hub.contents import (
    ENCODERS,
    GOLDEN_FILE,
    MODEL_FILE,
    Content,
    Payloads,
    Stamp,
    changed,
    check_names,
    content_of,
    content_of_bytes,
    store_content,
)
from hub.core import release as core
from hub.core.cutting import TensorSpan
from hub.onnxmodel import OnnxModel, external_data
from hub.request import PublishRequest
from hub.watching import Watch, rows_max, watch
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.limits import PAYLOADS_PER_BLOCK_MAX
from schemas.manifest import File, Golden, Manifest, Privacy, Tensor, Variant
from schemas.names import check_name, check_version, sha256


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
class _Described:
    """What is known of a model before its files are stored; `spans` is where tensors stand in files that do not say so themselves."""

    paths: dict[str, Path]
    spans: dict[str, list[TensorSpan]]
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    watch: Watch = field(default_factory=Watch)
    golden: bytes | None = None


def build(request: PublishRequest, store: Payloads, *, now: int) -> BuiltRelease:
    """Read, check, cut, encode, store and describe; `now` is in seconds since 1970, UTC.

    A model that is no ONNX file is a release of files: delivered, verified and handed over, and run by whoever knows them.

    Raises:
        Refused: whatever is wrong with the model, the reference or the golden inputs, or no room to store it; nothing is left behind.
        Unreachable: the store's disk does not answer.
    """
    check_name("model", request.name)
    check_version(request.version)
    _check_settings(request)
    described = _onnx(request) if request.is_onnx else _Described({request.model_path.name: request.model_path}, {})
    paths = {**described.paths, **{path.name: path for path in request.more_files}}
    if len(paths) != len(described.paths) + len(request.more_files):
        raise mismatch(Code.ARTIFACT_PATH, "files of a release", expected="each name once", actual=core.listed(list(paths)))
    check_names([*paths, *([GOLDEN_FILE] if described.golden is not None else [])])
    stamps = {name: Stamp.of(path) for name, path in paths.items()}
    contents = [
        content_of(
            name,
            path,
            described.spans.get(name),
            block_bytes_max=request.block_bytes_max,
            parents=request.parents.get(name, ())[: PAYLOADS_PER_BLOCK_MAX - 1],
        )
        for name, path in paths.items()
    ]
    if described.golden is not None:
        contents.append(content_of_bytes(GOLDEN_FILE, described.golden, block_bytes_max=request.block_bytes_max))
    return _store_all(request, described, paths, stamps, contents, store, now=now)


def _store_all(
    request: PublishRequest,
    described: "_Described",
    paths: dict[str, Path],
    stamps: dict[str, Stamp],
    contents: list[Content],
    store: Payloads,
    *,
    now: int,
) -> BuiltRelease:
    deltas = min(PAYLOADS_PER_BLOCK_MAX - 1, len(request.parent_releases))
    inline = core.inline_files([len(content.cuts) for content in contents], deltas=deltas)

    def describe(files: Sequence[File]) -> Manifest:
        return _manifest(request, described, files, now=now)

    core.check_size(
        describe([core.foreseen_file(one.name, one.cuts, inline=fits, deltas=deltas) for one, fits in zip(contents, inline, strict=True)])
    )
    with store.batch() as batch, ThreadPoolExecutor(ENCODERS) as encoders:
        stored = [
            store_content(content, batch, encoders, request.progress, inline=one, source=paths.get(content.name, request.model_path))
            for content, one in zip(contents, inline, strict=True)
        ]
        for name, path in paths.items():
            if Stamp.of(path) != stamps[name]:
                raise changed(path)
        manifest = describe([one.file for one in stored])
        document = codec.encode(manifest)
    return BuiltRelease(
        manifest=manifest,
        document=document,
        digest=sha256(document),
        file_bytes=sum(one.file.bytes for one in stored),
        wire_bytes=sum(one.wire_bytes for one in stored),
        stored_bytes=batch.added_bytes,
        unwatched=described.watch.unwatched,
    )


def _onnx(request: PublishRequest) -> "_Described":
    external = external_data(request.model_path)
    model = OnnxModel(request.model_path)
    watched = watch(request, model)
    paths = {MODEL_FILE: request.model_path, **{name: request.model_path.parent / name for name in external}}
    taken = {MODEL_FILE, GOLDEN_FILE} & {name.casefold() for name in external}
    if taken:
        raise mismatch(
            Code.MODEL_EXTERNAL_DATA, f"{request.model_path}: external data", expected="other names", actual=core.listed(list(external))
        )
    return _Described(paths, external, model.inputs, model.outputs, watched, _golden(request, model, watched.fitted))


# The description


def _check_settings(request: PublishRequest) -> None:
    try:
        Privacy(
            epsilon=request.epsilon, delta=request.delta, sigma2_numerator=1, sigma2_denominator=1, window_seconds=request.window_seconds
        )
    except ValidationError as error:
        raise core.invalid(Code.SETTINGS_INVALID, "telemetry", error) from None
    if not request.is_onnx and (request.reference is not None or request.golden_path is not None):
        raise Refused(
            Code.REFERENCE_INVALID,
            f"{request.model_path} is no .onnx file: nothing here runs it, so a reference or golden inputs say nothing",
        )
    if request.reference is None:
        given = {"block column": request.blocks_column, "feature columns": request.feature_columns, "signals": request.signals}
        needless = [what for what, value in given.items() if value is not None]
        if needless:
            raise Refused(Code.REFERENCE_INVALID, f"{' and '.join(needless)} are named, but no reference is given")


def _manifest(request: PublishRequest, described: _Described, files: Sequence[File], *, now: int) -> Manifest:
    with_golden = described.golden is not None
    runtime: Literal["onnx", "files"] = "onnx" if request.is_onnx else "files"
    try:
        return Manifest(
            model=request.name,
            version=request.version,
            created=now,
            description=request.description,
            licence=request.licence,
            parent=request.parent,
            parents=request.parent_releases or None,
            inputs=described.inputs,
            outputs=described.outputs,
            variants=(Variant(name="default", runtime=runtime, files=tuple(files[:-1] if with_golden else files)),),
            golden=Golden(file=files[-1]) if with_golden else None,
            limits=request.limits,
            baseline=described.watch.baseline,
            privacy=described.watch.privacy,
        )
    except ValidationError as error:
        raise core.invalid(Code.SETTINGS_INVALID, "release", error) from None


# The reference and the golden inputs


def _golden(request: PublishRequest, model: OnnxModel, fitted: core.Fitted | None) -> bytes | None:
    """The golden file as it will be shipped: the publisher's, or one made up from the reference; the model has to agree with it."""
    if request.golden_path is not None:
        what, data = str(request.golden_path), _read_golden(request.golden_path)
    elif fitted is not None:
        columns = core.golden_columns(fitted.columns, rows=rows_max(model, core.GOLDEN_ROWS))
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
