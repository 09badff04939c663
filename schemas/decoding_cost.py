"""Count what bytes of a stranger would cost to decode, before they are decoded: values, and how deep they are within each other.

Sizes alone do not bound it. A few hundred compressed bytes hold eight million empty maps, which take 600 MiB as objects. And a decoder of
msgpack reserves the room that an array announces, once for each level.
"""

import struct
from typing import Final

_SIZES: Final = {1: struct.Struct(">B"), 2: struct.Struct(">H"), 4: struct.Struct(">I")}
_CONTAINER, _LONG, _UNUSED = 0, -1, -2
_FIXED: Final = (0xC0, 1), (0xC2, 1), (0xC3, 1), (0xCA, 5), (0xCB, 9), (0xCC, 2), (0xCD, 3), (0xCE, 5), (0xCF, 9)
_SIGNED: Final = (0xD0, 2), (0xD1, 3), (0xD2, 5), (0xD3, 9)
_LONGS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # Bytes and text: how many bytes say how long they are.
_CONTAINERS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # Arrays and maps, and the values of an entry.


def _steps() -> list[int]:
    steps = [_UNUSED] * 256  # Extension types among them: no document has one.
    for byte in (*range(0x80), *range(0xE0, 0x100)):
        steps[byte] = 1
    for byte in range(0x80, 0xA0):
        steps[byte] = _CONTAINER
    for byte in range(0xA0, 0xC0):
        steps[byte] = byte - 0xA0 + 1
    for byte, step in (*_FIXED, *_SIGNED):
        steps[byte] = step
    for byte in _LONGS:
        steps[byte] = _LONG
    for byte in _CONTAINERS:
        steps[byte] = _CONTAINER
    return steps


_STEPS: Final = _steps()


def is_msgpack_bounded(packed: bytes, *, values_max: int, depth_max: int) -> bool:
    """Return whether msgpack has at most so many values, at most so deep within each other, and all that it announces.

    It stops at the first bound that is passed: what it costs is bounded by `values_max`, whatever the bytes are.
    """
    at, values, left = 0, 1, 1  # `left` values are still to come of the container that is being read.
    outer: list[int] = []  # Those of the containers around it.
    steps, size = _STEPS, len(packed)
    try:
        while True:
            while not left:
                if not outer:
                    return at == size
                left = outer.pop()
            left -= 1
            byte = packed[at]
            step = steps[byte]
            if step > 0:
                at += step
            elif step == _LONG:
                width = _LONGS[byte]
                at += 1 + width + _SIZES[width].unpack_from(packed, at + 1)[0]
            elif step == _CONTAINER:
                if byte < 0xA0:
                    at, count = at + 1, (byte & 0x0F) * (1 if byte >= 0x90 else 2)
                else:
                    width, each = _CONTAINERS[byte]
                    at, count = at + 1 + width, _SIZES[width].unpack_from(packed, at + 1)[0] * each
                values += count
                outer.append(left)
                left = count
                if values > values_max or len(outer) > depth_max:
                    return False
            else:
                return False
    except (IndexError, struct.error):
        return False  # It ends too soon.


def json_tokens(data: bytes) -> int:
    """Return at least how many values a JSON text has: the signs before each, and those in its strings."""
    return 1 + data.count(b",") + data.count(b"[") + data.count(b"{")
