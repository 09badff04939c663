"""Blocks that stand in the parent are found wherever they moved, and the others are deltas of what they are like."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.delivery import delta_base
from hub.core.delivery.chunker import TensorSpan, cut
from hub.core.delivery.delta_base import Earlier, ancestor, find_known, plan
from hub.core.delivery.encode import encode_block
from schemas.encoding import DECODABLE, decode_payload
from schemas.limits import BLOCK_BYTES_MAX, DELTA_PARENTS_MAX, MIB
from schemas.manifest import cheapest
from schemas.names import sha256


def text(size: int, seed: int = 0) -> bytes:
    """Words of a vocabulary, so that it compresses as text does."""
    rng = np.random.default_rng(seed)
    return b" ".join(b"%x" % number for number in rng.integers(0, 1 << 20, size // 5))[:size]


def weights(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32).tobytes()


def earlier(data: bytes, tensors: list[TensorSpan] | None = None) -> Earlier:
    cuts = cut(len(data), [(one.offset, one.length) for one in tensors or []])
    return Earlier(cuts, [sha256(data[at : at + size]) for at, size in cuts], tensors or [], lambda at, size: data[at : at + size])


def fetched(before: bytes, after: bytes, old: list[TensorSpan] | None = None, new: list[TensorSpan] | None = None) -> tuple[int, int]:
    """How many blocks a node with `before` fetches for `after`, and their bytes; each is decoded."""
    parent = earlier(before, old)
    planned = plan(after, new or [], [parent])
    blocks = total = 0
    for (at, size), likeness in zip(planned.cuts, planned.likenesses[0], strict=True):
        data = after[at : at + size]
        if sha256(data) in parent.digests:
            continue
        one = ancestor(likeness, parent)
        block, payloads = encode_block(data, parents=[one])
        chosen = cheapest(block, DECODABLE, set(parent.digests).__contains__)
        assert decode_payload(chosen, block, payloads[chosen.digest], one.data if chosen.parents else b"") == data
        blocks, total = blocks + 1, total + chosen.bytes
    return blocks, total


def test_a_word_put_into_a_text_costs_two_small_blocks() -> None:
    before = text(5 * BLOCK_BYTES_MAX)
    middle = 2 * BLOCK_BYTES_MAX + 5000
    blocks, total = fetched(before, before[:middle] + b" and another word " + before[middle:])

    assert blocks <= 2
    assert total < 200


def test_a_part_taken_out_of_a_text_costs_one_small_block() -> None:
    before = text(5 * BLOCK_BYTES_MAX)
    middle = 2 * BLOCK_BYTES_MAX + 5000
    blocks, total = fetched(before, before[:middle] + before[middle + 3000 :])

    assert blocks == 1
    assert total < 100


def test_what_is_put_before_everything_moves_every_block_and_changes_none() -> None:
    before = text(5 * BLOCK_BYTES_MAX)

    assert fetched(before, b"x" * 777 + before)[0] == 1


def test_what_is_appended_costs_the_last_block() -> None:
    before = text(4 * BLOCK_BYTES_MAX + 1000)

    assert fetched(before, before + b"more")[0] == 1


def test_nothing_changed_costs_nothing() -> None:
    before = text(3 * BLOCK_BYTES_MAX)

    assert fetched(before, before) == (0, 0)


def test_a_tensor_is_found_by_its_name_wherever_it_went() -> None:
    size = 200_000
    a, b = weights(size // 4, 1), weights(size // 4, 2)
    changed = (np.frombuffer(b, np.float32) * np.float32(1.00001)).tobytes()
    old = [TensorSpan(0, size, "a", "float32"), TensorSpan(size, size, "b", "float32")]
    new = [TensorSpan(0, size, "b", "float32"), TensorSpan(size, size, "a", "float32")]
    parent = earlier(a + b, old)
    planned = plan(changed + a, new, [parent])

    assert [ancestor(one, parent).data for one in planned.likenesses[0][:2]] == [b[:BLOCK_BYTES_MAX], b[BLOCK_BYTES_MAX:]]
    assert all(one.skip == 0 for one in planned.likenesses[0])
    blocks, total = fetched(a + b, changed + a, old, new)
    assert blocks == 2
    assert total < 0.5 * size


def test_of_two_tensors_of_one_name_each_finds_its_own() -> None:
    size = 40_000
    old = [TensorSpan(0, size, "w"), TensorSpan(size, size, "w")]
    parent = earlier(weights(size // 2), old)
    planned = plan(weights(size // 2, 1), old, [parent])

    assert [one.numbers for one in planned.likenesses[0]] == [(0,), (1,)]


def test_bytes_that_repeat_are_tried_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    before = bytes(3 * BLOCK_BYTES_MAX - 1) + b"x"
    tried = itertools.count()
    monkeypatch.setattr(delta_base, "sha256", lambda data: (next(tried), sha256(data))[1])
    find_known(b"y" + bytes(20 * BLOCK_BYTES_MAX), [], earlier(before))

    assert next(tried) <= 3 * delta_base.TRIES_MAX


edits = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 800), st.binary(max_size=300)), max_size=4)


@given(edits, st.booleans())
def test_a_plan_covers_any_file_and_is_a_delta_of_at_most_four_blocks(changes: list[tuple[int, int, bytes]], named: bool) -> None:
    before = text(4000)
    after = bytearray(before)
    for at, gone, put in changes:
        after[at : at + gone] = put
    cuts = [(at, min(500, 4000 - at)) for at in range(0, 4000, 500)]
    parent = Earlier(cuts, [sha256(before[at : at + size]) for at, size in cuts], [], lambda at, size: before[at : at + size])
    planned = plan(bytes(after), [TensorSpan(100, 200, "t")] if named else [], [parent, parent])

    assert sum(size for _, size in planned.cuts) == len(after)
    assert [len(one) for one in planned.likenesses] == [len(planned.cuts)] * 2
    for likeness in planned.likenesses[0]:
        one = ancestor(likeness, parent)
        assert 1 <= len(likeness.numbers) <= DELTA_PARENTS_MAX
        assert 0 <= likeness.skip <= len(one.data)


@given(st.integers(0, 3000), st.binary(max_size=200))
def test_every_whole_block_behind_an_insertion_is_found(at: int, put: bytes) -> None:
    before = text(4000, seed=3)
    after = before[:at] + put + before[at:]
    cuts = [(begin, 500) for begin in range(0, 4000, 500)]
    parent = Earlier(cuts, [sha256(before[begin : begin + 500]) for begin, _ in cuts], [], lambda begin, size: before[begin : begin + size])
    found = {one.number for one in find_known(after, [], parent)}

    assert found >= {number for number, (begin, size) in enumerate(cuts) if begin >= at or begin + size <= at}


def padded(kind: str, mib: int, seed: int) -> bytes:
    """Random heads around bytes that repeat: zeros, two bytes in turn, a word that runs through, runs of many words."""
    rng = np.random.default_rng(seed)
    size = mib * MIB
    inside = {
        "zeros": lambda: bytes(size),
        "two in turn": lambda: b"\x00\x01" * (size // 2),
        "a word that runs through": lambda: (b"abcdefghi" * (size // 9 + 1))[:size],
        "runs of many words": lambda: b"".join(b"%03d-word" % (at % 997) * 4096 for at in range(size // 32768)),
        "a head in each block": lambda: b"".join(rng.bytes(4096) + bytes(BLOCK_BYTES_MAX - 4096) for _ in range(size // BLOCK_BYTES_MAX)),
    }[kind]()
    return rng.bytes(65536) + inside + rng.bytes(65536)


@pytest.mark.parametrize("kind", ["zeros", "two in turn", "a word that runs through", "runs of many words", "a head in each block"])
def test_planning_takes_steps_that_grow_with_the_file_and_not_faster(kind: str) -> None:
    for mib in (1, 4):
        search = delta_base.Search(earlier(padded(kind, mib, seed=1)))

        search.find(padded(kind, mib, seed=2), [])

        assert search.steps <= mib * MIB // 64, mib


def test_a_run_of_zeros_that_moved_costs_no_more_than_its_ends() -> None:
    before, after = text(300_000) + bytes(4 * MIB) + text(300_000, seed=2), text(300_500, seed=3) + bytes(4 * MIB) + text(300_000, seed=2)

    blocks, total = fetched(before, after)

    assert blocks <= 8
    assert total < 200_000  # the new text, compressed
