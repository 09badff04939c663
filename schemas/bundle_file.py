"""Read and write a release in one file, for devices without a link: the content of the topics, in the order in which a device needs it.

The file is a line with its kind, then frames: a kind, a length in four bytes (big endian), and the bytes. It needs no names, since
blocks are found by their digest, and no signature of its own: a device trusts it exactly as much as it trusts a broker.
"""

import struct
from collections.abc import Iterator
from typing import IO, Literal

from schemas import codec, limits
from schemas.deployments import Envelope
from schemas.document import Document
from schemas.errors import Code, Refused, mismatch
from schemas.names import Digest, FleetName, Label, ModelName, NodeId, Version
from schemas.quantities import Count, Seconds

MAGIC = b"fleetcast parcel 1\n"
Kind = Literal["parcel", "trust", "model", "block", "end"]
_LETTERS: dict[bytes, Kind] = {b"P": "parcel", b"T": "trust", b"M": "model", b"B": "block", b"E": "end"}
_BYTES_MAX: dict[Kind, int] = {
    "parcel": limits.PARCEL_BYTES_MAX,
    "trust": limits.TRUST_BUNDLE_BYTES_MAX,
    "model": limits.MODEL_BUNDLE_BYTES_MAX,
    "block": limits.PAYLOAD_BYTES_MAX,
    "end": 0,
}
_ORDER: tuple[Kind, ...] = ("parcel", "trust", "model")  # Order of the first frames; blocks and the end follow.


class Parcel(Document):
    """Describe the content, for people and for a first look; a device believes nothing here without verification."""

    schema_name = "parcel"
    bytes_max = limits.PARCEL_BYTES_MAX

    fleet: FleetName
    model: ModelName
    version: Version
    release: Digest
    at: Seconds
    blocks: Count
    bytes: Count  # Total bytes of the payloads.
    variant: Label | None = None  # The only variant in the file; None for all.
    node: NodeId | None = None  # Node whose missing blocks are in the file; None for all blocks.


def deployments_in(block: bytes) -> Envelope | None:
    """Return the signed deployments that a file's first block holds, not verified; None when it is a block like the others.

    They travel as the first block, because devices of the version before refuse a frame of a kind that they do not know, and keep a block
    that nobody asks for without harm. No device takes it for more than bytes that are yet to be verified.
    """
    try:
        return codec.decode(Envelope, block)
    except Refused:
        return None


def write_frame(target: IO[bytes], kind: Kind, data: bytes = b"") -> None:
    """Append one frame."""
    letter = next(letter for letter, name in _LETTERS.items() if name == kind)
    target.write(letter + struct.pack(">I", len(data)) + data)


def read_frames(source: IO[bytes]) -> Iterator[tuple[Kind, bytes]]:
    """Yield every frame but the end, in order; one at a time is in memory.

    Raises:
        Refused: the file is of another kind, truncated, out of order, or has a frame larger than its kind may be.
    """
    if source.read(len(MAGIC)) != MAGIC:
        raise Refused(Code.SCHEMA_UNSUPPORTED, f"this is not a fleetcast bundle file: it does not begin with {MAGIC.decode().strip()!r}")
    place = 0
    while True:
        head = source.read(5)
        kind = _LETTERS.get(head[:1])
        expected: Kind = _ORDER[place] if place < len(_ORDER) else "block"
        if len(head) < 5:
            raise mismatch(Code.SCHEMA_MALFORMED, f"parcel, frame {place}", expected=f"a {expected} or the end", actual="a file cut short")
        if kind != expected and not (kind == "end" and place >= len(_ORDER)):
            raise mismatch(Code.SCHEMA_MALFORMED, f"parcel, frame {place}", expected=f"a {expected}", actual=f"kind {head[:1]!r}")
        size = struct.unpack(">I", head[1:])[0]
        if size > _BYTES_MAX[kind]:
            raise mismatch(Code.SCHEMA_TOO_LARGE, f"parcel, a {kind}", expected=f"at most {_BYTES_MAX[kind]} bytes", actual=size)
        data = source.read(size)
        if len(data) < size:
            raise mismatch(
                Code.SCHEMA_MALFORMED, f"parcel, a {kind}", expected=f"{size} bytes", actual=f"{len(data)}, the file is cut short"
            )
        if kind == "end":
            return
        place += 1
        yield kind, data
