"""The pages of drift, over days of real windows that the hub's own code has settled."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from hub.database.known_drifts import KnownDrift
from hub.operations import api_tokens
from hub.operations.known_drifts import KNOWN_SECONDS, known_until
from hub.operations.opened_fleet import OpenedFleet
from hub.settings import load
from hub.web.application import application
from hub.web.guard import LOOPBACK_NAMES, Door
from tests.hub.drifted import Days
from tests.hub.web.console.people import Person, heading, text_of

STREAM = "/drift/delay/1.0.0/nyc"


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """An operator of a fleet whose delay is higher by 0.6 standard deviations for three days, and of a cohort with too few nodes."""
    days = Days(tmp_path_factory.mktemp("drifted"))
    manifest = days.publish("1.0.0")
    days.pass_days(manifest, range(4))
    days.hear(manifest, 3, cohort="lga")
    days.pass_days(manifest, range(4, 7), shift=lambda day: 0.6)
    fleet = OpenedFleet(days.directory, load(days.directory), days.store, days.fleet.repository)
    token = api_tokens.make(fleet, name="shift-2", role="operator", days=1)[1]
    app: Any = application(Door(fleet, LOOPBACK_NAMES))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False) as client:
        yield Person.signed_in(client, token)


def test_what_drifts_is_the_sentence_and_its_streams_add_up(person: Person) -> None:
    page = person.page("/drift")
    states = re.findall(r'<tr id="stream-[^"]+".*?<td class="(\w*)">', page, flags=re.DOTALL)

    assert heading(page).startswith("1 of 2 streams drifts: delay 1.0.0 in cohort nyc, since 6 Mar")
    assert "<title>(1) drift</title>" in page
    assert states == ["bad", ""]
    assert "1 does not: 1 quiet." in text_of(page)
    assert f'href="{STREAM}"' in page


def test_evidence_and_reference_are_drawn_with_their_figures(person: Person) -> None:
    page = person.page(STREAM)
    text = text_of(page)

    assert heading(page) == "delay 1.0.0 in cohort nyc drifts, since 6 Mar"
    assert 'aria-label="Evidence of delay 1.0.0 nyc over time, bar at' in page
    assert 'aria-label="delay: shares of rows, reference against now"' in page
    assert page.count("<summary>Figures</summary>") == 2
    assert "change began 6 Mar" in text
    assert re.search(r"delay: higher, 0\.\d+ sd \(0\.\d+-0\.\d+\)", text)
    assert "fleetcast drift explain delay@1.0.0 --cohort nyc" in text


def test_another_signal_and_a_moment_can_be_asked_for(person: Person) -> None:
    assert 'aria-label="carrier: shares of rows' in person.page(f"{STREAM}?signal=carrier")
    for query, words in (
        ("signal=nope", "no signal 'nope'"),
        ("at=x", "moment in seconds"),
        ("at=5", "No interval at"),
        ("about=weather", "No stream"),
    ):
        answer = person.get(f"{STREAM}?{query}")
        assert answer.status_code in {404, 422}, query
        assert words in text_of(answer.text)


def test_a_drift_that_is_marked_as_known_still_drifts_and_is_not_open(person: Person) -> None:
    asked = person.page(f"{STREAM}/known")
    done = person.answer(f"{STREAM}/known", why="the gauge was cleaned")
    page, first, changes = person.page("/drift"), person.page("/"), text_of(person.page("/audit"))

    assert "delay 1.0.0 in nyc stays drifts; the fleet page counts it as known until its evidence doubles or 7 days are over." in text_of(
        asked
    )
    assert (done.status_code, done.headers["location"]) == (303, STREAM)
    assert heading(page).startswith("1 of 2 streams drifts")
    assert "<title>drift</title>" in page
    assert "known until" in text_of(page)
    assert "drifts" not in heading(first)
    assert "the drift of delay 1.0.0 in cohort nyc was marked as known" in changes
    assert "the gauge was cleaned" in changes
    assert person.get("/drift/delay/1.0.0/lga/known").status_code == 404


def test_a_known_drift_is_open_again_with_twice_the_evidence_or_after_seven_days() -> None:
    row = {"model": "m", "version": "1.0.0", "cohort": "nyc", "about": "signals", "alarm": True, "evidence": 5.0}
    known = [KnownDrift("m", "1.0.0", "nyc", "signals", at=1000, evidence=4.0, actor="d.lind")]

    assert known_until(row, known, 2000) == 1000 + KNOWN_SECONDS
    assert known_until({**row, "evidence": 8.0}, known, 2000) is None
    assert known_until(row, known, 1000 + KNOWN_SECONDS) is None
    assert known_until({**row, "cohort": "lga"}, known, 2000) is None
