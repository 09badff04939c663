"""A queue's places, shared between kinds."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hub.core.floods.fair_places import surplus


def test_the_oldest_of_the_kind_that_has_most_go() -> None:
    assert surplus("abbbb", at_most=3) == [1, 2]
    assert surplus("abbbb", at_most=5) == []


@given(st.text("abcd", max_size=60), st.integers(4, 30))
def test_a_kind_within_its_share_loses_nothing(kinds: str, at_most: int) -> None:
    gone = surplus(kinds, at_most=at_most)

    left = Counter(kind for at, kind in enumerate(kinds) if at not in gone)
    assert left.total() <= at_most
    assert all(left[kind] >= min(count, at_most // 4) for kind, count in Counter(kinds).items())
