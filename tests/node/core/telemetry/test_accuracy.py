"""Counts of right and wrong answers are parsed at the door, and taken only where they can be."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.drift.accuracy import accuracy_baseline
from node.core.telemetry.accuracy import KEPT_SECONDS, Declared, Known, LabelCounts, check, chosen, due, parse
from schemas.accuracy import Accuracy
from schemas.errors import Code, Refused
from schemas.limits import WINDOW_ROWS_MAX
from schemas.signals import Privacy

HOUR, DAY = 3600, 86_400
NOW = 1_772_409_600  # 2026-03-02T00:00:00Z
ACCURACY = Accuracy(
    baseline=accuracy_baseline([(90, 10)] * 5),
    privacy=Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=18, sigma2_denominator=1, window_seconds=HOUR),
)


def declared(version: str = "1.0.0") -> Declared:
    return Declared("m", version, version.encode().ljust(32), ACCURACY)


def body(**changes: object) -> bytes:
    return json.dumps({"at": "2026-02-09T10:30:00+01:00", "right": 96, "wrong": 4, **changes}).encode()


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)), st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_time_may_be_a_number_or_written_with_its_zone(at: datetime, right: int, wrong: int) -> None:
    seconds = int(at.timestamp())

    written = parse(body(at=at.isoformat(), right=right, wrong=wrong))
    assert written == parse(body(at=seconds, right=right, wrong=wrong)) == parse(body(at=seconds + 0.5, right=right, wrong=wrong))
    assert (written.at, written.right, written.wrong) == (seconds, right, wrong)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (body(right=-1), "right"),
        (body(wrong=1.5), "wrong"),
        (body(right=True), "right"),
        (body(right=WINDOW_ROWS_MAX + 1), "right"),
        (body(right=0, wrong=0), "neither right nor wrong"),
        (body(at="2026-02-09T10:30:00"), "zone"),
        (body(at="yesterday"), "at:"),
        (body(at=None), "seconds since 1970"),
        (body(at=1e300), "seconds since 1970"),
        (body(at=10**400), "seconds since 1970"),
        (body(at=float("nan")), "seconds since 1970"),
        (body(label="cat"), "label"),
        (body(id=""), "id"),
        (b"[1, 2]", "labels"),
        (b"{", "JSON"),
        (b"\xff", "JSON"),
    ],
)
def test_what_says_no_counts_is_refused_with_the_place(said: bytes, words: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(said)

    assert caught.value.code is Code.REQUEST_INVALID
    assert words in caught.value.reason


def test_a_body_that_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(Refused) as caught:
        parse(body(id="x" * 5000))

    assert caught.value.code is Code.SCHEMA_TOO_LARGE


@pytest.mark.parametrize(
    ("at", "known", "code"),
    [
        (NOW + 2 * HOUR, {}, Code.LABELS_FUTURE),
        (NOW - KEPT_SECONDS - 2 * HOUR, {}, Code.LABELS_OLD),
        (NOW - DAY, {"closed": True, "due": NOW - HOUR}, Code.LABELS_CLOSED),
        (NOW - DAY, {"answered": 99}, Code.LABELS_EXCESS),
        (NOW - DAY, {"answered": 0}, Code.LABELS_EXCESS),
        (NOW - DAY, {"answered": 150, "right": 40, "wrong": 11}, Code.LABELS_EXCESS),
        (NOW - DAY, {"sure": False, "right": WINDOW_ROWS_MAX}, Code.LABELS_EXCESS),
    ],
)
def test_counts_that_cannot_be_are_refused_by_their_code(at: int, known: dict[str, object], code: Code) -> None:
    release = declared()
    interval = Known(**{"start": release.start_of(at), "answered": 1000, **known})  # type: ignore[arg-type]

    with pytest.raises(Refused) as caught:
        check(LabelCounts(at=at, right=90, wrong=10), release, interval, now=NOW)

    assert caught.value.code is code


def test_counts_up_to_the_last_answer_are_taken_and_any_where_the_node_is_not_sure() -> None:
    release, counts = declared(), LabelCounts(at=NOW - DAY, right=90, wrong=10)

    check(counts, release, Known(release.start_of(counts.at), 150, right=40, wrong=10), now=NOW)
    check(counts, release, Known(release.start_of(counts.at), 0, right=4000, sure=False), now=NOW)


def test_an_interval_leaves_so_long_after_its_first_counts_and_never_before_it_is_over() -> None:
    release = declared()
    start = release.start_of(NOW)

    assert due(Known(start - DAY, 10), release, now=NOW + 5, wait_seconds=DAY) == NOW + 5 + DAY
    assert due(Known(start, 10), release, now=start + 5, wait_seconds=0) == start + HOUR
    assert due(Known(start, 10, due=start + 77), release, now=start + 5, wait_seconds=DAY) == start + 77


def test_without_a_version_counts_are_of_the_release_that_answered_then() -> None:
    new, old = declared("2.0.0"), declared("1.0.0")

    assert chosen([new, old], [old], model="m", version=None) == old
    assert chosen([new, old], [], model="m", version=None) == new
    assert chosen([new, old], [new, old], model="m", version="1.0.0") == old


@pytest.mark.parametrize(
    ("declares", "version", "words"),
    [
        (["2.0.0", "1.0.0"], None, "2.0.0 and 1.0.0"),
        (["1.0.0"], "9.9.9", "one of 1.0.0"),
        ([], None, "no release of 'm'"),
        ([], "1.0.0", "1.0.0"),
    ],
)
def test_a_release_that_cannot_be_told_is_refused_with_what_there_is(declares: list[str], version: str | None, words: str) -> None:
    releases = [declared(one) for one in declares]

    with pytest.raises(Refused) as caught:
        chosen(releases, releases, model="m", version=version)

    assert caught.value.code is Code.LABELS_RELEASE
    assert words in caught.value.reason
