"""When topics are subscribed to again, denied or ended: against a broker whose list denies, by clocks that are arguments."""

from collections.abc import Sequence
from itertools import count
from random import Random

import pytest

from node.agent.trust.resubscriptions import DENIED_PAUSE, ENDED_SECONDS, Resubscriptions
from node.core.trust.clock import MonotonicSeconds as At

SETTINGS, TRUST = "fleetcast/v1/main/node/n1/settings", "fleetcast/v1/main/trust"


class Lists:
    """A broker's access list, and what was asked of it."""

    def __init__(self, denied: set[str]) -> None:
        self.denied, self.mids, self.topics = denied, count(1), dict[int, str]()
        self.read_at: list[tuple[int, tuple[str, ...]]] = []
        self.ended: dict[str, int] = {}
        self.reported: list[int] = []
        self.second = 0
        self.node = Resubscriptions(self, Random(0), self.reported.append)

    def read(self, topics: Sequence[str], *, only_if_new: bool = False) -> int | None:
        self.read_at.append((self.second, tuple(topics)))
        self.ended = {topic: number for topic, number in self.ended.items() if topic not in topics}
        self.topics |= {next(self.mids): topic for topic in topics}
        return max(self.topics)

    def answered(self, mid: int) -> str | None:
        return self.topics.pop(mid, None)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second += 1
            self.node.tick(At(self.second))
            for mid in list(self.topics):
                self.node.answered(mid, self.topics[mid] in self.denied, At(self.second))


@pytest.fixture
def lists() -> Lists:
    made = Lists({SETTINGS})
    made.read([TRUST, SETTINGS])
    return made


def test_a_denied_topic_is_read_once_the_list_allows_it_and_not_after(lists: Lists) -> None:
    lists.run(2)
    lists.denied.clear()
    lists.run(3600)

    assert [topics for _, topics in lists.read_at] == [(TRUST, SETTINGS), (SETTINGS,)]
    assert lists.read_at[1][0] <= 2 + 1.5 * DENIED_PAUSE.seconds_min
    assert lists.reported[-1] == 0, "a doctor that asks now finds nothing denied"


def test_a_list_that_stays_as_it_is_is_asked_ever_more_seldom(lists: Lists) -> None:
    lists.run(86_400)

    assert 24 / 1.5 < len(lists.read_at) < 24 / 0.5 + 12
    assert lists.reported[-1] == 1


def test_another_connection_begins_anew(lists: Lists) -> None:
    lists.run(86_400)
    lists.node.connected()
    before = len(lists.read_at)
    lists.run(3600)
    assert len(lists.read_at) == before, "nothing was denied on this connection yet"

    lists.read([SETTINGS])
    lists.run(10)

    assert len(lists.read_at) == before + 2


def test_denied_blocks_are_counted_and_left_to_their_transfer(lists: Lists) -> None:
    lists.run(1)
    lists.node.answered(99, 8, At(1))

    assert lists.reported[-1] == 9
    assert all(topics in {(TRUST, SETTINGS), (SETTINGS,)} for _, topics in lists.read_at)


def test_an_ended_topic_is_read_a_while_after_its_last_end(lists: Lists) -> None:
    lists.denied.clear()
    lists.run(10)
    lists.ended = {TRUST: 1}
    lists.node.tick(At(10.1))
    lists.ended = {TRUST: 2}  # Ended once more meanwhile.
    lists.node.tick(At(10.9))
    lists.node.tick(At(10.2 + ENDED_SECONDS))
    assert len(lists.read_at) == 1, "too soon after the second end"

    lists.node.tick(At(11.0 + ENDED_SECONDS))

    assert [topics for _, topics in lists.read_at][1:] == [(TRUST,)]


def test_a_topic_that_was_left_or_read_meanwhile_is_not_read_again(lists: Lists) -> None:
    lists.denied.clear()
    lists.ended = {TRUST: 1, SETTINGS: 2}
    lists.node.tick(At(1))
    lists.ended = {}
    lists.run(60)

    assert len(lists.read_at) == 1
