"""Documents of few bytes that would take much memory or time as objects are refused before they are decoded."""

import json
import struct
import time
import tracemalloc
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.bundle import TrustBundle
from schemas.decoding_cost import is_msgpack_bounded, json_tokens
from schemas.document import Document
from schemas.errors import Code, Refused
from schemas.limits import DOCUMENT_VALUES_MAX, MIB
from schemas.state import State

PEAK_MIB, SECONDS_MAX = 24, 2.0
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=300)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=60,
)


def array(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


def compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(data)


BOMBS: dict[str, tuple[type[Document], bytes]] = {
    "eight million maps": (TrustBundle, compressed(array(8 * MIB - 5) + b"\x80" * (8 * MIB - 5))),
    "eight million numbers": (TrustBundle, compressed(array(8 * MIB - 5) + b"\x01" * (8 * MIB - 5))),
    "arrays that each announce two million": (TrustBundle, compressed(array(2 * MIB) * 500 + b"\xc0" * (8 * MIB - 2500))),
    "arrays that each announce all of a state": (State, (b"\xdc" + struct.pack(">H", 16000)) * 1000 + b"\xc0" * (16 * 1024 - 3000)),
    "arrays within arrays": (State, b"\x91" * 10_000 + b"\xc0"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_bounded_memory_and_time(name: str) -> None:
    kind, payload = BOMBS[name]
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(Refused) as refusal:
            codec.decode(kind, payload)
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert refusal.value.code is Code.SCHEMA_MALFORMED
    assert len(payload) <= kind.bytes_max
    assert peak < PEAK_MIB * MIB
    assert seconds < SECONDS_MAX


def count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + count(one) for one in value.values())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


@given(VALUES)
def test_exactly_what_has_no_more_values_than_allowed_passes(value: Any) -> None:
    packed = msgpack.packb(value)

    assert is_msgpack_bounded(packed, values_max=max(1, count(value)), depth_max=32)
    if count(value) > 1:
        assert not is_msgpack_bounded(packed, values_max=count(value) - 1, depth_max=32)
    assert not is_msgpack_bounded(packed + b"\xc0", values_max=DOCUMENT_VALUES_MAX, depth_max=32)
    assert not is_msgpack_bounded(packed[:-1], values_max=DOCUMENT_VALUES_MAX, depth_max=32)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_without_an_error(data: bytes) -> None:
    is_msgpack_bounded(data, values_max=100, depth_max=4)


@given(st.recursive(st.none(), lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=9), inner, max_size=9)))
def test_values_of_json_are_never_counted_too_low(value: Any) -> None:
    def parsed_values(one: Any) -> int:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return 1 + sum(map(parsed_values, inner))

    assert json_tokens(json.dumps(value).encode()) >= parsed_values(value)
