"""When retained messages are asked for again: by clocks that are arguments."""

from random import Random

from node.agent.trust.retained_requests import PAUSE_SECONDS_MAX, TRUST, RetainedRequests
from node.core.trust.clock import MonotonicSeconds as At


def test_a_fault_that_stays_is_asked_about_ever_more_seldom() -> None:
    requests, asked = RetainedRequests(Random(0)), []
    requests.failed(TRUST, At(0))
    for second in range(86_400):
        if requests.due(At(second)):
            asked.append(second)
            requests.failed(TRUST, At(second))

    assert 86_400 / (1.5 * PAUSE_SECONDS_MAX) < len(asked) < 86_400 / (0.5 * PAUSE_SECONDS_MAX)
    assert asked[0] <= 3


def test_what_is_settled_is_not_asked_for_and_the_next_fault_is_at_once() -> None:
    requests = RetainedRequests(Random(0))
    for second in range(5000):
        requests.failed("delay", At(second))
        requests.due(At(second))
    requests.settled("delay")
    nothing = requests.due(At(10_000))
    requests.failed(TRUST, At(10_000))

    assert (nothing, requests.due(At(10_003))) == (frozenset(), {TRUST})


def test_what_was_put_off_is_asked_for_when_the_clock_is_set_and_not_before() -> None:
    requests = RetainedRequests(Random(0))
    requests.clock_changed(usable=True, distance_seconds=0.0, now=At(0))
    requests.put_off(TRUST)
    quiet = [
        (requests.clock_changed(usable=True, distance_seconds=0.0, now=At(second)), requests.due(At(second)))
        for second in range(0, 9000, 100)
    ]
    changed = requests.clock_changed(usable=True, distance_seconds=-3600.0, now=At(9000))

    assert set(quiet) == {(False, frozenset())}
    assert (changed, requests.due(At(9003))) == (True, {TRUST})


def test_a_clock_that_is_slewed_counts_as_set_in_the_end() -> None:
    requests = RetainedRequests(Random(0))

    assert any(requests.clock_changed(usable=False, distance_seconds=second * 0.5, now=At(second)) for second in range(200))
