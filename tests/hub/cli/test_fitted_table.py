"""A table that is wider than the terminal loses nothing: sentences are folded, and where that is not enough each row is a block."""

import pytest

from hub.cli.fitted_table import fitted

HEADS = ["node", "class", "code", "sentence", "since"]
ROWS = [
    ["gateway-17", "rolled_back", "probation.errors", "12 of 200 requests failed, at most 2 may", "2026-11-26 12:00"],
    ["gateway-18", "serving", "-", "serves 1.4.0", "2026-11-26 11:20"],
]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_no_width_cuts_a_code_a_name_or_a_minute(width: int) -> None:
    lines = fitted(HEADS, ROWS, width)
    printed = "\n".join(lines)

    assert max(map(len, lines)) <= width
    for row in ROWS:
        for cell in (row[0], row[1], row[2], row[4]):
            assert cell in printed
    assert set(ROWS[0][3].split()) <= set(printed.split())


def test_a_table_that_fits_has_a_line_a_row() -> None:
    assert len(fitted(HEADS, ROWS, 200)) == 3


def test_a_sentence_is_folded_between_words_under_its_own_head() -> None:
    assert fitted(["a", "sentence"], [["x", "one two three four five"]], 21) == ["a  sentence", "x  one two three four", "   five"]


def test_a_row_that_cannot_be_folded_is_a_block() -> None:
    assert fitted(["node", "last seen", "serves"], [["n" * 10, "2026-11-26 12:00", "m@1"]], 30) == [
        "nnnnnnnnnn",
        "  last seen  2026-11-26 12:00",
        "  serves     m@1",
    ]
