"""Compute what holds for all nodes at a moment: which are on, since when others are off, which windows are open, which day it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

import numpy as np
from numpy.typing import NDArray

from simulation.core.plan import Group, Plan
from simulation.core.schedule import Bools, Floats, Presence, minute_of_week, week_of, week_of_hours

HOUR = 3600


@dataclass(frozen=True, slots=True)
class Moment:
    """Hold what holds from `seconds` on until the next step; arrays are by node (`off_seconds`) or by group."""

    seconds: float
    off_seconds: Floats
    fetch_open: Bools
    hours_open: Bools
    activate_open: Bools
    day: NDArray[np.int64]


class Environment:
    """Compute the moments of a plan; `shifts` are each node's shift of its schedule, by group."""

    def __init__(self, plan: Plan, shifts: Sequence[Floats]) -> None:
        self._start = plan.start
        self._groups = plan.groups
        self._zones = list(dict.fromkeys(group.zone for group in plan.groups))
        self._zone_of = [self._zones.index(group.zone) for group in plan.groups]
        self._offsets: tuple[int, list[float]] = (-1, [])
        self._presences = [Presence(group.schedule, own) for group, own in zip(plan.groups, shifts, strict=True)]
        self._slices = slices(plan.groups)
        carriage, activate = plan.rollout.carriage, plan.rollout.activate
        self._fetch = week_of(carriage.fetch if carriage is not None and carriage.fetch is not None else ())
        self._activate = week_of(activate or ())
        self._hours = [week_of_hours(group.policy.hours) for group in plan.groups]
        self._off = np.zeros(plan.nodes)

    def at(self, seconds: float) -> Moment:
        """Return the moment that many seconds after the start. The array of a former moment is written over."""
        wall = self._start + seconds
        offsets = self._offsets_at(wall)
        local = [wall + offsets[at] for at in self._zone_of]
        minutes = [minute_of_week(one) for one in local]
        for where, presence, one in zip(self._slices, self._presences, local, strict=True):
            self._off[where] = presence.off_seconds(one)
        return Moment(
            seconds=seconds,
            off_seconds=self._off,
            fetch_open=self._fetch[minutes],
            hours_open=np.array([week[minute] for week, minute in zip(self._hours, minutes, strict=True)]),
            activate_open=self._activate[minutes],
            day=np.array([int(one // 86_400) for one in local]),
        )

    def open_shares(self) -> list[float]:
        """Return for each group the share of a week in which a node of it, without a shift, may fetch."""
        return [self._open_share(group, self._fetch & hours) for group, hours in zip(self._groups, self._hours, strict=True)]

    def activate_shares(self) -> list[float]:
        """Return for each group the share of a week in which a node of it, without a shift, may switch."""
        return [self._open_share(group, self._activate) for group in self._groups]

    def _open_share(self, group: Group, open_: Bools) -> float:
        schedule = group.schedule
        if schedule.period_seconds:
            return float(open_.mean()) * schedule.on_seconds / schedule.period_seconds
        if group.shift_seconds_max:
            return float(week_of(schedule.windows).mean()) * float(open_.mean())
        return float((week_of(schedule.windows) & open_).mean())

    def _offsets_at(self, wall: float) -> list[float]:
        hour = int(wall // HOUR)
        if self._offsets[0] != hour:
            self._offsets = hour, [offset_seconds(zone, wall) for zone in self._zones]
        return self._offsets[1]


def offset_seconds(zone: tzinfo, wall: float) -> float:
    """Return by how much local time is ahead of UTC at a moment."""
    offset = datetime.fromtimestamp(wall, UTC).astimezone(zone).utcoffset()
    return offset.total_seconds() if offset is not None else 0.0


def slices(groups: Sequence[Group]) -> list[slice]:
    """Return where the nodes of each group stand among all nodes."""
    ends = np.cumsum([group.nodes for group in groups]).tolist()
    return [slice(end - group.nodes, end) for group, end in zip(groups, ends, strict=True)]
