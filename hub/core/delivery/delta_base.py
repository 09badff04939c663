"""Finds the blocks of its parent that a file is like: those that are in it verbatim, and for the others what a delta may be against.

Tensors are found again by their names. Everything else, a graph, a text, metadata, is found by its content: of each of the parent's blocks
a few bytes are looked for at every offset of what stands between the tensors. Knows bytes, not files.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hub.core.delivery.chunker import TENSOR_BYTES_MIN, Span, TensorSpan, cut, gaps
from hub.core.delivery.encode import Ancestor
from schemas.limits import BLOCK_BYTES_MAX, DELTA_PARENTS_MAX, MIB
from schemas.names import sha256

ANCHOR_BYTES = 8
KNOWN_BYTES_MIN = 64  # a shorter block is not worth looking for
ANCHOR_PLACES = 64  # offsets in a block at which an anchor is tried
ANCHOR_VALUES_MIN = 3  # distinct bytes of a word: zeros, and what alternates, stand at every offset of a run
ANCHOR_BLOCKS_MAX = 8  # that one anchor stands for
TRIES_MAX = 8  # verifications of a parent's block in vain: bytes that repeat must not cost the file's length times the block's
CHUNK_BYTES = 4 * MIB  # looked through at a time; some ten times as much memory
_MIX = np.uint64(0x9E3779B97F4A7C15)  # spreads words over the table


@dataclass(frozen=True, slots=True)
class Earlier:
    """Hold a file of the parent release: how it was cut, its blocks' digests, its tensors, and its bytes by offset and length."""

    cuts: Sequence[Span]
    digests: Sequence[bytes]
    tensors: Sequence[TensorSpan]
    read: Callable[[int, int], bytes]

    @property
    def total_bytes(self) -> int:
        """Return the size of the file."""
        return self.cuts[-1][0] + self.cuts[-1][1] if self.cuts else 0


class Match(NamedTuple):
    """Hold a block of the parent, by its number, that stands verbatim at an offset of the new file."""

    offset: int
    length: int
    number: int


class Plan(NamedTuple):
    """Hold the cuts of a file, and for each parent the likeness of each block there."""

    cuts: list[Span]
    likenesses: list[list["Likeness"]]


class Likeness(NamedTuple):
    """Hold the base of a block's delta: up to four blocks of the parent in a row, by number, and the offset in them at which it begins."""

    numbers: tuple[int, ...]
    skip: int


def plan(
    view: memoryview | bytes, tensors: Sequence[TensorSpan], parents: Sequence[Earlier] = (), *, block_bytes_max: int = BLOCK_BYTES_MAX
) -> Plan:
    """Cut a file so that it shares as many blocks as it can with its parents, the first first, and say what the rest is like."""
    total, spans = len(view), [(one.offset, one.length) for one in tensors]
    known = [[one for one in find_known(view, tensors, parent) if one.length <= block_bytes_max] for parent in parents]
    wanted: list[Span] = []
    for matches in known:
        wanted += [(one.offset, one.length) for one in matches if not _overlaps(wanted, one.offset, one.length)]
        wanted.sort()
    cuts = cut(total, spans, block_bytes_max=block_bytes_max, known=wanted)
    return Plan(cuts, [align(total, tensors, cuts, matches, parent) for matches, parent in zip(known, parents, strict=True)])


def ancestor(likeness: Likeness, earlier: Earlier) -> Ancestor:
    """Return what `hub.core.delivery.encode.encode_block` takes for a delta; without digests where the parent has nothing alike."""
    return Ancestor(tuple(earlier.digests[number] for number in likeness.numbers), block_bytes(earlier, likeness), likeness.skip)


def _overlaps(taken: Sequence[Span], offset: int, length: int) -> bool:
    """Return whether a span touches one of those taken, which are in order."""
    at = bisect_right(taken, (offset, 1 << 62))
    return (at > 0 and sum(taken[at - 1]) > offset) or (at < len(taken) and taken[at][0] < offset + length)


def find_known(view: memoryview | bytes, tensors: Sequence[TensorSpan], earlier: Earlier) -> list[Match]:
    """Return the parent's blocks that stand verbatim between the new file's large tensors, by offset; they do not overlap."""
    return Search(earlier).find(view, tensors)


