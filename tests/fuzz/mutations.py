"""Change inputs while they stay readable: bytes alone rarely get past the first check of a canonical document or a JSON object.

Everything here is drawn from a `random.Random`, so that one seed gives one input, under atheris, without it and in Hypothesis.
"""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol

import msgpack
import zstandard

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 127, 128, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63)),
    *(0.0, -0.0, 0.5, 1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
    *("", "a", "node", "../x", "/", "\0", "\x1b[31m", "é", "\u202e", "x" * 65, "1.2.3", "1970-01-01T00:00:00Z", "9" * 5000),
    *(b"", b"\0", b"\xff" * 32, b"{}", [], {}, [[]], {"": None}, {"@": "want/1"}),
)
REPEATED_BYTES_MAX = 200_000
DEPTH = 400  # Of what `nested` makes: deeper than any document, less deep than would break msgpack itself.


class Form(Protocol):
    """Know one format well enough to change an input within it."""

    def mutate(self, data: bytes, chance: Random, /) -> bytes:
        """Return another input. Raises any error where `data` does not follow the format."""


class Msgpack:
    """Change a msgpack document, and documents and JSON within its byte strings; `prefix` bytes stand before it."""

    def __init__(self, *, prefix: int = 0) -> None:
        self._prefix = prefix

    def mutate(self, data: bytes, chance: Random) -> bytes:
        """Return another document in canonical form."""
        head, body = data[: self._prefix], data[self._prefix :]
        return head + _changed_bytes(body, chance, must=True)


class Json:
    """Change a JSON value; `prefix` bytes stand before it. What stands behind the value, as binary tensors do, stays."""

    def __init__(self, *, prefix: int = 0) -> None:
        self._prefix = prefix

    def mutate(self, data: bytes, chance: Random) -> bytes:
        """Return another object, and the length that a prefix of four bytes states is the new one's."""
        text = data[self._prefix :].decode("utf-8", "surrogateescape")
        begin = len(text) - len(text.lstrip())
        value, end = json.JSONDecoder().raw_decode(text, begin)
        body = json.dumps(changed(value, chance, with_bytes=False)).encode()
        head = len(body).to_bytes(4, "little") if self._prefix == 4 and data[:4] != bytes(4) else data[: self._prefix]
        return head + body + text[end:].encode("utf-8", "surrogateescape")


