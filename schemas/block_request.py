"""Define a node's request for blocks: ranges over the block list of one variant of one release."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from schemas import limits
from schemas.document import Document
from schemas.errors import Code, mismatch
from schemas.manifest import Block, EncodingName, Payload, cheapest
from schemas.names import Digest, Label


class Range(NamedTuple):
    """Name `length` consecutive blocks from `first`."""

    first: Annotated[int, Field(ge=0, le=2**31)]
    length: Annotated[int, Field(ge=1, le=2**20)]


class Want(Document):
    """Ask for blocks, counted over the variant's files in manifest order (`Manifest.files_of`), inline or through their index.

    `index` asks for the parts of the block lists instead, counted in the same way over all files' `index` entries.
    For each block the hub sends the payload at `choice` of `Block.choices` (`raw`, the last, for any larger number), or without
    a choice the one that `cheapest` returns for `encodings`. `again`: the node has already waited for these blocks.
    """

    schema_name = "want"
    bytes_max = limits.WANT_BYTES_MAX

    release: Digest
    variant: Label
    ranges: Annotated[tuple[Range, ...], Field(min_length=1, max_length=limits.WANT_RANGES_MAX)]
    encodings: Annotated[tuple[EncodingName, ...], Field(min_length=1, max_length=8)]
    index: bool = False
    again: bool = False
    choice: Annotated[int, Field(ge=0, le=limits.PAYLOADS_PER_BLOCK_MAX)] | None = None

    def pick(self, blocks: Sequence[Block]) -> list[tuple[int, Block]]:
        """Return the blocks that the ranges name, with their numbers.

        Raises:
            Refused: the ranges name blocks that do not exist, or more than one request may have.
        """
        found: list[tuple[int, Block]] = []
        for first, length in self.ranges:
            if first + length > len(blocks):
                what = f"blocks wanted of release {self.release.hex()[:16]}, variant {self.variant}"
                raise mismatch(Code.SCHEMA_MALFORMED, what, expected=f"below {len(blocks)}", actual=f"{first} to {first + length - 1}")
            if len(found) + length > limits.WANT_BLOCKS_MAX:
                raise mismatch(Code.SCHEMA_TOO_LARGE, "blocks in one want", expected=f"at most {limits.WANT_BLOCKS_MAX}", actual="more")
            found += [(number, blocks[number]) for number in range(first, first + length)]
        return found

    def payload_of(self, block: Block) -> Payload:
        """Return the payload to send for this block."""
        if self.choice is None:
            return cheapest(block, self.encodings)
        return block.choices[min(self.choice, len(block.payloads))]


def ranges_of(numbers: list[int]) -> tuple[Range, ...]:
    """Return block numbers as the fewest ranges; the numbers are sorted and distinct."""
    found: list[Range] = []
    for number in numbers:
        if found and found[-1].first + found[-1].length == number:
            found[-1] = Range(found[-1].first, found[-1].length + 1)
        else:
            found.append(Range(number, 1))
    return tuple(found)
