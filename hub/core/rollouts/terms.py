"""Checks the terms of a rollout: those by which no node could ever be moved, or no gate could ever hold, are refused when it begins."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.rollout import Gate
from schemas.windows import Window, next_opening, windows_text

_ZONES: Final = tuple(timezone(timedelta(hours=hours)) for hours in range(-12, 15))  # All in which nodes may be.


def check_times(*, activate: Sequence[Window] | None, deadline: int | None, now: int, fetch: Sequence[Window] | None = None) -> None:
    """Check that a rollout which begins now could move some node: that it may fetch, and then may switch, before the deadline.

    Raises:
        Refused: ROLLOUT_INVALID for a deadline that has passed; WINDOW_INVALID where there is no such time in any zone.
    """
    if deadline is None:
        return
    if deadline <= now:
        text = f"the deadline {written(deadline)} has passed, it is {written(now)}: give a later one, or a duration such as 36h"
        raise Refused(Code.ROLLOUT_INVALID, text)
    for name, windows in (("fetch", fetch), ("activate", activate)):
        if windows and not any(_opens(windows, now, zone, deadline) is not None for zone in _ZONES):
            text = (
                f"{name} {windows_text(windows)!r} does not open before the deadline {written(deadline)} in any zone: give a later deadline"
            )
            raise Refused(Code.WINDOW_INVALID, text)
    if not (fetch and activate):
        return
    for zone in _ZONES:
        fetches = _opens(fetch, now, zone, deadline)
        if fetches is not None and _opens(activate, fetches, zone, deadline) is not None:
            return
    text = (
        f"no time before the deadline {written(deadline)} lets a node first fetch ({windows_text(fetch)!r}) and then switch "
        f"({windows_text(activate)!r}), in any zone: give a later deadline, or other times"
    )
    raise Refused(Code.WINDOW_INVALID, text)


def _opens(windows: Sequence[Window], at: float, zone: timezone, deadline: int) -> float | None:
    """Return when windows open next, if that is before the deadline."""
    found = next_opening(windows, at, zone)
    return found if found is not None and found < deadline else None


def check_shadow(gate: Gate, manifest: Manifest) -> None:
    """Check that nodes compare the release in shadow, where a gate asks for it.

    Raises:
        Refused: ROLLOUT_INVALID.
    """
    if gate.shadow_ratio_min is not None and manifest.limits.shadow is None:
        text = f"{manifest.model}@{manifest.version} is not compared in shadow: publish it with a shadow, or leave the gate on shadow out"
        raise Refused(Code.ROLLOUT_INVALID, text)


def written(seconds: int) -> str:
    """Return a moment in a sentence."""
    return f"{datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M} UTC"
