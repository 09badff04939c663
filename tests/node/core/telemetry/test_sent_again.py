"""On request only those windows are sent again that the hub can lack, and each at most twice."""

from node.core.telemetry.sent_again import ASKED_MAX, SETTLE_SECONDS, SentWindow, may_be_lost
from schemas.window_request import WindowRequest

NOW = 10_000.0
REQUEST = WindowRequest(1, 3600, 600)  # The hub heard nothing from an hour ago until ten minutes ago.


def sent_again(seconds_ago: float, *, connected_ago: float = 9000.0, is_resent: bool = False, asked: int = 0) -> bool:
    window = SentWindow(1, NOW - seconds_ago, is_resent, asked)
    return may_be_lost([window], REQUEST, now=NOW, connected_at=NOW - connected_ago) == [1]


def test_windows_of_the_time_that_is_asked_for_are_sent_again() -> None:
    assert [sent_again(ago) for ago in (3700, 3500, 700, 500)] == [False, True, True, False]


def test_a_moment_is_allowed_for_brokers_to_learn_that_the_hub_is_back() -> None:
    assert sent_again(600 - SETTLE_SECONDS / 2)
    assert not sent_again(600 - 2 * SETTLE_SECONDS)


def test_what_was_sent_twice_and_could_be_heard_is_not_sent_a_third_time() -> None:
    assert not sent_again(599, is_resent=True)
    assert sent_again(601, is_resent=True), "nobody was there to hear the second time"


def test_a_window_of_an_earlier_connection_may_be_older_than_the_clock_says() -> None:
    assert sent_again(100, connected_ago=50), "this device may have slept for hours in between"
    assert not sent_again(3700, connected_ago=50), "it is at least so old"


def test_a_window_is_sent_on_request_only_so_often() -> None:
    assert [sent_again(1000, asked=asked) for asked in range(ASKED_MAX + 1)] == [True] * ASKED_MAX + [False]


def test_all_that_is_kept_is_sent_where_the_hub_cannot_say_since_when() -> None:
    assert may_be_lost([SentWindow(1, -1e9, False, 0)], WindowRequest(1, None, 5), now=NOW, connected_at=0.0) == [1]
