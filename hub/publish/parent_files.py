"""Rebuild files of earlier releases from their blocks, so that a new release can be a delta of them."""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path

from hub.core.delivery.chunker import tensors
from hub.core.delivery.delta_base import Earlier
from hub.publish.block_store import BlockStore
from schemas.manifest import Block, File, Manifest, Variant, blocks_of


class ParentFiles:
    """Look up files of earlier releases by variant and name. They are rebuilt in the scratch folder on first use."""

    def __init__(self, manifests: Sequence[Manifest], blocks: BlockStore, scratch: Path, stack: ExitStack) -> None:
        self._manifests, self._blocks, self._scratch, self._stack = manifests, blocks, scratch, stack
        self._opened: dict[File, Earlier] = {}

    def __call__(self, variant: str, path: str) -> list[Earlier]:
        """Return this file of this variant from each release that has it, in the order of the releases.

        A release without a variant of that name is searched in its order of preference, since its only build may have had another
        name. If a model has a new name in each version, its counterpart is the build's first file, if it is of the same kind.

        Raises:
            Refused: the store has lost a block, or the disk has no room.
            Unreachable: the disk does not answer.
        """
        found = (_find(manifest.variants, variant, path) for manifest in self._manifests)
        return [self._open(file) for file in found if file is not None]

    def _open(self, file: File) -> Earlier:
        if file not in self._opened:
            listed = blocks_of(file, lambda part: self._blocks.read(part.digest))
            self._opened[file] = _open(self._scratch / str(len(self._opened)), listed, self._blocks, self._stack)
        return self._opened[file]


@contextmanager
def parent_files(manifests: Sequence[Manifest], blocks: BlockStore, scratch: Path) -> Iterator[ParentFiles]:
    """Rebuild the files of these releases in the scratch folder for as long as they are used."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        yield ParentFiles(manifests, blocks, folder, stack)


def _find(variants: Sequence[Variant], name: str, path: str) -> File | None:
    same = [variant for variant in variants if variant.name == name]
    for variant in same or variants:
        for file in variant.files:
            if file.path == path:
                return file
    first = (same or variants)[0].files[0]
    return first if Path(first.path).suffix == Path(path).suffix else None


def _open(path: Path, listed: Sequence[Block], blocks: BlockStore, stack: ExitStack) -> Earlier:
    with path.open("wb") as target:
        for block in listed:
            target.write(blocks.read(block.digest))
    source = stack.enter_context(path.open("rb"))
    data = stack.enter_context(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
    view = stack.enter_context(memoryview(data))
    ends = list(accumulate(block.bytes for block in listed))
    cuts = [(end - block.bytes, block.bytes) for end, block in zip(ends, listed, strict=True)]
    return Earlier(cuts, [block.digest for block in listed], tensors(view), lambda at, size: bytes(view[at : at + size]))
