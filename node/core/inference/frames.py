"""Encode what passes between the agent and a worker process: an id and lengths, a header and fields in JSON, then the tensors' bytes.
Each tensor begins at a multiple of `ALIGNMENT` behind the id and lengths, so that a reader with aligned memory need not move it. Knows no
socket.

Nothing in it can name code: no pickle, and tensors are bytes with a datatype from a closed list.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from node.core.inference.tensors import ALIGNMENT, DTYPES, Buffer, Raw
from schemas.limits import MIB, TENSORS_MAX

PREFIX: Final = struct.Struct("<QIII")  # id, then bytes of the header, of the fields and of the payload
CANCEL: Final = struct.Struct("<Q")  # on a pipe beside the stream: the id of a request that nobody waits for any more
HEADER_BYTES_MAX: Final = 1 * MIB  # 64 tensors with names of 256 characters need 20 KB; signatures and conversations no more
FRAME_BYTES_MAX: Final = 256 * MIB  # a request of serving's bound, or its outputs, with room for a model that widens
HEADERS_KEPT: Final = 64  # most requests look like the one before: what says so is neither written nor read again
KEPT_BYTES_MAX: Final = 4096


class Malformed(Exception):
    """Signal that the other end does not speak this protocol; its reader ends the connection."""


class Frame(NamedTuple):
    """Hold one request, or the answer that repeats its id. `fields` is small and JSON; `tensors` are views of one buffer."""

    id: int
    kind: str
    fields: Mapping[str, Any]
    tensors: tuple[Raw, ...]


def encode(id: int, kind: str, fields: Mapping[str, Any], tensors: Sequence[Raw] = ()) -> list[Buffer]:
    """Return the frame as consecutive buffers; tensors are not copied.

    Raises:
        Malformed: it is larger than the other end would read.
    """
    header = _header(kind, tuple((raw.name, raw.datatype, raw.shape, len(raw.data)) for raw in tensors))
    encoded = json.dumps(fields, separators=(",", ":")).encode() if fields else b""
    buffers: list[Buffer] = []
    payload_bytes = 0
    for raw in tensors:
        if gap := padding(payload_bytes):
            buffers.append(bytes(gap))
        buffers.append(raw.data)
        payload_bytes += gap + len(raw.data)
    begin, _ = body_bytes(len(header), len(encoded), payload_bytes)
    head = PREFIX.pack(id, len(header), len(encoded), payload_bytes) + header + encoded
    return [head.ljust(PREFIX.size + begin, b"\0"), *buffers]


def padding(size: int) -> int:
    """Return how many bytes are between what takes so many bytes and the tensor behind it."""
    return -size % ALIGNMENT


def body_bytes(header_bytes: int, fields_bytes: int, payload_bytes: int) -> tuple[int, int]:
    """Return where the payload begins behind the id and lengths, and where it ends.

    Raises:
        Malformed: it is larger than a frame may be.
    """
    check_sizes(header_bytes, fields_bytes, payload_bytes)
    begin = header_bytes + fields_bytes
    if payload_bytes:
        begin += padding(begin)
    return begin, begin + payload_bytes


@lru_cache(HEADERS_KEPT)
def _header(kind: str, listed: tuple[tuple[str, str, tuple[int, ...], int], ...]) -> bytes:
    return json.dumps([kind, listed], separators=(",", ":")).encode()


def check_sizes(header_bytes: int, fields_bytes: int, payload_bytes: int) -> None:
    """Check whether a frame of this size is read at all.

    Raises:
        Malformed: it is not.
    """
    if header_bytes + fields_bytes > HEADER_BYTES_MAX or payload_bytes > FRAME_BYTES_MAX:
        found = f"{header_bytes + fields_bytes} + {payload_bytes}"
        raise Malformed(f"a frame of {found} bytes, at most {HEADER_BYTES_MAX} + {FRAME_BYTES_MAX} are read")


def decode(id: int, header: bytes, fields: Buffer, payload: memoryview) -> Frame:
    """Return the frame that a header, its fields and its payload make up.

    Raises:
        Malformed: it is not one.
    """
    kind, listed, payload_bytes = _kept(header) if len(header) <= KEPT_BYTES_MAX else _parsed(header)
    if payload_bytes != len(payload):
        raise Malformed(f"tensors of {payload_bytes} bytes in a payload of {len(payload)}")
    decoded: Any = {}
    if len(fields):
        try:
            decoded = json.loads(bytes(fields))
        except (ValueError, RecursionError):
            decoded = None
        if type(decoded) is not dict:
            raise Malformed("a frame's fields are not what this protocol writes")
    return Frame(id, kind, decoded, tuple(Raw(name, datatype, shape, payload[at:end]) for name, datatype, shape, at, end in listed))


def _parsed(header: bytes) -> tuple[str, tuple[tuple[str, str, tuple[int, ...], int, int], ...], int]:
    """Return the kind, the tensors with where each begins and ends, and where the last one does."""
    try:
        kind, listed = json.loads(header)
        if type(kind) is not str or len(listed) > TENSORS_MAX:
            raise Malformed("a frame's header has other fields")
        tensors, at = [], 0
        for name, datatype, shape, size in listed:
            if datatype not in DTYPES and datatype != "BYTES":
                raise Malformed(f"unknown datatype {datatype!r}")
            if type(size) is not int or size < 0:
                raise Malformed(f"a tensor of {size!r} bytes")
            at += padding(at)
            tensors.append((name, datatype, tuple(shape), at, at + size))
            at += size
    except (ValueError, TypeError, RecursionError):
        raise Malformed("a frame's header is not what this protocol writes") from None
    return kind, tuple(tensors), at


_kept = lru_cache(HEADERS_KEPT)(_parsed)


class Assembler:
    """Cut frames out of a stream that arrives in pieces."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes.

        Raises:
            Malformed: the stream is not of this protocol.
        """
        if self._pending:
            self._pending += data
            if not self._complete(self._pending, 0):
                return []
            data, self._pending = bytes(self._pending), bytearray()
        frames, view, at = [], memoryview(data), 0
        while (end := self._complete(view, at)) is not None:
            id, header_bytes, fields_bytes, payload_bytes = PREFIX.unpack_from(view, at)
            fields_at = at + PREFIX.size + header_bytes
            fields = view[fields_at : fields_at + fields_bytes]
            frames.append(decode(id, bytes(view[at + PREFIX.size : fields_at]), fields, view[end - payload_bytes : end]))
            at = end
        if at < len(view):
            self._pending += view[at:]
        return frames

    @staticmethod
    def _complete(data: Buffer, at: int) -> int | None:
        if len(data) - at < PREFIX.size:
            return None
        _, *sizes = PREFIX.unpack_from(data, at)
        end: int = at + PREFIX.size + body_bytes(*sizes)[1]
        return end if end <= len(data) else None
