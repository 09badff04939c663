"""The bounded inbox as a pure structure: fair shares, what goes first, what never goes."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hub.core.floods.fair_inbox import Lanes, Waiting, level_of

NAMES = ("state", "receipt")


def lanes(messages_max: int = 16, bytes_max: int = 10_000) -> Lanes[int]:
    return Lanes(NAMES, newest={"state": 2}, messages_max=messages_max, bytes_max=bytes_max)


def message(item: int, sender: str, *, lane: str = "receipt", size_bytes: int = 1, firm: bool = False) -> Waiting[int]:
    return Waiting(lane, sender, item, size_bytes, firm)


def test_senders_are_read_in_turn_each_in_its_own_order() -> None:
    waiting = lanes()
    for item, sender in enumerate("aaabc"):
        waiting.put(message(item, sender))

    assert waiting.take("receipt", 10) == [0, 3, 4, 1, 2]
    assert (len(waiting), waiting.size_bytes) == (0, 0)


def test_a_lane_keeps_the_newest_few_of_each_sender() -> None:
    waiting = lanes()

    gone = [one.item for item in range(5) for one in waiting.put(message(item, "a", lane="state"))]

    assert gone == [0, 1, 2]
    assert waiting.take("state", 10) == [3, 4]


def test_the_oldest_of_the_loudest_goes_and_the_quiet_keep_theirs() -> None:
    waiting = lanes(messages_max=16)
    for item in range(3):
        waiting.put(message(item, "quiet"))

    gone = [one for item in range(100) for one in waiting.put(message(item, "loud"))]

    assert {one.sender for one in gone} == {"loud"}
    assert [one.item for one in gone] == list(range(len(gone)))
    assert waiting.take("receipt", 100)[:6:2] == [0, 1, 2]


def test_bytes_are_bounded_as_messages_are() -> None:
    waiting = lanes(messages_max=1000, bytes_max=1000)
    waiting.put(message(-1, "quiet", size_bytes=50))

    gone = [one for item in range(100) for one in waiting.put(message(item, "loud", size_bytes=100))]

    assert {one.sender for one in gone} == {"loud"}
    assert waiting.size_bytes <= 1000


def test_a_firm_message_stays_while_there_are_others() -> None:
    waiting = lanes(messages_max=16)
    for item in range(14):
        waiting.put(message(item, "a", firm=True))

    gone = [one for item in range(50) for one in waiting.put(message(100 + item, f"invented-{item}"))]

    assert not any(one.firm for one in gone)
    assert [item for item in waiting.take("receipt", 100) if item < 100] == list(range(14))


def test_more_senders_than_there_is_room_for_stay_bounded() -> None:
    waiting = lanes(messages_max=16)

    for item in range(1000):
        waiting.put(message(item, f"n{item}", firm=True))

    assert len(waiting) <= 16


def test_a_single_message_above_all_bounds_is_let_go() -> None:
    waiting = lanes(bytes_max=100)

    assert [one.item for one in waiting.put(message(1, "a", size_bytes=101))] == [1]
    assert waiting.size_bytes == 0


def test_what_the_broker_sends_again_is_forgotten() -> None:
    waiting = lanes()
    waiting.put(message(1, "a", firm=True, size_bytes=7))
    waiting.put(message(2, "a", size_bytes=5))

    waiting.forget_firm()

    assert (waiting.take("receipt", 10), waiting.size_bytes) == ([2], 0)


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(0, 500))
def test_the_level_is_what_a_fair_share_gives(amounts: list[int], room: int) -> None:
    level = level_of(amounts, room)

    assert sum(min(amount, level) for amount in amounts) <= room or level == 0
    assert level == max(amounts) or sum(min(amount, level + 1) for amount in amounts) > room


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(NAMES), st.integers(0, 300), st.booleans()), max_size=200))
def test_nothing_is_lost_without_being_named(messages: list[tuple[str, str, int, bool]]) -> None:
    waiting, gone = lanes(messages_max=16, bytes_max=1000), list[int]()
    for item, (sender, lane, size_bytes, firm) in enumerate(messages):
        gone += [one.item for one in waiting.put(Waiting(lane, sender, item, size_bytes, firm))]
        assert len(waiting) <= 16
        assert waiting.size_bytes <= 1000

    left = [item for lane in NAMES for item in waiting.take(lane, 1000)]

    assert Counter(gone + left) == Counter(range(len(messages)))
    assert (len(waiting), waiting.size_bytes) == (0, 0)
