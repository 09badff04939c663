"""Words of pages that need no fleet: changes field by field, and headings."""

import pytest

from hub.web.console.pages import audit, models


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
