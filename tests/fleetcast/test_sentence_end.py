"""Texts that are joined end one sentence once."""

import pytest

from fleetcast.sentence_end import ended


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("connection refused", "connection refused."),
        ("is the hub running there?", "is the hub running there?"),
        ("it is gone. ", "it is gone."),
    ],
)
def test_a_sentence_ends_with_one_sign(text: str, expected: str) -> None:
    assert ended(text) == expected
