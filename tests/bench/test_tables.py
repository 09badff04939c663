"""Documents quote figures as `bench/results.json` has them."""

import pytest

from bench.tables import rendered

ROW = {
    "name": "drift.step_ms",
    "value": 0.14159,
    "unit": "ms",
    "goal": "<= 0.2",
    "peer": "other",
    "peer_value": 146.8,
    "command": "make bench",
}


def test_a_row_that_names_a_figure_is_written_from_the_results() -> None:
    text = "before\n| `drift.step_ms` | 7 hours | | | `make bench` |\n| `root.json` | stays |\n"

    expected = "before\n| `drift.step_ms` | 0.1416 ms | at most 0.2 | other: 146.8 | `make bench` |\n| `root.json` | stays |\n"

    assert expected == rendered(text, {"drift.step_ms": ROW})
    assert expected == rendered(expected, {"drift.step_ms": ROW})


def test_a_row_of_a_bare_machine_is_written_too() -> None:
    row = {**ROW, "name": "fresh.test_passed", "value": 3600, "unit": "tests that passed", "goal": "", "peer": "", "peer_value": None}

    written = rendered(
        "| `fresh.test_passed` | 0 | | | `make test-fresh` |\n", {"fresh.test_passed": {**row, "command": "make test-fresh"}}
    )

    assert written == "| `fresh.test_passed` | 3600 tests that passed |  |  | `make test-fresh` |\n"


def test_a_figure_that_nobody_measured_is_not_quoted() -> None:
    with pytest.raises(KeyError, match=r"drift\.gone"):
        rendered("| `drift.gone` | 1 | | | `make bench-drift` |\n", {"drift.step_ms": ROW})


def test_what_was_not_found_says_so_and_not_its_stand_in() -> None:
    results = {
        f"drift.tweets_weeks.{name}": {**ROW, "value": value, "unit": "weeks | watched"} for name, value in (("a", 999.0), ("b", 4.0))
    }
    text = "<!-- figures: drift-tweets -->\n<!-- end -->\n"

    assert "| watched | not found weeks |" in rendered(text, results)
    assert "| watched | 4 weeks |" in rendered(text, results)
