"""Build a manifest and stored blocks from a model, the files beside it, its reference and its golden inputs.

Everything is checked before anything is stored. A release is stored whole or not at all.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from hub.core.publish import release as core
from hub.core.publish.preview import Preview
from hub.core.publish.signals import Unwatched
from hub.publish.chunk_files import (
    ENCODERS,
    GOLDEN_FILE,
    Content,
    Payloads,
    Stamp,
    Stored,
    changed,
    check_names,
    content_of,
    content_of_bytes,
    file_of,
    store_content,
)
from hub.publish.golden import Case
from hub.publish.publish_request import PublishRequest
from hub.publish.release_spec import Described, answered, check_request, describe, with_tried
from hub.publish.variants import LeftOut
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.limits import PAYLOADS_PER_BLOCK_MAX
from schemas.manifest import File, Golden, Joining, Manifest, Requirements, Variant
from schemas.names import check_name, check_version, sha256
from schemas.signals import Privacy

Key = Path | Case  # The origin of a content: a file on disk, or golden inputs that were put together here.


@dataclass(frozen=True, slots=True)
class BuiltVariant:
    """Describe a variant as a device without any blocks sees it: the size of its files, and what it fetches."""

    name: str
    file_bytes: int
    wire_bytes: int


@dataclass(frozen=True)
class BuiltRelease:
    """Hold a manifest, its bytes and its digest, which identifies the release. Every payload that it names is stored and durable."""

    manifest: Manifest
    document: bytes
    digest: bytes
    variants: tuple[BuiltVariant, ...]  # Variants in the manifest's order.
    left_out: tuple[LeftOut, ...]  # Builds that were requested and are not published, with the reason.
    stored_bytes: int  # Bytes by which the store grew.
    unwatched: tuple[Unwatched, ...]  # Columns, outputs and signals that no window counts.
    not_calibrated: str = ""  # Why nodes get no baselines of their own, although they would by default.
    joining: Mapping[str, Joining | None] = field(default_factory=dict)  # Whether rows may be joined, by variant; None if it was not tried.
    preview: Preview = field(default_factory=Preview)


def build(request: PublishRequest, store: Payloads, *, now: int) -> BuiltRelease:
    """Read, check, cut, encode, store and describe; `now` is in seconds since 1970, UTC.

    A model that no runtime loads becomes a release of files: it is delivered, verified and handed over to the program that uses it.

    Raises:
        Refused: the model, the reference, the golden inputs or the variants are wrong, or there is no room to store the release; nothing is
            left behind.
        Unreachable: the store's disk does not answer.
    """
    check_name("model", request.name)
    check_version(request.version)
    _check_settings(request)
    check_request(request)
    with tempfile.TemporaryDirectory(prefix="fleetcast-build-") as scratch:
        described = describe(request, Path(scratch))
        release = _Release(request, described)
        if described.unanswered is not None:
            release = _Release(request, _asked(request, release, Path(scratch), now=now))
        elif described.tried:
            release = _Release(request, _tried(request, described, Path(scratch), now=now))
        if request.confirm is not None:
            request.confirm(release.described.preview)
        return _store_all(request, release, store, now=now)


class _Release:
    """Collect the files of all builds, each file once, and the builds that use it."""

    def __init__(self, request: PublishRequest, described: Described) -> None:
        self.described = described
        self.files: list[dict[str, Key]] = []  # Files of each part, by the name that they have in it.
        self.stamps: dict[Path, Stamp] = {}
        self.contents: dict[Key, Content] = {}
        parents = PAYLOADS_PER_BLOCK_MAX - 1
        for part in described.parts:
            more = {path.name: path for path in request.more_files}
            if len(more) != len(request.more_files) or more.keys() & part.paths.keys():
                given = [*part.paths, *(path.name for path in request.more_files)]
                raise mismatch(Code.ARTIFACT_PATH, "files of a release", expected="each name once", actual=core.listed(given))
            files: dict[str, Key] = {**part.paths, **more}
            check_names([*files, *([GOLDEN_FILE] if part.case or described.case else [])])
            self.files.append(files)
            for name, path in {**part.paths, **more}.items():
                if path not in self.contents:
                    self.stamps[path] = Stamp.of(path)
                    self.contents[path] = content_of(
                        name,
                        path,
                        part.spans.get(name),
                        block_bytes_max=request.block_bytes_max,
                        parents=request.parents(part.name, name)[:parents],
                    )
        for case in described.cases:
            self.contents[case] = content_of_bytes(GOLDEN_FILE, case.data, block_bytes_max=request.block_bytes_max)

    def sources(self) -> Iterator[tuple[Content, Path]]:
        """Return every content, with the publisher's file to name if it changes meanwhile."""
        model = next(iter(self.stamps))
        return ((content, key if isinstance(key, Path) else model) for key, content in self.contents.items())

    def variants(self, described: Mapping[Key, File], *, states_joining: bool) -> Iterator[Variant]:
        """Return the variants for the manifest."""
        for part, files in zip(self.described.parts, self.files, strict=True):
            yield Variant(
                name=part.name,
                runtime=part.runtime,
                requirements=part.requirements,
                files=tuple(described[key] for key in files.values()),
                golden=_golden(part.case, described) if part.case is not None else None,
                measured=part.measured,
                joining=part.joining if states_joining else None,
            )


