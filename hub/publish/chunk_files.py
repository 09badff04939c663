"""Cut, encode and describe the files of a release on their way into the store, in bounded memory whatever their size."""

import hashlib
import mmap
import re
import stat
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Protocol

from hub.core.delivery.chunker import TENSOR_BYTES_MIN, Span, TensorSpan, cut, tensors
from hub.core.delivery.delta_base import Earlier, Likeness, ancestor, plan
from hub.core.delivery.encode import Ancestor, encode_block
from hub.core.publish import release as core
from schemas.errors import Code, Refused, mismatch
from schemas.limits import BLOCK_BYTES_MAX, FILE_BYTES_MAX, FILES_PER_VARIANT_MAX
from schemas.manifest import Block, File
from schemas.names import FILE_PATTERN, sha256

MODEL_FILE, GOLDEN_FILE = "model.onnx", "golden.npz"
ENCODERS = 4  # Number of threads, since zstd releases the interpreter lock; a publisher's machine has at least this many cores.
BLOCKS_AHEAD = 64  # Blocks that are read before they are encoded: 8 MB, whatever the model's size.
Progress = Callable[[str, int, int], None]


class Batch(Protocol):
    """Collect payloads that are stored together or not at all."""

    @property
    def added_bytes(self) -> int:
        """Return how many bytes the store grows by with them."""

    def put(self, digest: bytes, data: bytes) -> None:
        """Add one payload."""


class Payloads(Protocol):
    """Store payloads: hub.publish.block_store.BlockStore."""

    def batch(self) -> AbstractContextManager[Batch]:
        """Store many payloads: all are durable when the block ends, none is kept when an exception leaves it."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identify the state of a file by its size in bytes, time of last change and inode."""

    bytes: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Return the stamp of a file.

        Raises:
            Refused: the file cannot be read, is empty, or is larger than a file of a release may be.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise Refused(Code.MODEL_LOAD, f"{path} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise Refused(Code.MODEL_LOAD, f"{path} cannot be read: it is not a file")
        if not 0 < found.st_size <= FILE_BYTES_MAX:
            raise mismatch(Code.MODEL_LOAD, f"{path}: size", expected=f"1 to {FILE_BYTES_MAX} bytes", actual=found.st_size)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True, slots=True)
class Content:
    """Describe a file of the release: its name there, how it is cut, the element type of each block, and how to read it.

    `likenesses` has for each of the `parents` the similar blocks there, by block.
    """

    name: str
    cuts: list[Span]
    dtypes: list[str | None]
    open: Callable[[], IO[bytes]]
    parents: Sequence[Earlier] = ()
    likenesses: Sequence[Sequence[Likeness]] = ()

    def ancestors(self, number: int) -> list[Ancestor]:
        """Return the blocks that the block with this number may be a delta of."""
        return [ancestor(found[number], parent) for found, parent in zip(self.likenesses, self.parents, strict=True)]


@dataclass(frozen=True, slots=True)
class Stored:
    """Hold a file's description once its payloads are in the batch, and its cost on the wire in bytes."""

    file: File
    wire_bytes: int


def content_of(
    name: str,
    path: Path,
    spans: Sequence[TensorSpan] | None = None,
    *,
    block_bytes_max: int = BLOCK_BYTES_MAX,
    parents: Sequence[Earlier] = (),
) -> Content:
    """Return the content of a file on disk.

    The positions of its tensors are read from it unless given. Blocks of the parents stay whole.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        found = sorted(spans) if spans is not None else tensors(view)
        planned = plan(view, found, parents, block_bytes_max=block_bytes_max)
    return Content(name, planned.cuts, _dtypes(planned.cuts, found), _opener(path), parents, planned.likenesses)


def content_of_bytes(name: str, data: bytes, *, block_bytes_max: int = BLOCK_BYTES_MAX) -> Content:
    """Return the content of a file that was made here."""
    cuts = cut(len(data), [], block_bytes_max=block_bytes_max)
    return Content(name, cuts, [None] * len(cuts), lambda: BytesIO(data))


def _dtypes(cuts: Sequence[Span], spans: Sequence[TensorSpan]) -> list[str | None]:
    """Return the element type of each block: that of the large tensor in which it begins."""
    large = [span for span in spans if span.length >= TENSOR_BYTES_MIN]
    begins = [span.offset for span in large]
    found: list[str | None] = []
    for at, _ in cuts:
        place = bisect_right(begins, at) - 1
        inside = place >= 0 and at < large[place].offset + large[place].length
        found.append(large[place].dtype if inside else None)
    return found


def check_names(names: Sequence[str]) -> None:
    """Check that these can be the names of one variant's files.

    Raises:
        Refused: there are too many, a name is not allowed, or two names differ only in case.
    """
    for name in names:
        if not re.fullmatch(FILE_PATTERN[1:-1], name):
            raise mismatch(Code.ARTIFACT_PATH, "name of a file", expected="A-Z, a-z, 0-9 and ._- in folders", actual=repr(name[:128]))
    folded = [name.casefold() for name in names]
    if len(set(folded)) != len(folded) or len(names) > FILES_PER_VARIANT_MAX:
        expected = f"at most {FILES_PER_VARIANT_MAX} names, no two that differ only in case"
        raise mismatch(Code.MODEL_EXTERNAL_DATA, "files of a release", expected=expected, actual=core.listed(list(names)))


def store_content(
    content: Content, batch: Batch, encoders: ThreadPoolExecutor, progress: Progress, *, inline: bool, source: Path
) -> Stored:
    """Read, encode and store a file; at most `BLOCKS_AHEAD` blocks are in memory.

    Raises:
        Refused: the file was changed meanwhile.
    """
    blocks: list[Block] = []
    digest = hashlib.sha256()
    total = sum(length for _, length in content.cuts)
    with content.open() as file:
        for at in range(0, len(content.cuts), BLOCKS_AHEAD):
            ahead = content.cuts[at : at + BLOCKS_AHEAD]
            progress(f"encoding {content.name}", ahead[0][0], total)
            read = [file.read(length) for _, length in ahead]
            if [len(data) for data in read] != [length for _, length in ahead]:
                raise changed(source)
            for data in read:
                digest.update(data)
            numbers = range(at, at + len(ahead))
            for block, payloads in encoders.map(lambda data, number: _encode(content, data, number), read, numbers):
                blocks.append(block)
                for name, payload in payloads.items():
                    batch.put(name, payload)
    described, index = core.assemble_file(content.name, digest.digest(), blocks, inline=inline)
    for name, payload in index.items():
        batch.put(name, payload)
    return Stored(described, core.wire_bytes(blocks) + core.wire_bytes(described.index))


def file_of(content: Content) -> File:
    """Return the description of a file without encoding or storing it; its digests are those that a release would have."""
    blocks: list[Block] = []
    digest = hashlib.sha256()
    with content.open() as file:
        for _, length in content.cuts:
            data = file.read(length)
            digest.update(data)
            blocks.append(Block(sha256(data), length))
    return core.assemble_file(content.name, digest.digest(), blocks, inline=len(blocks) <= core.INLINE_BLOCKS_MAX)[0]


def _encode(content: Content, data: bytes, number: int) -> tuple[Block, dict[bytes, bytes]]:
    return encode_block(data, dtype=content.dtypes[number], parents=content.ancestors(number))


def changed(path: Path) -> Refused:
    """Return the refusal for a publisher's file that changed while it was read."""
    return Refused(Code.MODEL_LOAD, f"{path} was changed while it was being published: publish it again")


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        try:
            return path.open("rb")
        except OSError:
            raise changed(path) from None

    return opened