class Search:
    """Look for a parent's blocks. `steps` counts blocks that were considered at an offset, verified or not, which is bounded.

    Bytes that repeat must not cost the file's length times the parent's: blocks of one content are looked for once, an anchor stands for
    few blocks, and a block that was verified in vain too often is looked for no more.
    """

    def __init__(self, earlier: Earlier) -> None:
        self._earlier = earlier
        self._anchors = _anchors(earlier)
        self._tries: dict[int, int] = defaultdict(int)
        self.steps = 0

    def find(self, view: memoryview | bytes, tensors: Sequence[TensorSpan]) -> list[Match]:
        """Return the blocks that stand verbatim between the large tensors, by offset; they do not overlap."""
        found: list[Match] = []
        for begin, length in gaps(len(view), [(one.offset, one.length) for one in tensors]):
            free, end = begin, begin + length
            for at in range(begin, end - ANCHOR_BYTES + 1, CHUNK_BYTES):
                if not self._anchors:
                    return found
                places, words = _places(view, at, min(at + CHUNK_BYTES + ANCHOR_BYTES - 1, end), list(self._anchors))
                index = 0
                while index < len(places):
                    match = self._at(view, int(places[index]), int(words[index]), free, end)
                    index += 1
                    if match is not None:
                        found.append(match)
                        free = match.offset + match.length
                        index = max(index, int(np.searchsorted(places, free)))
        return found

    def _at(self, view: memoryview | bytes, at: int, word: int, free: int, end: int) -> Match | None:
        """Return the block that one of its bytes, at this offset, belongs to."""
        for number, place in self._anchors.get(word, ()):
            self.steps += 1
            size, start = self._earlier.cuts[number][1], at - place
            if start < free or start + size > end:
                continue
            if sha256(bytes(view[start : start + size])) == self._earlier.digests[number]:
                return Match(start, size, number)
            self._tries[number] += 1
            if self._tries[number] >= TRIES_MAX:
                left = [one for one in self._anchors[word] if one[0] != number]
                self._anchors[word] = left
                if not left:
                    del self._anchors[word]
        return None


def align(
    total_bytes: int, tensors: Sequence[TensorSpan], cuts: Sequence[Span], known: Sequence[Match], earlier: Earlier
) -> list[Likeness]:
    """Return for each block what it is like in the parent; no numbers where the parent has nothing like it."""
    pairs = _pairs(tensors, earlier)
    begins = [one[0].offset for one in pairs]
    # Where both files are at the same point: before each piece they share, and behind it.
    before = sorted(
        [
            (0, 0),
            *((m.offset + m.length, sum(earlier.cuts[m.number])) for m in known),
            *((a.offset + a.length, b.offset + b.length) for a, b in pairs),
        ]
    )
    behind = sorted(
        [
            (total_bytes, earlier.total_bytes),
            *((m.offset, earlier.cuts[m.number][0]) for m in known),
            *((a.offset, b.offset) for a, b in pairs),
        ]
    )
    starts = [one[0] for one in behind]
    offsets = [offset for offset, _ in earlier.cuts]
    likenesses: list[Likeness] = []
    for at, length in cuts:
        inside = bisect_right(begins, at) - 1
        if inside >= 0 and at < pairs[inside][0].offset + pairs[inside][0].length:
            mine, theirs = pairs[inside]
            begin = theirs.offset + at - mine.offset
            likenesses.append(_covering(earlier, offsets, begin, begin + length, begin))
            continue
        last, last_theirs = before[max(bisect_right(before, (at, 1 << 62)) - 1, 0)]
        following = min(bisect_right(starts, at + length - 1), len(behind) - 1)
        next_, next_theirs = behind[following]
        begin = last_theirs + at - last
        end = next_theirs - (next_ - at - length)
        likenesses.append(_covering(earlier, offsets, min(begin, end - length), max(begin + length, end), begin))
    return likenesses


def _pairs(tensors: Sequence[TensorSpan], earlier: Earlier) -> list[tuple[TensorSpan, TensorSpan]]:
    """Return the large tensors that both files have, of one name, type and size, in the order of the new file."""
    theirs: dict[tuple[str, str | None, int], list[TensorSpan]] = defaultdict(list)
    for tensor in earlier.tensors:
        theirs[tensor.name, tensor.dtype, tensor.length].append(tensor)
    pairs = []
    for tensor in tensors:
        same = theirs.get((tensor.name, tensor.dtype, tensor.length))
        if same and tensor.length >= TENSOR_BYTES_MIN:
            pairs.append((tensor, same.pop(0)))  # two branches of a graph may each have a tensor of one name
    return pairs


