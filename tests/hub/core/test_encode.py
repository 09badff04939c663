"""A block is stored so that every node can decode it, and as small as it gets where that is worth an entry."""

import os

from hypothesis import given
from hypothesis import strategies as st

from hub.core.encode import SAVING_MIN, encode_block
from schemas.encoding import DECODABLE, decode_payload
from schemas.limits import BLOCK_BYTES_MAX
from schemas.manifest import Payload, cheapest
from schemas.names import sha256


@given(st.binary(min_size=1, max_size=2000), st.integers(1, 20))
def test_every_payload_decodes_to_the_block(data: bytes, times: int) -> None:
    block, payloads = encode_block(data * times)

    assert {sha256(payload) for payload in payloads.values()} == set(payloads)
    for payload in (Payload("raw", block.digest, block.bytes), *block.payloads):
        assert len(payloads[payload.digest]) == payload.bytes
        assert decode_payload(payload, block, payloads[payload.digest]) == data * times


def test_what_compresses_travels_compressed() -> None:
    block, payloads = encode_block(bytes(BLOCK_BYTES_MAX))
    best = cheapest(block, DECODABLE)

    assert best.encoding in {"zstd", "planes"}
    assert len(payloads) == 2


def test_what_does_not_compress_has_one_payload_and_no_entry() -> None:
    data = os.urandom(BLOCK_BYTES_MAX)
    block, payloads = encode_block(data)

    assert block.payloads == ()
    assert payloads == {sha256(data): data}


@given(st.binary(min_size=1, max_size=3000))
def test_an_entry_saves_what_it_has_to(data: bytes) -> None:
    block, _ = encode_block(data)

    assert all(payload.bytes <= block.bytes * (1 - SAVING_MIN) for payload in block.payloads)


def test_the_same_bytes_give_the_same_payloads() -> None:
    data = os.urandom(100) * 50

    assert encode_block(data) == encode_block(data)
