"""Shorten what a runtime's library reports to one line."""

from typing import Final

REASON_CHARACTERS_MAX: Final = 300  # A runtime's message names nodes and shapes first; the rest is source lines.


def first_line(error: Exception) -> str:
    """Return the first line of the message, or the error's class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:REASON_CHARACTERS_MAX]
