"""A payload becomes its block again, and nothing else becomes anything."""

import lzma
import tracemalloc
from functools import cache

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas.encoding import LZMA_FILTERS, MAGICLESS, PARENT_BYTES_MAX, WINDOW_BYTES_MAX, decode_payload
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


# planes and delta


def raises_only_refused(encoding: EncodingName, data: bytes, block: Block, parent: bytes) -> bytes | None:
    """What a payload with an honest digest decodes to; None when it is refused."""
    names = (sha256(parent),) if encoding == "delta" else None
    try:
        return decode_payload(Payload(encoding, sha256(data), max(len(data), 1), names), block, data, parent)
    except Refused:
        return None


METHODS = [bytes([head]) for head in (0x00, 0x02, 0x12, 0x20, 0x10, 0x11, 0x16, 0x22, 0x26, 0x30, 0x35, 0xF0)]


@given(st.sampled_from(["planes", "delta"]), st.sampled_from(METHODS), st.binary(max_size=200), st.integers(1, BLOCK_BYTES_MAX))
def test_what_a_stranger_signs_is_refused_and_raises_nothing_else(encoding: EncodingName, head: bytes, data: bytes, size: int) -> None:
    assert raises_only_refused(encoding, head + data, Block(bytes(32), size), b"parent" * 100) is None


def stream(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(3, "little") + data


@cache
def bombs() -> list[bytes]:
    """A stream of each kind that decodes to 64 MiB, or to nothing, or that promises what it does not hold. Two seconds, once."""
    zeros = bytes(64 * MIB)
    frames = [
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters.from_level(
                3, format=MAGICLESS, write_content_size=declared, window_log=log
            )
        ).compress(zeros)
        for declared in (0, 1)
        for log in (17, 27)
    ]
    packed = lzma.compress(zeros, lzma.FORMAT_RAW, filters=LZMA_FILTERS)
    return [
        *(stream(1, one) for one in frames),
        stream(2, packed),
        stream(2, b""),
        stream(3, b""),
        stream(0, bytes(10)),
        b"\x00\xff\xff\xff",
    ]


BOMBS = 9


def test_every_bomb_is_tried() -> None:
    assert len(bombs()) == BOMBS


@pytest.mark.parametrize("number", range(BOMBS))
@pytest.mark.parametrize(("encoding", "head"), [("planes", b"\x00"), ("planes", b"\x20\x22"), ("delta", b"\x10\x00\x00\x00")])
def test_a_bomb_of_any_method_is_refused_within_a_few_blocks(encoding: EncodingName, head: bytes, number: int) -> None:
    data = head + bombs()[number]
    tracemalloc.start()
    try:
        decoded = raises_only_refused(encoding, data, Block(bytes(32), BLOCK_BYTES_MAX), bytes(BLOCK_BYTES_MAX))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert decoded is None
    assert peak < 4 * MIB


def test_a_bomb_with_a_prefix_is_refused() -> None:
    frame = bombs()[0][4:]

    assert raises_only_refused("delta", b"\x00" + frame, Block(bytes(32), BLOCK_BYTES_MAX), b"parent") is None


@pytest.mark.parametrize("parent", [b"", bytes(PARENT_BYTES_MAX + 1)])
def test_a_parent_of_no_possible_length_is_refused_as_a_parent(parent: bytes) -> None:
    data = b"\x10\x00\x00\x00" + stream(0, b"x")
    with pytest.raises(Refused) as caught:
        decode_payload(Payload("delta", sha256(data), len(data), (bytes(32),)), block_of(b"x"), data, parent)

    assert caught.value.code == Code.BLOCK_PARENT


def test_a_parent_shorter_than_what_is_passed_over_is_refused_as_a_parent() -> None:
    data = b"\x10\x08\x00\x00" + stream(0, b"x")
    with pytest.raises(Refused) as caught:
        decode_payload(Payload("delta", sha256(data), len(data), (bytes(32),)), block_of(b"x"), data, b"short")

    assert caught.value.code == Code.BLOCK_PARENT


def test_bytes_behind_the_streams_are_refused() -> None:
    data = b"\x00" + stream(0, b"x")

    assert decode_payload(payload_of(data, "planes"), block_of(b"x"), data) == b"x"
    assert refusal(payload_of(data + b"y", "planes"), block_of(b"x"), data + b"y") == Code.BLOCK_DECODE


def test_a_right_payload_of_a_block_said_to_be_longer_is_refused() -> None:
    data = b"\x00" + stream(3, b"x")

    assert refusal(payload_of(data, "planes"), Block(sha256(b"xx"), 3), data) == Code.BLOCK_DIGEST
