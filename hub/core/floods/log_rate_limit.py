"""Limits the lines of one kind that a log takes in a while. Reads no clock, and holds a bounded number of kinds."""

from collections import OrderedDict
from dataclasses import dataclass

KINDS_MAX = 256  # the one that began longest ago goes


@dataclass(slots=True)
class _Kind:
    began: float
    written: int = 0
    left_out: int = 0


class Limit:
    """Allow at most `lines_max` lines of a kind in `seconds`; the first line after that says how many were left out."""

    def __init__(self, *, lines_max: int, seconds: float) -> None:
        self._lines_max, self._seconds = lines_max, seconds
        self._kinds: OrderedDict[str, _Kind] = OrderedDict()

    def admit(self, kind: str, now: float) -> int | None:
        """Return how many lines were left out before this one; None when this one is to be left out too."""
        found = self._kinds.get(kind)
        before = 0
        if found is None or now - found.began >= self._seconds:
            before = found.left_out if found else 0
            found = self._kinds[kind] = _Kind(now)
            self._kinds.move_to_end(kind)
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        if found.written >= self._lines_max:
            found.left_out += 1
            return None
        found.written += 1
        return before
