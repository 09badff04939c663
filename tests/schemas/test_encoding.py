"""A payload becomes its block again, and nothing else becomes anything."""

import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas.encoding import WINDOW_BYTES_MAX, decode_payload
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX, MIB, PAYLOAD_BYTES_MAX
from schemas.manifest import Block, EncodingName, Payload
from schemas.names import sha256


def payload_of(data: bytes, encoding: EncodingName = "zstd") -> Payload:
    return Payload(encoding, sha256(data), len(data))


def block_of(data: bytes) -> Block:
    return Block(sha256(data), len(data))


def refusal(payload: Payload, block: Block, data: bytes) -> Code:
    with pytest.raises(Refused) as caught:
        decode_payload(payload, block, data)
    return caught.value.code


def frame(content: bytes, *, declared: int, window_log: int) -> bytes:
    """A zstd frame (RFC 8878, 3.1.1) of one raw block, with a window and a content size of its own."""
    head = bytes([0x28, 0xB5, 0x2F, 0xFD, 0x80, (window_log - 10) << 3]) + declared.to_bytes(4, "little")
    return head + (len(content) << 3 | 1).to_bytes(3, "little") + content


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 19))
def test_a_block_comes_back_from_either_encoding(data: bytes, level: int) -> None:
    packed = zstandard.ZstdCompressor(level=level).compress(data)

    assert decode_payload(payload_of(data, "raw"), block_of(data), data) == data
    assert decode_payload(payload_of(packed), block_of(data), packed) == data


@given(st.binary(max_size=300), st.sampled_from(["raw", "zstd"]), st.integers(1, BLOCK_BYTES_MAX))
def test_whatever_a_stranger_signs_as_a_payload_is_refused_and_raises_nothing_else(data: bytes, encoding: EncodingName, size: int) -> None:
    assert refusal(payload_of(data, encoding), Block(bytes(32), size), data) in {Code.BLOCK_DIGEST, Code.BLOCK_DECODE}


def test_a_flipped_bit_is_refused_before_it_is_decoded() -> None:
    data = b"weights" * 100
    packed = zstandard.compress(data)
    flipped = packed[:-1] + bytes([packed[-1] ^ 1])

    assert refusal(payload_of(packed), block_of(data), flipped) == Code.BLOCK_DIGEST


def test_the_right_payload_of_another_block_is_refused() -> None:
    data = b"weights" * 100

    assert refusal(payload_of(data, "raw"), block_of(b"another" * 100), data) == Code.BLOCK_DIGEST


@pytest.mark.parametrize("declared", [MIB, BLOCK_BYTES_MAX])
def test_a_bomb_is_refused_without_memory_for_it(declared: int) -> None:
    bomb = zstandard.compress(bytes(64 * MIB))
    tracemalloc.start()
    try:
        code = refusal(payload_of(bomb), Block(bytes(32), declared), bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert code == (Code.BLOCK_TOO_LARGE if declared > BLOCK_BYTES_MAX else Code.BLOCK_DECODE)
    assert peak < MIB


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    honest = zstandard.compress(bytes(MIB))
    at = 5  # the content size stands behind magic number and descriptor: a single segment has no window byte
    assert zstandard.get_frame_parameters(honest).content_size == int.from_bytes(honest[at : at + 4], "little")
    lying = honest[:at] + BLOCK_BYTES_MAX.to_bytes(4, "little") + honest[at + 4 :]

    assert refusal(payload_of(lying), Block(bytes(32), BLOCK_BYTES_MAX), lying) == Code.BLOCK_DECODE


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    data = b"weights" * 100
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(data)

    assert refusal(payload_of(packed), block_of(data), packed) == Code.BLOCK_DECODE


def test_a_frame_that_asks_for_a_large_window_is_refused() -> None:
    data = b"weights" * 100
    small = frame(data, declared=len(data), window_log=WINDOW_BYTES_MAX.bit_length() - 1)
    large = frame(data, declared=len(data), window_log=27)

    assert decode_payload(payload_of(small), block_of(data), small) == data
    assert refusal(payload_of(large), block_of(data), large) == Code.BLOCK_DECODE


def test_bytes_behind_the_frame_are_refused() -> None:
    data = b"weights" * 100
    packed = zstandard.compress(data) + b"more"

    assert refusal(payload_of(packed), block_of(data), packed) == Code.BLOCK_DECODE


def test_a_payload_longer_than_any_may_be_is_refused() -> None:
    data = bytes(PAYLOAD_BYTES_MAX + 1)

    assert refusal(payload_of(data, "raw"), block_of(data), data) == Code.BLOCK_TOO_LARGE


def test_an_unknown_method_is_refused() -> None:
    data = b"weights"

    assert refusal(payload_of(b"\xf0" + data, "planes"), block_of(data), b"\xf0" + data) == Code.BLOCK_DECODE
