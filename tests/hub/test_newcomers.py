"""Nodes without a baseline of their own: judged by the publisher's reference until their cohort has calibrated, and shown from then on."""

from pathlib import Path

import pytest

from schemas.names import sha256
from schemas import codec
from tests.hub.test_settling import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    made = Hub(tmp_path / "fleet")
    made.manifest = made.fleet.publish("1.1.0", calibration_rows=1024)
    made.digest = sha256(codec.encode(made.manifest))
    return made


def test_until_a_cohort_has_calibrated_its_counts_are_an_alarm_that_says_against_what(hub: Hub) -> None:
    hub.hear(0, shift=1.0)
    hub.settle()

    (alert,) = hub.alerts()
    assert hub.drift(0).alarm
    assert alert.text.endswith("against the publisher's reference: nodes have no baselines of their own yet")


def test_in_a_cohort_that_has_calibrated_newcomers_are_shown_and_raise_nothing_also_after_a_restart(hub: Hub) -> None:
    hub.hear_calibrated(0)
    hub.settle()
    hub.hear(1, shift=1.0)
    hub.settle()
    hub.start()
    hub.hear(2, shift=1.0)
    hub.hear_calibrated(2)
    hub.settle()

    found = {(one.start, one.calibrated): one for one in hub.store.drifts("delay")}
    shown = [one for one in found.values() if one.newcomers]
    assert len(shown) == 2
    assert [(one.alarm, one.episode, one.signals[0].p_adjusted < 1e-6) for one in shown] == [(False, None, True)] * 2
    assert hub.alerts() == []
    assert hub.settling.newest()[0].calibrated


def test_an_alarm_that_was_raised_before_stays_when_more_of_its_windows_come(hub: Hub) -> None:
    hub.hear(0, shift=1.0)
    hub.settle()
    hub.hear_calibrated(1)
    hub.settle()
    hub.hear(0, shift=1.0)
    hub.settle()

    assert (hub.drift(0).alarm, hub.drift(0).newcomers, hub.drift(0).windows) == (True, None, 20)
