"""The clock of listening: it runs only while the hub hears its nodes."""

from hypothesis import given
from hypothesis import strategies as st

from hub.core.rollouts.listening import (
    CAUGHT_UP_SECONDS,
    STEP_SECONDS_MAX,
    Listened,
    Listening,
    connected,
    disconnected,
    looked,
    subscribed,
    took,
)


def begun(*, now: float = 0.0, seconds: float = 0.0, subscriptions: int = 1) -> Listening:
    return connected(Listening(seconds=Listened(seconds), at=now), subscriptions=subscriptions, now=now)


def running(*, now: float = 0.0, seconds: float = 0.0) -> Listening:
    clock = took(subscribed(begun(now=now, seconds=seconds), denied=False, now=now), 0, waited=1.0, full=False, now=now)
    assert clock.runs
    return clock


def test_it_counts_while_the_hub_is_connected() -> None:
    assert looked(running(seconds=7.0), now=3.0).seconds == 10.0


def test_it_stands_still_without_a_connection() -> None:
    gone = disconnected(running(), now=2.0)

    assert looked(looked(gone, now=7_202.0), now=7_203.0).seconds == 2.0


def test_it_waits_for_every_subscription_and_for_the_backlog() -> None:
    clock = begun(subscriptions=2)
    seen = []
    for change in (
        lambda clock: subscribed(clock, denied=False, now=1.0),
        lambda clock: took(clock, 0, waited=0.2, full=False, now=2.0),  # one is not granted yet
        lambda clock: subscribed(clock, denied=False, now=3.0),
        lambda clock: took(clock, 40, waited=0.0, full=False, now=4.0),  # what came meanwhile
        lambda clock: took(clock, 0, waited=0.2, full=False, now=4.2),
    ):
        clock = change(clock)
        seen.append(clock.runs)

    assert seen == [False, False, False, False, True]
    assert clock.seconds == 0.0


def test_a_denied_subscription_keeps_it_from_running_on_this_connection() -> None:
    denied = took(subscribed(begun(), denied=True, now=0.0), 0, waited=1.0, full=False, now=1.0)
    again = took(subscribed(connected(denied, subscriptions=1, now=2.0), denied=False, now=2.0), 0, waited=1.0, full=False, now=3.0)

    assert (denied.runs, again.runs) == (False, True)


def test_where_something_always_comes_it_runs_when_the_hub_has_kept_up() -> None:
    clock = subscribed(begun(), denied=False, now=0.0)
    full = took(clock, 1024, waited=0.0, full=True, now=1.0)

    assert not took(full, 7, waited=0.01, full=False, now=CAUGHT_UP_SECONDS).runs
    assert took(full, 7, waited=0.01, full=False, now=1.0 + CAUGHT_UP_SECONDS).runs


def test_a_hub_that_falls_behind_does_not_listen_until_it_has_caught_up() -> None:
    behind = took(running(), 1024, waited=0.0, full=True, now=2.0)
    caught_up = took(behind, 0, waited=0.2, full=False, now=3.0)

    assert (behind.runs, behind.seconds, caught_up.runs) == (False, 2.0, True)


def test_a_process_that_was_stopped_has_not_listened_meanwhile() -> None:
    assert looked(running(), now=7_200.0).seconds == STEP_SECONDS_MAX


def test_a_new_start_goes_on_where_the_last_one_ended_whatever_its_monotonic_clock_says() -> None:
    clock = looked(running(now=1_000_000.0), now=1_000_003.0)

    after = looked(running(now=5.0, seconds=clock.seconds), now=6.0)

    assert after.seconds == 4.0


@given(st.lists(st.tuples(st.sampled_from(["look", "gone", "back", "granted", "quiet", "some", "full"]), st.floats(0, 20)), max_size=40))
def test_it_never_runs_backwards_nor_faster_than_time(history: list[tuple[str, float]]) -> None:
    clock, now = begun(), 0.0
    for kind, passed in history:
        before, now = clock, now + passed
        match kind:
            case "look":
                clock = looked(clock, now=now)
            case "gone":
                clock = disconnected(clock, now=now)
            case "back":
                clock = connected(clock, subscriptions=1, now=now)
            case "granted":
                clock = subscribed(clock, denied=False, now=now)
            case _:
                events = {"quiet": 0, "some": 3, "full": 1024}[kind]
                clock = took(clock, events, waited=0.3, full=kind == "full", now=now)
        assert 0.0 <= clock.seconds - before.seconds <= (passed + 1e-9 if before.runs else 0.0)
