"""Decides which entries of a queue go when it holds too many: each kind has a fair share of the places. Knows no alert and no database."""

from collections import Counter
from collections.abc import Sequence

from hub.core.floods.fair_inbox import level_of


def surplus(kinds: Sequence[str], *, at_most: int) -> list[int]:
    """Return the places of the entries that go, of a queue with the oldest first: the oldest of the kinds that have most.

    A kind keeps all of its entries while it has no more than its fair share, whatever comes of another kind.
    """
    if len(kinds) <= at_most:
        return []
    counts = Counter(kinds)
    level = level_of(list(counts.values()), at_most)
    gone = []
    for at, kind in enumerate(kinds):
        if counts[kind] > level:
            counts[kind] -= 1
            gone.append(at)
    return gone
