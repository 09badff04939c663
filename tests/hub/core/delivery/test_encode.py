"""A block is stored so that every node can decode it, and as small as it gets where that is worth an entry."""

import contextlib
import lzma
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.delivery import encode
from hub.core.delivery.encode import SAVING_MIN, Ancestor, encode_block
from schemas.encoding import DECODABLE, decode_payload
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX, PAYLOADS_PER_BLOCK_MAX
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


# planes and delta

DTYPES = [None, "float32", "float16", "bfloat16", "float64", "int8", "uint16", "int64", "Q8_0", "Q4_1", "unheard of"]
blobs = st.builds(lambda data, times: data * times, st.binary(min_size=1, max_size=400), st.integers(1, 30))


def like(data: bytes, seed: int) -> bytes:
    """The same bytes, with one in ten a little different."""
    rng = np.random.default_rng(seed)
    values = np.frombuffer(data, np.uint8)
    return np.where(rng.random(len(values)) < 0.1, values + rng.integers(0, 5, len(values), np.uint8), values).astype(np.uint8).tobytes()


def all_come_back(data: bytes, dtype: str | None, parents: list[Ancestor]) -> None:
    block, payloads = encode_block(data, dtype=dtype, parents=parents)
    held = {parent.digests: parent.data for parent in parents}

    assert len(block.payloads) <= PAYLOADS_PER_BLOCK_MAX
    for payload in block.payloads:
        packed = payloads[payload.digest]
        assert (sha256(packed), len(packed)) == (payload.digest, payload.bytes)
        assert decode_payload(payload, block, packed, held[payload.parents] if payload.parents else b"") == data


@given(blobs, st.sampled_from(DTYPES), st.lists(st.tuples(blobs, st.integers(0, 50)), max_size=4))
def test_any_bytes_come_back_with_any_parents(data: bytes, dtype: str | None, parents: list[tuple[bytes, int]]) -> None:
    all_come_back(data, dtype, [Ancestor((sha256(one),), one, min(skip, len(one))) for one, skip in parents])


@given(blobs, st.sampled_from(DTYPES), st.integers(0, 9), st.binary(max_size=40))
def test_any_bytes_come_back_from_a_parent_that_is_like_them(data: bytes, dtype: str | None, seed: int, lead: bytes) -> None:
    parent = lead + like(data, seed)
    all_come_back(data, dtype, [Ancestor((sha256(parent),), parent, len(lead))])


@given(st.data(), st.sampled_from(["float32", "float16", "int8", None]))
def test_a_damaged_payload_gives_the_block_or_is_refused(data: st.DataObject, dtype: str | None) -> None:
    before = np.random.default_rng(0).normal(size=600).astype(np.float32)
    parent, content = before.tobytes(), (before * np.float32(1.001)).tobytes()
    block, payloads = encode_block(content, dtype=dtype, parents=[Ancestor((sha256(parent),), parent)])
    payload = data.draw(st.sampled_from(block.payloads))
    damaged = bytearray(payloads[payload.digest])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.one_of(st.integers(0, min(12, len(damaged) - 1)), st.integers(0, len(damaged) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    damaged = damaged[: data.draw(st.one_of(st.just(len(damaged)), st.integers(1, len(damaged))))]
    signed = payload._replace(digest=sha256(bytes(damaged)), bytes=len(damaged))

    with contextlib.suppress(Refused):
        assert decode_payload(signed, block, bytes(damaged), parent if payload.parents else b"") == content


@pytest.mark.parametrize("dtype", ["float32", None])
def test_a_wrong_parent_never_gives_wrong_bytes(dtype: str | None) -> None:
    before = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    parent, content = before.tobytes(), (before * np.float32(1.0001)).tobytes()
    block, payloads = encode_block(content, dtype=dtype, parents=[Ancestor((sha256(parent),), parent)])
    delta = next(one for one in block.payloads if one.encoding == "delta")
    for wrong in (parent[::-1], parent[:-8], b""):
        with pytest.raises(Refused) as caught:
            decode_payload(delta, block, payloads[delta.digest], wrong)
        assert caught.value.code in {Code.BLOCK_PARENT, Code.BLOCK_DIGEST, Code.BLOCK_DECODE}


def test_fine_tuned_weights_travel_as_a_delta_and_small_ones_beside_zstd() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(0, 0.05, 30_000).astype(np.float32)
    after = (before + rng.normal(0, 1e-5, 30_000)).astype(np.float32)
    parent = before.tobytes()
    block, _ = encode_block(after.tobytes(), dtype="float32", parents=[Ancestor((sha256(parent),), parent)])
    sizes = {payload.encoding: payload.bytes / block.bytes for payload in block.payloads}

    assert sizes["planes"] < 0.87
    assert sizes["delta"] < 0.6


def test_a_text_that_moved_in_its_parent_is_a_delta_of_few_bytes() -> None:
    words = b" ".join(str(number * 7919 % 100_003).encode() for number in range(8000))
    block, _ = encode_block(words[500:30_000], parents=[Ancestor((sha256(words),), words)])

    assert min(payload.bytes for payload in block.payloads) < 40


def test_a_block_that_is_its_parents_needs_no_delta() -> None:
    data = b"text" * 1000
    block, _ = encode_block(data, parents=[Ancestor((sha256(data),), data)])

    assert all(payload.encoding != "delta" for payload in block.payloads)


def test_unlike_parents_give_no_delta() -> None:
    data, other = os.urandom(5000), os.urandom(5000)
    block, _ = encode_block(data, dtype="float32", parents=[Ancestor((sha256(other),), other)])

    assert block.payloads == ()


@pytest.mark.parametrize("dtype", ["float32", "int16", "Q4_1", None])
@pytest.mark.parametrize("with_parent", [False, True])
def test_of_all_candidates_only_the_best_estimate_is_coded(dtype: str | None, with_parent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    coded = []
    packed = encode._packed
    monkeypatch.setattr(encode, "_packed", lambda candidate: coded.append(candidate) or packed(candidate))
    before = np.random.default_rng(0).normal(size=8192).astype(np.float32)
    after = (before * np.float32(1.001)).tobytes()
    parents = [Ancestor((sha256(before.tobytes()),), before.tobytes())] if with_parent else []

    encode_block(after, dtype=dtype, parents=parents)

    assert len(coded) == 1 + with_parent


def test_dense_planes_are_not_given_to_lzma(monkeypatch: pytest.MonkeyPatch) -> None:
    given_to_lzma = []
    compress = lzma.compress
    monkeypatch.setattr(lzma, "compress", lambda data, *more, **terms: given_to_lzma.append(data) or compress(data, *more, **terms))

    encode_block(np.random.default_rng(0).integers(0, 200, 65536, np.uint8).tobytes(), dtype="uint8")  # 7.6 bits a byte
    assert given_to_lzma == []

    encode_block(np.random.default_rng(0).integers(0, 20, 65536, np.uint8).tobytes(), dtype="uint8")
    assert given_to_lzma