def _covering(earlier: Earlier, offsets: Sequence[int], begin: int, end: int, at: int) -> Likeness:
    """Return the parent's blocks that hold the bytes from `begin` to `end`; where they are too many, those next to `at`."""
    total = earlier.total_bytes
    begin = min(max(begin, 0), max(total - 1, 0))
    end = min(max(end, begin + 1), total)
    if not offsets:
        return Likeness((), 0)
    first, last = bisect_right(offsets, begin) - 1, bisect_right(offsets, end - 1) - 1
    if last - first >= DELTA_PARENTS_MAX:
        middle = bisect_right(offsets, min(max(at, 0), total - 1)) - 1
        first = min(max(middle - 1, first), last + 1 - DELTA_PARENTS_MAX)
        last = first + DELTA_PARENTS_MAX - 1
    numbers = tuple(range(first, last + 1))
    skip = min(max(at - offsets[first], 0), sum(earlier.cuts[number][1] for number in numbers))
    return Likeness(numbers, skip)


def _anchors(earlier: Earlier) -> dict[int, list[tuple[int, int]]]:
    """Return a word of each of the parent's blocks that lie between its tensors: the blocks' numbers, and where in them it stands.

    Of a block whose words all repeat a byte or two there is none: it would be tried at every offset of a run, costs next to nothing
    anew, and a run that is cut at multiples of the maximum has blocks of one digest anyhow.
    """
    free = gaps(earlier.total_bytes, [(one.offset, one.length) for one in earlier.tensors])
    begins = [begin for begin, _ in free]
    anchors: dict[int, list[tuple[int, int]]] = defaultdict(list)
    seen: set[bytes] = set()
    for number, (offset, length) in enumerate(earlier.cuts):
        at = bisect_right(begins, offset) - 1
        if at < 0 or offset + length > sum(free[at]) or length < KNOWN_BYTES_MIN or earlier.digests[number] in seen:
            continue
        seen.add(earlier.digests[number])
        data = earlier.read(offset, length)
        places = range(0, length - ANCHOR_BYTES, max(1, (length - ANCHOR_BYTES) // ANCHOR_PLACES))
        place = max(places, key=lambda one: len(set(data[one : one + ANCHOR_BYTES])))
        word = data[place : place + ANCHOR_BYTES]
        sharing = anchors[int.from_bytes(word, "little")]
        if len(set(word)) >= ANCHOR_VALUES_MIN and len(sharing) < ANCHOR_BLOCKS_MAX:
            sharing.append((number, place))
    return {word: blocks for word, blocks in anchors.items() if blocks}


def _places(view: memoryview | bytes, begin: int, end: int, anchors: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return every offset from `begin` at which one of the anchors stands, in order, and which."""
    words = np.sort(np.array(anchors, np.uint64))
    table = np.zeros(1 << 20, np.bool_)
    table[(words * _MIX) >> np.uint64(44)] = True
    part = bytes(view[begin:end])
    places, found = [], []
    for shift in range(min(ANCHOR_BYTES, max(len(part) - ANCHOR_BYTES + 1, 0))):
        here = np.frombuffer(part, "<u8", (len(part) - shift) // ANCHOR_BYTES, shift)
        likely = np.flatnonzero(table[(here * _MIX) >> np.uint64(44)])
        likely = likely[np.isin(here[likely], words)]
        places.append(begin + likely * ANCHOR_BYTES + shift)
        found.append(here[likely])
    if not places:
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    joined, which = np.concatenate(places).astype(np.int64), np.concatenate(found).astype(np.uint64)
    order = np.argsort(joined, kind="stable")
    return joined[order], which[order]


def block_bytes(earlier: Earlier, likeness: Likeness) -> bytes:
    """Return what the parent's blocks of a likeness hold, joined; at most four blocks.

    A reader that has no such bytes raises what it raises.
    """
    if not likeness.numbers:
        return b""
    begin = earlier.cuts[likeness.numbers[0]][0]
    end = sum(earlier.cuts[likeness.numbers[-1]])
    assert end - begin <= DELTA_PARENTS_MAX * BLOCK_BYTES_MAX  # noqa: S101  # by what _covering does
    return earlier.read(begin, end - begin)
