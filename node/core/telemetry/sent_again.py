"""Decide which windows are sent again because the hub asks: those that a broker took in the time that the hub names, and may have lost.

Moments are of a clock of sending: it begins at the newest moment that the store holds, and runs as the monotonic clock does while this
process runs. So a window is at least as old as this clock says. It is exactly as old where it was taken over the present connection;
otherwise this device may have slept or been off in between, and the window may be of any age beyond that.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.window_request import WindowRequest

ASKED_MAX = 2  # Times that one window is sent again on request: hostile requests cost at most twice what telemetry costs anyway.
ANSWER_SECONDS = 300.0  # Between two requests that are answered. The hub repeats what it asks for after a longer pause.
SETTLE_SECONDS = 30.0  # After the hub subscribed until every broker of a cluster knows it.


@dataclass(frozen=True, slots=True)
class SentWindow:
    """Hold what is known of a window that a broker took."""

    id: int
    sent_at: float  # On the clock of sending: when the broker took it last.
    is_resent: bool  # It was sent again already, to a broker that had lost its memory.
    asked: int  # How often it was sent again on request.


def may_be_lost(windows: Iterable[SentWindow], request: WindowRequest, *, now: float, connected_at: float) -> list[int]:
    """Return which of these windows the hub may lack. `connected_at` is when the present connection began."""
    since = float("-inf") if request.since_seconds is None else now - request.since_seconds
    return [one.id for one in windows if one.asked < ASKED_MAX and since <= one.sent_at < _until(one, request, now, connected_at)]


def _until(window: SentWindow, request: WindowRequest, now: float, connected_at: float) -> float:
    """Return before which moment such a window has to be sent to be lost."""
    if window.sent_at <= connected_at:
        return float("inf")  # It may be older than the clock says.
    until = now - request.until_seconds
    return until if window.is_resent else until + SETTLE_SECONDS  # What was sent twice and could be heard is not sent a third time.
