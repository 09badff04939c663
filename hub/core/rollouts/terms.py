"""Checks the terms of a rollout: those by which no node could ever be moved, or no gate could ever hold, are refused when it begins."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.rollout import Gate
from schemas.windows import Window, next_opening, windows_text

OFFSET_HOURS: Final = range(-12, 15)  # All zones in which nodes may be.


def check_times(*, activate: Sequence[Window] | None, deadline: int | None, now: int) -> None:
    """Check that a rollout which begins now could move some node.

    Raises:
        Refused: ROLLOUT_INVALID.
    """
    if deadline is None:
        return
    if deadline <= now:
        text = f"the deadline {written(deadline)} has passed, it is {written(now)}: give a later one, or a duration such as 36h"
        raise Refused(Code.ROLLOUT_INVALID, text)
    if activate is None:
        return
    openings = [next_opening(activate, now, timezone(timedelta(hours=hours))) for hours in OFFSET_HOURS]
    if not any(one is not None and one < deadline for one in openings):
        text = (
            f"activate {windows_text(activate)!r} does not open before the deadline {written(deadline)} in any zone: give a later deadline"
        )
        raise Refused(Code.WINDOW_INVALID, text)


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
