"""Measures how long the hub has listened to its nodes: the clock by which rollouts soak and nodes fall silent. Knows neither wall nor disk.

It runs only while the hub hears what nodes say, and has read what they sent while it did not. So an hour in which the hub was off, or its
broker, is neither an hour in which a release proved itself nor an hour of silence of the nodes. It counts on from what was kept when the
hub starts again; no jump of the wall's clock touches it.

    The connection is up -> all subscriptions are granted -> the backlog is read -> it runs, until a turn takes as much as it may.

The broker does not say where a backlog ends. It has been read when nothing has come for `QUIET_SECONDS`; in a large fleet, where something
always comes, when for `CAUGHT_UP_SECONDS` no turn of the hub found more than it could take.
"""

from dataclasses import dataclass, replace
from typing import NewType

Listened = NewType("Listened", float)  # seconds, in all; never compared with a time of another clock

NEVER = Listened(float("-inf"))
QUIET_SECONDS = 0.2
CAUGHT_UP_SECONDS = 30.0
STEP_SECONDS_MAX = 5.0  # between two looks; a process that was stopped, or a machine that slept, has not listened meanwhile


@dataclass(frozen=True, slots=True)
class Listening:
    """Hold the clock's state. `at` is the monotonic time of the last look; every `now` is of that clock."""

    seconds: Listened
    subscriptions: int | None = None  # that the broker has yet to answer; None: there is no connection
    denied: bool = False  # a part of what nodes say cannot be heard over this connection
    caught_up: bool = False
    quiet: float = 0.0  # seconds in which nothing came
    kept_up_since: float = 0.0  # monotonic; since when no turn was full
    at: float = 0.0

    @property
    def runs(self) -> bool:
        """Return whether the hub hears its nodes."""
        return self.is_subscribed and self.caught_up

    @property
    def is_subscribed(self) -> bool:
        """Return whether all that nodes say comes here, or will."""
        return self.subscriptions == 0 and not self.denied


def looked(before: Listening, *, now: float) -> Listening:
    """Return the clock at this moment: count what has passed since the last look."""
    passed = min(max(0.0, now - before.at), STEP_SECONDS_MAX)
    if not before.runs:
        return replace(before, at=now)
    return replace(before, seconds=Listened(before.seconds + passed), at=now)


def connected(before: Listening, *, subscriptions: int, now: float) -> Listening:
    """Begin a connection, on which this number of subscriptions was asked for."""
    return replace(disconnected(before, now=now), subscriptions=subscriptions, kept_up_since=now)


def disconnected(before: Listening, *, now: float) -> Listening:
    """End the connection."""
    return replace(looked(before, now=now), subscriptions=None, denied=False, caught_up=False, quiet=0.0)


def subscribed(before: Listening, *, denied: bool, now: float) -> Listening:
    """Take the broker's answer to one subscription."""
    if before.subscriptions is None:
        return before
    left = max(0, before.subscriptions - 1)
    return replace(looked(before, now=now), subscriptions=left, denied=before.denied or denied, quiet=0.0, kept_up_since=now)


def took(before: Listening, events: int, *, waited: float, full: bool, now: float) -> Listening:
    """Take note of one turn: how many events it found, how long it waited for the first, and whether it had to leave some."""
    after = looked(before, now=now)
    if not after.is_subscribed:
        return after
    if full:
        return replace(after, caught_up=False, quiet=0.0, kept_up_since=now)
    quiet = 0.0 if events else after.quiet + waited
    caught_up = after.caught_up or quiet >= QUIET_SECONDS or now - after.kept_up_since >= CAUGHT_UP_SECONDS
    return replace(after, caught_up=caught_up, quiet=quiet)
