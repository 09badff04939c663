"""Define the hub's request for windows that a broker has acknowledged and lost: a user property of an empty message to a node.

It says how long ago, because hub and nodes have no clock in common that never jumps.
"""

import re
from dataclasses import dataclass
from typing import Self

from schemas.errors import Code, Refused

NUMBER_MAX = 2**31 - 1
SECONDS_MAX = 999_999_999  # 31 years.
_ALL = "all"
_PATTERN = re.compile(rf"([1-9][0-9]{{0,9}}) ({_ALL}|[0-9]{{1,9}}) ([0-9]{{1,9}})")


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """Ask for the windows that a broker acknowledged to a node between two moments, both counted back from when this is read."""

    number: int  # Repetitions of a request have its number, and are answered once.
    since_seconds: int | None  # None: as far back as the node keeps windows.
    until_seconds: int

    def __str__(self) -> str:
        """Return it as it travels: `NUMBER SINCE UNTIL`."""
        since = _ALL if self.since_seconds is None else str(min(max(0, self.since_seconds), SECONDS_MAX))
        return f"{self.number} {since} {min(max(0, self.until_seconds), SECONDS_MAX)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse what `str` gives.

        Raises:
            Refused: SCHEMA_MALFORMED.
        """
        found = _PATTERN.fullmatch(text)
        if found is None or int(found[1]) > NUMBER_MAX:
            raise Refused(Code.SCHEMA_MALFORMED, f"request for windows {text!r} must look like '7 3600 20' or '7 all 20'")
        return cls(int(found[1]), None if found[2] == _ALL else int(found[2]), int(found[3]))