def _store_all(request: PublishRequest, release: _Release, store: Payloads, *, now: int) -> BuiltRelease:
    deltas = min(PAYLOADS_PER_BLOCK_MAX - 1, len(request.parent_releases))
    contents = list(release.contents.values())
    inline = core.inline_files([len(content.cuts) for content in contents], deltas=deltas)

    def describe_as(files: Sequence[File]) -> Manifest:
        return _manifest(request, release, dict(zip(release.contents, files, strict=True)), now=now)

    core.check_size(
        describe_as(
            [core.foreseen_file(one.name, one.cuts, inline=fits, deltas=deltas) for one, fits in zip(contents, inline, strict=True)]
        )
    )
    with store.batch() as batch, ThreadPoolExecutor(ENCODERS) as encoders:
        stored = [
            store_content(content, batch, encoders, request.progress, inline=one, source=source)
            for (content, source), one in zip(release.sources(), inline, strict=True)
        ]
        for path, stamp in release.stamps.items():
            if Stamp.of(path) != stamp:
                raise changed(path)
        manifest = describe_as([one.file for one in stored])
        document = codec.encode(manifest)
    return BuiltRelease(
        manifest=manifest,
        document=document,
        digest=sha256(document),
        variants=tuple(_built_variants(manifest, stored)),
        left_out=release.described.left_out,
        stored_bytes=batch.added_bytes,
        unwatched=release.described.watch.unwatched,
        not_calibrated=release.described.watch.not_calibrated,
        joining={part.name: part.joining for part in release.described.parts},
        preview=release.described.preview,
    )


def _built_variants(manifest: Manifest, stored: Sequence[Stored]) -> Iterator[BuiltVariant]:
    wire_bytes = {one.file: one.wire_bytes for one in stored}
    for variant in manifest.variants:
        files = manifest.files_of(variant.name)
        yield BuiltVariant(variant.name, sum(file.bytes for file in files), sum(wire_bytes[file] for file in files))


def _tried(request: PublishRequest, described: Described, scratch: Path, *, now: int) -> Described:
    """Return the release with the first made-up golden inputs that its runtime answers; without any where the runtime is not here.

    Raises:
        Refused: GOLDEN_INVALID: it answers none of them with finite numbers.
    """
    why = ""
    for number, one in enumerate(described.tried):
        folder = scratch / f"try-{number}"
        folder.mkdir()
        try:
            return _asked(request, _Release(request, with_tried(described, one, request.golden_terms)), folder, now=now)
        except Refused as refusal:
            if refusal.code is Code.RUNTIME_ABSENT:
                return described
            why = refusal.reason
    raise Refused(
        Code.GOLDEN_INVALID,
        f"{request.model_path}: golden inputs, which every device has to answer before it serves: {len(described.tried)} were made up, and"
        f" the model answered none of them; give some with --golden, or publish without any by --no-proof; the last: {why}",
    )


def _asked(request: PublishRequest, release: _Release, scratch: Path, *, now: int) -> Described:
    """Return the release with answers to its golden inputs, from the runtime of its first build."""
    assert request.answers is not None  # noqa: S101  # release_spec has checked it
    folder = scratch / "asked"
    folder.mkdir()
    described = {key: file_of(content) for key, content in release.contents.items()}
    for key, file in described.items():
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(key, Path):
            if not target.exists():  # With several builds, the first one answers.
                _place(key.resolve(), target)
        else:
            target.write_bytes(key.data)
    manifest = _manifest(request, release, described, now=now)
    first = manifest.variants[0].model_copy(update={"requirements": Requirements()})
    request.progress("asking the golden inputs", 0, 1)
    answers = request.answers(manifest.model_copy(update={"variants": (first,)}), folder)
    return answered(release.described, answers, what=f"answers of {request.model_path.name}")


def _place(source: Path, target: Path) -> None:
    """Link the file into the folder, or copy it where the disk has no links.

    A symbolic link would lead outside the folder and be refused.
    """
    try:
        target.hardlink_to(source)
    except OSError:  # The folder is on another disk, or the disk has no links.
        shutil.copyfile(source, target)


# Description of the release


def _check_settings(request: PublishRequest) -> None:
    try:
        Privacy(
            epsilon=request.epsilon, delta=request.delta, sigma2_numerator=1, sigma2_denominator=1, window_seconds=request.window_seconds
        )
    except ValidationError as error:
        raise core.invalid(Code.SETTINGS_INVALID, "telemetry", error) from None


def _manifest(request: PublishRequest, release: _Release, described: Mapping[Key, File], *, now: int) -> Manifest:
    case = release.described.case
    shared = case is not None and any(part.case is None for part in release.described.parts)
    try:
        return Manifest(
            model=request.name,
            version=request.version,
            created=now,
            description=request.description,
            licence=request.licence,
            parent=request.parent,
            parents=request.parent_releases or None,
            inputs=release.described.inputs,
            outputs=release.described.outputs,
            variants=tuple(release.variants(described, states_joining=request.states_joining)),
            golden=_golden(case, described) if case is not None and shared else None,
            limits=request.limits,
            baseline=release.described.watch.baseline,
            privacy=release.described.watch.privacy,
            parameters=request.parameters or None,
            accuracy=release.described.accuracy,
        )
    except ValidationError as error:
        raise core.invalid(Code.SETTINGS_INVALID, "release", error) from None


def _golden(case: Case, described: Mapping[Key, File]) -> Golden:
    return Golden(file=described[case], **case.terms.stated)