class Text:
    """Put tokens of a language into a text, take parts out, and say parts twice."""

    def __init__(self, tokens: Sequence[str], *, prefix: int = 0) -> None:
        self._tokens, self._prefix = [token.encode() for token in tokens], prefix

    def mutate(self, data: bytes, chance: Random) -> bytes:
        """Return another text."""
        head, body = data[: self._prefix], data[self._prefix :]
        for _ in range(chance.randint(1, 4)):
            begin, end = sorted(chance.randint(0, len(body)) for _ in range(2))
            match chance.randrange(5):
                case 0:
                    body = body[:begin] + chance.choice(self._tokens) + body[begin:]
                case 1:
                    body = body[:begin] + chance.choice(self._tokens) + body[end:]
                case 2:
                    body = body[:begin] + body[end:]
                case 3:
                    body = body[:end] + body[begin:end] + body[end:]
                case _:
                    token = chance.choice(self._tokens)
                    body = (
                        body[:begin]
                        + token * min(chance.choice((2, 16, 300, 5000)), REPEATED_BYTES_MAX // (len(token) or 1))
                        + body[begin:]
                    )
        return head + body


class Raw:
    """Change single bytes, and move, repeat and cut parts: for formats of which nothing is known."""

    def mutate(self, data: bytes, chance: Random) -> bytes:
        """Return other bytes."""
        body = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            begin, end = sorted(chance.randint(0, len(body)) for _ in range(2))
            match chance.randrange(6):
                case 0 | 1 if body:
                    body[chance.randrange(len(body))] = chance.randrange(256)
                case 2 if body:
                    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
                case 3:
                    body[begin:begin] = chance.choice((1, 2**31 - 1, 2**32 - 1)).to_bytes(chance.choice((4, 8)), "little")
                case 4:
                    del body[begin:end]
                case _:
                    body[end:end] = body[begin:end]
        return bytes(body)


def mutated(data: bytes, chance: Random, form: Form, *, bytes_max: int, otherwise: Callable[[bytes], bytes] | None = None) -> bytes:
    """Return a changed input: mostly within its form, else by its bytes."""
    if chance.random() < 0.7:
        try:
            found = form.mutate(data, chance)
        except Exception:  # The input does not follow the form any more, which is no reason to give it up.
            found = b""
        if 0 < len(found) <= bytes_max:
            return found
    return (otherwise or (lambda given: Raw().mutate(given, chance)[:bytes_max]))(data)


def changed(value: Any, chance: Random, *, with_bytes: bool = True) -> Any:
    """Return a value with one to three of its parts changed."""
    for _ in range(chance.randint(1, 3)):
        value = _changed(value, chance, with_bytes)
    return value


def _changed(value: Any, chance: Random, with_bytes: bool) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        match chance.randrange(12):
            case 0:
                return {name: one for name, one in value.items() if name != key}
            case 1:
                return {**value, chance.choice(("x", "@.", "", key + "x" if isinstance(key, str) else "y")): _odd(chance, with_bytes)}
            case 2:
                return {**value, key: value[chance.choice(list(value))]}
            case _:
                return {**value, key: _changed(value[key], chance, with_bytes)}
    if isinstance(value, (list, tuple)) and value and chance.random() < 0.85:
        at, items = chance.randrange(len(value)), list(value)
        match chance.randrange(10):
            case 0:
                del items[at]
            case 1:
                items.insert(at, items[chance.randrange(len(items))])
            case 2:
                items[at:at] = [items[at]] * min(chance.choice((8, 100, 2000)), REPEATED_BYTES_MAX // _size(items[at]))
            case _:
                items[at] = _changed(items[at], chance, with_bytes)
        return items
    return _changed_leaf(value, chance, with_bytes)


def _size(value: Any) -> int:
    """Return about how many bytes a value takes, at least one."""
    if isinstance(value, dict):
        return 1 + sum(_size(key) + _size(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return 1 + sum(map(_size, value))
    return 1 + len(value) if isinstance(value, (str, bytes)) else 4


def _changed_leaf(value: Any, chance: Random, with_bytes: bool) -> Any:
    if isinstance(value, bool) or chance.random() < 0.3:
        return _odd(chance, with_bytes)
    if isinstance(value, bytes):
        return _changed_bytes(value, chance)
    if isinstance(value, int):
        return value + chance.choice((-1, 1, -value, value, 2**31, -(2**31), 1 << chance.randrange(60)))
    if isinstance(value, float):
        return value * chance.choice((-1, 0, 2, 1e300))
    if isinstance(value, str):
        return Text((value, "\0", "/", "-", "9", "\u00e9")).mutate(value.encode(), chance).decode("utf-8", "replace")
    return _odd(chance, with_bytes)


def _odd(chance: Random, with_bytes: bool) -> Any:
    if chance.random() < 0.05:
        value: Any = []
        for _ in range(chance.choice((8, 64, DEPTH))):
            value = [value] if chance.random() < 0.5 else {"a": value}
        return value
    return chance.choice([one for one in ODD if with_bytes or not isinstance(one, bytes)])


def _changed_bytes(data: bytes, chance: Random, *, must: bool = False) -> bytes:
    """Return other bytes: another document where they are one, JSON where they are JSON. `must`: an error where they are neither."""
    try:
        if data[:4] == zstandard.FRAME_HEADER:
            inner = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 23)
            return zstandard.ZstdCompressor(level=1, write_content_size=True).compress(_changed_bytes(inner, chance, must=True))
        if data[:1] == b"{":
            return json.dumps(changed(json.loads(data), chance, with_bytes=False), separators=(",", ":"), sort_keys=True).encode()
        value = msgpack.unpackb(data, raw=False, strict_map_key=False)
        if isinstance(value, (dict, list)):
            packed: bytes = msgpack.packb(canonical(changed(value, chance)), use_bin_type=True)
            return packed
    except Exception:
        if must:
            raise
    if must:
        raise ValueError("no document")
    return Raw().mutate(data, chance)


def canonical(value: Any) -> Any:
    """Return a value with its keys in order, as documents have them."""
    if isinstance(value, dict):
        return {key: canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    return value
