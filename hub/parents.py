"""Files of earlier releases, put together again from their blocks, for a new release to be a delta of."""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path

from hub.blockstore import BlockStore
from hub.core.aligning import Earlier
from hub.core.cutting import tensors
from schemas.manifest import Block, File, Manifest, blocks_of


@contextmanager
def parent_files(manifests: Sequence[Manifest], blocks: BlockStore, scratch: Path) -> Iterator[dict[str, list[Earlier]]]:
    """By name, the files of these releases, the first release's first; they stand in the scratch folder as long as they are used.

    Raises:
        Refused: the store has lost a block, or the disk has no room.
        Unreachable: the disk does not answer.
    """
    found: dict[str, list[Earlier]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        for number, manifest in enumerate(manifests):
            for file in {file.path: file for variant in manifest.variants for file in variant.files}.values():
                listed = blocks_of(file, lambda part: blocks.read(part.digest))
                path = folder / f"{number}-{len(found)}-{file.digest.hex()[:16]}"
                found.setdefault(file.path, []).append(_open(path, file, listed, blocks, stack))
        yield found


def _open(path: Path, file: File, listed: Sequence[Block], blocks: BlockStore, stack: ExitStack) -> Earlier:
    with path.open("wb") as target:
        for block in listed:
            target.write(blocks.read(block.digest))
    source = stack.enter_context(path.open("rb"))
    data = stack.enter_context(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
    view = stack.enter_context(memoryview(data))
    ends = list(accumulate(block.bytes for block in listed))
    cuts = [(end - block.bytes, block.bytes) for end, block in zip(ends, listed, strict=True)]
    return Earlier(cuts, [block.digest for block in listed], tensors(view), lambda at, size: bytes(view[at : at + size]))
