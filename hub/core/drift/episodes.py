"""Decides when an alarm is reported: once when drift is found, and once when it is over; between the two it lasts. Knows no test.

A drift that stays is found again and again, since evidence begins anew after each alarm. It is over when it has not been found for twice
the time that finding it took: a small shift that needs ten intervals to be seen is not over after three quiet ones.
"""

from typing import Annotated, Literal

from pydantic import Field

from schemas.document import Fact

QUIET_INTERVALS_MIN = 3
QUIET_FACTOR = 2

Event = Literal["raised", "lasting", "over"]


class Episode(Fact):
    """Hold one drift of one stream, from its first alarm on."""

    since: Annotated[int, Field(ge=0)]  # when the change began, as far as was known when it was found
    raised: Annotated[int, Field(ge=0)]  # start of the interval that was the first alarm
    last: Annotated[int, Field(ge=0)]  # start of the newest one
    quiet_seconds: Annotated[int, Field(ge=1)]  # after this time without another it is over


def follow(episode: Episode | None, *, start: int, seconds: int, since: int | None) -> tuple[Episode | None, Event | None]:
    """Follow the episode through one more interval; `since` says when the change began where it is an alarm, None where it is none."""
    if since is not None:
        took = max(1, (start - since) // seconds + 1)
        quiet = seconds * max(QUIET_INTERVALS_MIN, QUIET_FACTOR * took)
        if episode is None:
            return Episode(since=since, raised=start, last=start, quiet_seconds=quiet), "raised"
        last = max(episode.last, start)
        return episode.model_copy(update={"last": last, "quiet_seconds": max(quiet, episode.quiet_seconds)}), "lasting"
    if episode is None:
        return None, None
    if start - episode.last > episode.quiet_seconds:
        return None, "over"
    return episode, "lasting"
