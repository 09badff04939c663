"""Draw the evidence of a stream over time, in powers of ten, against the bar that it has to reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Final

from hub.web.pictures.axis import tick_step
from hub.web.pictures.svg import Picture, day, day_and_minute, number, picture, text

WIDTH: Final = 500
HEIGHT: Final = 262
LEAST: Final = 4
RIGHT_LABEL_PX: Final = 90


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold the evidence after one tested interval, and the bar at that time: both as powers of ten."""

    at: int
    evidence: float
    bar: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Hold a stream's evidence, the oldest first; since when the change is there, and when the alarm came."""

    name: str
    points: tuple[Interval, ...]
    began: int | None = None
    alarm: int | None = None


def evidence(given: Evidence) -> Picture | None:
    """Return the picture; None where nothing was tested."""
    points = given.points
    if not points:
        return None
    most = float(max(LEAST, ceil(max(max(one.evidence, one.bar) for one in points) + 0.2)))
    first, last = points[0].at, points[-1].at
    body = _grid(most)
    began = given.began
    if began is not None and began < last:
        x = _x(max(began, first), first, last)
        body += f'<path class="hit" d="M{number(x)} 0H{WIDTH}V{HEIGHT}H{number(x)}z"/>'
        anchor, place = ("end", x - 6) if x > WIDTH - 130 else ("", x + 6)
        body += text(place, 14, f"change began {day(began)}", anchor=anchor)
        if 60 < x < WIDTH - 60:
            body += text(x, HEIGHT + 20, day(began), anchor="middle")
    body += _bar(points, first, last, most)
    way = "L".join(f"{number(_x(one.at, first, last))} {number(_y(one.evidence, most))}" for one in points)
    body += f'<path class="ev" d="M{way}{"h.1" if len(points) == 1 else ""}"/>' + _alarm(given, first, last, most)
    now = points[-1]
    body += text(WIDTH + 6, _y(now.evidence, most) + 4, f"{now.evidence:.1f}", css="kb" if now.evidence >= now.bar else "k")
    body += text(0, HEIGHT + 20, day(first)) + text(WIDTH, HEIGHT + 20, day(last), anchor="end")
    label = f"Evidence of {given.name} over time, bar at {now.bar:.1f}"
    svg = picture(WIDTH, HEIGHT, body, label=label, css="wide plot", box=f"-30 -10 {WIDTH + 74} {HEIGHT + 42}")
    rows = [[day_and_minute(one.at), f"{one.evidence:.2f}", f"{one.bar:.2f}"] for one in points]
    return Picture(svg, ("at", "evidence", "bar"), rows)


def _grid(most: float) -> str:
    found, step, at = "", max(1.0, tick_step(most, 6)), 0.0
    while at <= most:
        y = _y(at, most)
        found += f'<path class="ax" d="M0 {number(y)}H{WIDTH}"/>' + text(-8, y + 4, f"{at:g}", anchor="end")
        at += step
    return found


def _bar(points: Sequence[Interval], first: int, last: int, most: float) -> str:
    """Return the bar: a line, with steps where the number of streams that are judged together lowers or raises it."""
    way = f"M0 {number(_y(points[0].bar, most))}"
    for before, one in pairwise(points):
        if abs(one.bar - before.bar) > 0.005:
            way += f"H{number(_x(one.at, first, last))}V{number(_y(one.bar, most))}"
    y = _y(points[0].bar, most)
    return f'<path class="lim" fill="none" d="{way}H{WIDTH}"/>' + text(2, y - 6, f"bar: {_odds(points[0].bar)}")


def _odds(bar: float) -> str:
    known = {1.0: "ten to one", 2.0: "a hundred to one", 3.0: "a thousand to one", 4.0: "ten thousand to one", 6.0: "a million to one"}
    return known.get(round(bar, 2), f"{round(10**bar):,} to one" if bar < 9 else f"10^{bar:.1f} to one")


def _alarm(given: Evidence, first: int, last: int, most: float) -> str:
    alarm = given.alarm
    if alarm is None or not first <= alarm <= last:
        return ""
    at = min(given.points, key=lambda one: abs(one.at - alarm))
    x, y = _x(at.at, first, last), _y(at.evidence, most)
    anchor, place = ("end", x - 8) if x > WIDTH / 2 else ("", x + 8)
    dot = f'<circle class="a-bad" cx="{number(x)}" cy="{number(y)}" r="4"/>'
    above = min(y, _y(at.bar, most)) - 7
    return dot + text(place, max(8.0, above), f"alarm, {day_and_minute(alarm)}", css="kb", anchor=anchor)


def _x(at: int, first: int, last: int) -> float:
    return WIDTH * (at - first) / max(1, last - first)


def _y(power: float, most: float) -> float:
    return HEIGHT * (1 - min(max(power, 0.0), most) / most)
