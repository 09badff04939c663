"""Decide which of two hubs with one fleet's keys goes on: the one that began first. The other signs nothing.

What a broker retains may be of a hub that is gone. So an elder hub is believed to be there when it has been heard twice, with another beat;
until then, or until it has not been heard again for a while, nothing is signed. No clock of the wall decides.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from schemas.hub_presence import HubPresence

BEAT_SECONDS = 10.0  # Between two beats of a hub.
HOLD_SECONDS = 40.0  # A hub that is there was heard again by then, also over a connection that both take from each other.
FIRST_SECONDS = 0.4  # After the broker's answer to the subscription: what it retains has come by then.

Standing = Literal["unsure", "leads", "down"]


@dataclass(frozen=True, slots=True)
class Elder:
    """Hold a hub that began before this one, as it was heard first; `until` is when it is taken for gone."""

    presence: HubPresence
    until: float


@dataclass(frozen=True, slots=True)
class Rivals:
    """Hold what is known. Times are monotonic."""

    mine: HubPresence
    clear_at: float | None = None  # When it is known what the broker retains; None before its answer.
    elder: Elder | None = None
    down_for: HubPresence | None = None
    named: frozenset[bytes] = field(default_factory=frozenset)  # Runs that were reported.

    def standing(self, now: float) -> Standing:
        """Return whether this hub may sign."""
        if self.down_for is not None:
            return "down"
        if self.clear_at is None or now < self.clear_at or (self.elder is not None and now < self.elder.until):
            return "unsure"
        return "leads"


def subscribed(before: Rivals, *, now: float) -> Rivals:
    """Take in that the broker has answered the subscription."""
    return replace(before, clear_at=now + FIRST_SECONDS) if before.clear_at is None else before


def heard(before: Rivals, presence: HubPresence, *, now: float) -> tuple[Rivals, HubPresence | None]:
    """Take in what a hub says of itself; return who is to be reported, if somebody is."""
    mine = before.mine
    if presence.run == mine.run or presence.place == mine.place or before.down_for is not None:
        return before, None
    if presence.stands_down or (presence.since, presence.run) > (mine.since, mine.run):
        return _named(before, presence)  # It stands down, or will.
    elder = before.elder
    if elder is None or elder.presence.run != presence.run:
        return replace(before, elder=Elder(presence, now + HOLD_SECONDS)), None
    if presence.beat <= elder.presence.beat:
        return before, None
    return _named(replace(before, down_for=presence), presence)


def _named(before: Rivals, presence: HubPresence) -> tuple[Rivals, HubPresence | None]:
    if presence.run in before.named:
        return before, None
    return replace(before, named=before.named | {presence.run}), presence
