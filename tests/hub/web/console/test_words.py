"""Words of pages that need no fleet: changes field by field, and headings."""

import pytest

from hub.database.release_hours import HOUR, ReleaseHour
from hub.web.console.pages import audit, models, releases_words
from hub.web.console.refusals import sentence_of


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"state": "running", "percent": 50}, {"state": "done", "percent": 100}, "state running → done, percent 50 → 100"),
        (None, {"release": "1.0.0", "where": ""}, "release nothing → 1.0.0"),
        ({"approvals_left": 1}, {"approvals_left": 0}, "approvals left 1 → 0"),
        ({"labels": {"site": "a"}}, {"labels": {"site": "b", "ring": "<x>"}}, "labels site a → site b; ring <x>"),
        ({"telemetry": True}, {"telemetry": False}, "telemetry yes → no"),
        ("1.0.0", "1.1.0", "1.0.0 → 1.1.0"),
        (None, None, ""),
    ],
)
def test_a_change_is_said_field_by_field(before: object, after: object, words: str) -> None:
    assert audit._change(before, after) == words


def test_a_halted_rollout_is_not_said_to_move() -> None:
    assert models._sentence(1, {"halted": 1}, 0) == "1 model: no rollout moves, 1 is halted, no stream drifts"
    assert models._sentence(2, {"running": 1, "halted": 2}, 0) == "2 models: 1 rollout moves, 2 are halted, no stream drifts"


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("the selector matches none", "The selector matches none"),
        ("delay@1.1.0 is still being rolled out", "delay@1.1.0 is still being rolled out"),
        ("delay has several deployments", "delay has several deployments"),
        ("a token's name is too long", "A token's name is too long"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_refusal_begins_with_a_capital_unless_it_begins_with_a_name(reason: str, sentence: str) -> None:
    assert sentence_of(reason, ("delay", "default")) == sentence


@pytest.mark.parametrize(
    ("listened", "minutes", "expected"),
    [(480.0, 60, 52), (60.0, 53, 52), (3600.0, 180, 0), (0.0, 90, 60)],
)
def test_who_runs_what_begins_when_the_hub_began_to_listen(listened: float, minutes: int, expected: int) -> None:
    hour = 500_000 * HOUR
    began = releases_words.since(ReleaseHour(hour, "delay", {"1.0.0": 1}, listened), hour + minutes * 60)
    step, points = releases_words.scale(began, hour + minutes * 60)

    assert began == hour + expected * 60
    assert hour + minutes * 60 - (points - 1) * step >= began or points == 2
