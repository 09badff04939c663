"""Which hub there is, as a node finds out: one that says a timestamp alone, or one of before, whose topic has everything."""

from itertools import pairwise

import pytest

from node.core.trust.hub_topics import (
    DAY_SECONDS,
    LAG_SECONDS,
    LOOK_SECONDS_MAX,
    QUIET_SECONDS,
    TRIES_MAX,
    UNPROVEN_SECONDS,
    OldTopic,
    RolesFetch,
)

T = 1_800_000_000  # now, by the wall
HOUR = 3600


@pytest.fixture
def topic() -> OldTopic:
    made = OldTopic()
    made.granted(0.0)
    return made


def test_a_broker_that_says_no_timestamp_has_a_hub_of_before(topic: OldTopic) -> None:
    assert [topic.is_read(at, T) for at in (0.0, QUIET_SECONDS - 0.1, QUIET_SECONDS, 10 * HOUR)] == [False, False, True, True]
    assert not OldTopic().is_read(10.0 * HOUR, T), "before a subscription was granted nobody knows"


def test_a_timestamp_that_nobody_can_prove_counts_for_a_while_only(topic: OldTopic) -> None:
    topic.heard()

    assert [topic.is_read(at, T) for at in (QUIET_SECONDS, UNPROVEN_SECONDS - 1, UNPROVEN_SECONDS)] == [False, False, True]


def test_an_upgrade_is_followed_at_the_first_timestamp_alone(topic: OldTopic) -> None:
    assert topic.is_read(QUIET_SECONDS, T)
    topic.arrived(T, 5.0)
    assert topic.is_read(HOUR, T + HOUR)
    topic.accepted_alone(T + HOUR + 60, HOUR + 60.0)

    assert not topic.is_read(HOUR + 61.0, T + HOUR + 61)


def test_steps_of_rollouts_make_the_old_topic_newer_and_are_no_downgrade(topic: OldTopic) -> None:
    topic.accepted_alone(T, 0.0)
    topic.arrived(T + HOUR + 59, 3599.0)

    assert not topic.is_read(3600.0, T + HOUR)


def test_a_downgrade_is_followed_when_no_timestamp_alone_comes_any_more(topic: OldTopic) -> None:
    topic.accepted_alone(T, 0.0)
    at = next(at for at in range(0, 10 * HOUR, 60) if topic.is_read(float(at), T + at))
    assert at == LAG_SECONDS
    topic.arrived(T + 600, float(at))
    assert not topic.is_read(at + 1.0, T + at + 1), "what stands there is no newer than what an hourly hub could have said"

    again = next(later for later in range(at, 10 * HOUR, 60) if topic.is_read(float(later), T + later))
    topic.arrived(T + again, float(again))
    assert all(topic.is_read(float(later), T + later) for later in range(again, again + 20 * HOUR, HOUR))
    assert again <= 2 * HOUR


def test_a_hub_that_is_away_costs_ever_fewer_looks(topic: OldTopic) -> None:
    topic.accepted_alone(T, 0.0)
    looks = []
    for at in range(0, 7 * 24 * HOUR, 60):
        if topic.is_read(float(at), T + at):
            looks.append(at)
            topic.arrived(T, float(at))

    assert len(looks) < 35
    assert max(later - earlier for earlier, later in pairwise(looks)) <= LOOK_SECONDS_MAX + 60
    topic.accepted_alone(T + 8 * 24 * HOUR, 8.0 * 24 * HOUR)
    assert not topic.is_read(8.0 * 24 * HOUR, T + 8 * 24 * HOUR)


def test_a_refused_bundle_ends_a_look(topic: OldTopic) -> None:
    topic.accepted_alone(T, 0.0)
    assert topic.is_read(2.0 * HOUR, T + 2 * HOUR)
    topic.arrived(None, 2.0 * HOUR)

    assert not topic.is_read(2.0 * HOUR + 1, T + 2 * HOUR + 1)


def test_a_reason_that_a_broker_made_up_costs_a_few_fetches_and_the_routine_goes_on() -> None:
    fetch, now, fetched = RolesFetch(), 0.0, 0
    for _ in range(3 * 24 * 60):
        now += 60.0
        if fetch.begins("index 1 999", routine=True, now=now):
            fetched += 1
        elif fetch.reason is not None:
            fetched += 1
            if fetch.reason == "routine" or not fetch.goes_on():
                fetch.ended(now, is_new=False)

    assert fetched <= TRIES_MAX + 1 + 2 * 3
    assert now > 2 * DAY_SECONDS


def test_roles_that_are_new_make_a_reason_count_anew() -> None:
    fetch = RolesFetch()
    assert fetch.begins("model delay 4", routine=False, now=0.0)
    while fetch.goes_on():
        pass
    fetch.ended(1.0, is_new=False)
    assert not fetch.begins("model delay 4", routine=False, now=2.0)
    fetch.ended(3.0, is_new=True)

    assert fetch.begins("model delay 4", routine=False, now=4.0)
    assert not fetch.begins("model delay 5", routine=True, now=4.0), "one fetch at a time"


def test_the_routine_fetches_once_a_day() -> None:
    fetch, begun = RolesFetch(), []
    for at in range(0, 3 * 86_400, 600):
        if fetch.begins(None, routine=True, now=float(at)):
            begun.append(at)
            fetch.ended(float(at), is_new=True)

    assert begun == [0, 86_400, 2 * 86_400]
