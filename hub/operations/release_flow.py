"""Say how many nodes served which release over the last days, for the picture of a release's way through the fleet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hub.database.release_hours import HOUR, ReleaseHour
from schemas.names import version_key

DEAF_BELOW_SECONDS: Final = 1800.0  # An hour of which less than half was heard.


@dataclass(frozen=True, slots=True)
class ReleaseFlow:
    """Hold the nodes of each version at points of time, the oldest version first, and the times in which the hub heard nobody."""

    versions: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]  # A row a version, a column a point of time.
    deaf: tuple[tuple[int, int], ...]


def release_flow(hours: Sequence[ReleaseHour], present: dict[str, int], *, now: int, points: int, step_seconds: int) -> ReleaseFlow:
    """Return the flow at `points` times, `step_seconds` apart, the last of which is now and has the counts of `present`.

    At a time of which nothing is known, it is as it was last known; before the first hour that was kept, nobody served.
    """
    times = [now - (points - 1 - at) * step_seconds for at in range(points)]
    found: list[dict[str, int]] = []
    for at in times[:-1]:
        known = [one for one in hours if one.hour <= at]
        found.append(dict(known[-1].counts) if known else {})
    found.append(present)
    versions = sorted({version for one in found for version, nodes in one.items() if nodes}, key=version_key)
    counts = tuple(tuple(one.get(version, 0) for one in found) for version in versions)
    return ReleaseFlow(tuple(versions), counts, _deaf(hours, since=times[0], now=now))


def _deaf(hours: Sequence[ReleaseHour], *, since: int, now: int) -> tuple[tuple[int, int], ...]:
    """Return the times between the first hour that is known and this one in which the hub did not hear its nodes."""
    if not hours:
        return ()
    heard = {one.hour for one in hours if one.listened_seconds >= DEAF_BELOW_SECONDS}
    first, last = max(hours[0].hour + HOUR, since // HOUR * HOUR), now // HOUR * HOUR
    found: list[tuple[int, int]] = []
    for hour in range(first, last, HOUR):
        if hour in heard:
            continue
        if found and found[-1][1] == hour:
            found[-1] = (found[-1][0], hour + HOUR)
        else:
            found.append((hour, hour + HOUR))
    return tuple(found)
