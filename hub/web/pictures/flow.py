"""Draw a release's way through the fleet: how many nodes serve which release, over fourteen days in steps of six hours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hub.web.pictures.svg import Picture, count, day, day_and_minute, number, picture, text

DAYS: Final = 14
POINTS: Final = 56
STEP_SECONDS: Final = DAYS * 86_400 // POINTS
RELEASES_MAX: Final = 6  # Layers that can be told apart and labelled; the oldest of more are one.
WIDTH: Final = 300
HEIGHT: Final = 118
TOP: Final = 6
LABELS_PX: Final = 66
LABEL_PITCH: Final = 13
EARLIER: Final = "earlier"


@dataclass(frozen=True, slots=True)
class Release:
    """Hold how many nodes serve a release at each point of time."""

    version: str
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """Hold the releases of a model, the oldest first, at points of time that are `step_seconds` apart up to now.

    `coming` moves through the fleet, `present` is the one that it leaves behind. `deaf` are times in which the hub heard nobody.
    """

    model: str
    now: int
    releases: tuple[Release, ...]
    coming: str = ""
    present: str = ""
    deaf: tuple[tuple[int, int], ...] = ()
    step_seconds: int = STEP_SECONDS


def flow(given: Flow) -> Picture:
    """Return the picture: stacked steps, labelled at the right edge."""
    releases = _merged(given.releases)
    points = max((len(one.counts) for one in releases), default=0)
    most = max((sum(one.counts[at] for one in releases) for at in range(points)), default=0) or 1
    began = given.now - (points - 1) * given.step_seconds if points else given.now
    body, below = "", [0] * points
    labels: list[tuple[float, str, str]] = []
    for one, css in _coloured(releases[::-1], given):
        above = [low + nodes for low, nodes in zip(below, one.counts, strict=True)]
        if any(one.counts):
            body += f'<path class="{css}" d="{_layer(below, above, most)}"/>'
        if points and one.counts[-1]:
            labels.append((_y((below[-1] + above[-1]) / 2, most) + 4, one.version, count(one.counts[-1])))
        below = above
    body += "".join(_hatch(start, end, began, given.now) for start, end in given.deaf if end > began and start < given.now)
    for y, version, nodes in _apart(labels):
        body += text(WIDTH + 6, y, version, css="k") + text(WIDTH + LABELS_PX, y, nodes, anchor="end")
    named = day if given.now - began > 2 * 86_400 else day_and_minute
    body += text(0, HEIGHT + 18, named(began)) + text(WIDTH / 2, HEIGHT + 18, named((began + given.now) // 2), anchor="middle")
    body += text(WIDTH, HEIGHT + 18, "now", anchor="end")
    label = f"Nodes by release of {given.model}, since {day_and_minute(began)}"
    svg = picture(WIDTH + LABELS_PX, 150, f'<g transform="translate(0 {TOP})">{body}</g>', label=label, css="wide")
    return Picture(svg, ("at", *(one.version for one in releases)), _rows(releases, points, began, given.step_seconds))


def _rows(releases: Sequence[Release], points: int, began: int, step: int) -> list[list[str]]:
    """Return the figures where they change, and those of now."""
    found: list[list[str]] = []
    for at in range(points):
        counts = [count(one.counts[at]) for one in releases]
        if not found or found[-1][1:] != counts or at == points - 1:
            found.append([day_and_minute(began + at * step), *counts])
    return found


def _merged(releases: Sequence[Release]) -> tuple[Release, ...]:
    if len(releases) <= RELEASES_MAX:
        return tuple(releases)
    old, new = releases[: 1 - RELEASES_MAX], releases[1 - RELEASES_MAX :]
    return Release(EARLIER, tuple(sum(column) for column in zip(*(one.counts for one in old), strict=True))), *new


def _coloured(releases: Sequence[Release], given: Flow) -> list[tuple[Release, str]]:
    """Return the releases, the newest first, with the fill of each: the one that comes, the one that is, and older ones by turns."""
    older, found = 0, list[tuple[Release, str]]()
    for one in releases:
        if one.version == given.coming:
            found.append((one, "a-new"))
        elif one.version == given.present:
            found.append((one, "a-cur"))
        else:
            found.append((one, ("a-old", "a-old2")[older % 2]))
            older += 1
    return found


def _y(nodes: float, most: int) -> float:
    return HEIGHT * (1 - nodes / most)


def _layer(below: Sequence[int], above: Sequence[int], most: int) -> str:
    """Return an area between two stepped lines: to the right above, and back below."""
    width = WIDTH / max(1, len(above) - 1)
    way = f"M0 {number(_y(above[0], most))}"
    for at in range(1, len(above)):
        if above[at] != above[at - 1]:
            way += f"H{number(at * width)}V{number(_y(above[at], most))}"
    way += f"H{WIDTH}V{number(_y(below[-1], most))}"
    for at in range(len(below) - 1, 0, -1):
        if below[at] != below[at - 1]:
            way += f"H{number(at * width)}V{number(_y(below[at - 1], most))}"
    return way + "H0z"


def _hatch(start: int, end: int, began: int, now: int) -> str:
    left, right = (WIDTH * (min(max(at, began), now) - began) / max(1, now - began) for at in (start, end))
    return f'<rect fill="url(#h)" x="{number(left)}" width="{number(max(1.0, right - left))}" height="{HEIGHT}"/>'


def _apart(labels: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Return the labels so far apart that each can be read, the lowest first."""
    found: list[tuple[float, str, str]] = []
    limit = float(HEIGHT)
    for middle, version, nodes in sorted(labels, reverse=True):
        y = min(middle, limit)
        found.append((y, version, nodes))
        limit = y - LABEL_PITCH
    lift = max(0.0, 8 - found[-1][0]) if found else 0.0
    return [(min(y + lift, HEIGHT + 4), version, nodes) for y, version, nodes in found]
