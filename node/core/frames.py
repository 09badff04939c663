"""What passes between the agent and a worker process: a length, a JSON header, then the tensors' bytes. Knows no socket.

Nothing in it can name code: no pickle, and tensors are bytes with a datatype from a closed list.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from node.core.tensors import DTYPES, Buffer, Raw
from schemas.limits import MIB, TENSORS_MAX

PREFIX: Final = struct.Struct("<II")  # header bytes, payload bytes
CANCEL: Final = struct.Struct("<Q")  # on a pipe beside the stream: the id of a request that nobody waits for any more
HEADER_BYTES_MAX: Final = 1 * MIB  # 64 tensors with names of 256 characters need 20 KB; signatures no more
FRAME_BYTES_MAX: Final = 256 * MIB  # a request of serving's bound, or its outputs, with room for a model that widens


class Malformed(Exception):
    """The other end does not speak this protocol; whoever reads it ends the connection."""


class Frame(NamedTuple):
    """One request, or the answer that repeats its id. `fields` is small and JSON; `tensors` are views of one buffer."""

    id: int
    kind: str
    fields: Mapping[str, Any]
    tensors: tuple[Raw, ...]


def encode(id: int, kind: str, fields: Mapping[str, Any], tensors: Sequence[Raw] = ()) -> list[Buffer]:
    """The frame as consecutive buffers; tensors are not copied.

    Raises:
        Malformed: it is larger than the other end would read.
    """
    listed = [(raw.name, raw.datatype, raw.shape, len(raw.data)) for raw in tensors]
    header = json.dumps([id, kind, fields, listed], separators=(",", ":")).encode()
    payload_bytes = sum(len(raw.data) for raw in tensors)
    check_sizes(len(header), payload_bytes)
    return [PREFIX.pack(len(header), payload_bytes) + header, *(raw.data for raw in tensors)]


def check_sizes(header_bytes: int, payload_bytes: int) -> None:
    """Whether a frame of this size is read at all.

    Raises:
        Malformed: it is not.
    """
    if header_bytes > HEADER_BYTES_MAX or payload_bytes > FRAME_BYTES_MAX:
        raise Malformed(f"a frame of {header_bytes} + {payload_bytes} bytes, at most {HEADER_BYTES_MAX} + {FRAME_BYTES_MAX} are read")


def decode(header: Buffer, payload: memoryview) -> Frame:
    """The frame that a header and its payload make up.

    Raises:
        Malformed: it is not one.
    """
    try:
        id, kind, fields, listed = json.loads(bytes(header))
        if type(id) is not int or type(kind) is not str or type(fields) is not dict or len(listed) > TENSORS_MAX:
            raise Malformed("a frame's header has other fields")
        tensors, at = [], 0
        for name, datatype, shape, size in listed:
            if datatype not in DTYPES and datatype != "BYTES":
                raise Malformed(f"unknown datatype {datatype!r}")
            tensors.append(Raw(name, datatype, tuple(shape), payload[at : at + size]))
            at += size
    except (ValueError, TypeError, RecursionError):
        raise Malformed("a frame's header is not what this protocol writes") from None
    if at != len(payload):
        raise Malformed(f"tensors of {at} bytes in a payload of {len(payload)}")
    return Frame(id, kind, fields, tuple(tensors))


class Assembler:
    """Frames out of a stream that arrives in pieces."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes.

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
            header_bytes, _ = PREFIX.unpack_from(view, at)
            start = at + PREFIX.size
            frames.append(decode(view[start : start + header_bytes], view[start + header_bytes : end]))
            at = end
        self._pending += view[at:]
        return frames

    @staticmethod
    def _complete(data: Buffer, at: int) -> int | None:
        if len(data) - at < PREFIX.size:
            return None
        header_bytes, payload_bytes = PREFIX.unpack_from(data, at)
        check_sizes(header_bytes, payload_bytes)
        end: int = at + PREFIX.size + header_bytes + payload_bytes
        return end if end <= len(data) else None
