"""Estimate what a drift does to a model's answers: the share of rows of each answer since the change, beside the reference."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hub.core.drift.compare import Comparison

DAY_SECONDS: Final = 86_400.0
WHISKER_SDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Effect:
    """Hold how one answer's share of the rows has changed, with twice its standard deviation, and what that is in rows a day."""

    signal: str
    answer: str
    share: float
    whisker: float
    reference: float
    rows_a_day: float

    @property
    def more_a_day(self) -> int:
        """Return how many rows a day more get this answer; fewer, where it is below 0."""
        return round((self.share - self.reference) * self.rows_a_day)


def effects(outputs: Iterable[Comparison], *, rows: float, seconds: float) -> tuple[Effect, ...]:
    """Return for each output the answer whose share has changed most, of those that have left the reference beyond chance."""
    found = []
    rows_a_day = rows * DAY_SECONDS / seconds if seconds else 0.0
    for one in outputs:
        changed = [each for each in one.bins if abs(each.seen - each.expected) > WHISKER_SDS * each.sd]
        if changed:
            most = max(changed, key=lambda each: abs(each.seen - each.expected))
            found.append(Effect(one.name, most.label, most.seen, WHISKER_SDS * most.sd, most.expected, rows_a_day))
    return tuple(found)
