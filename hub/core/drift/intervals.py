"""Adds up the windows of one release and cohort over the same interval. The only place where windows are added; knows no database.

Each window also falls into a random sub-group (hub/core/drift/subgroups.py), and totals are kept for each sub-group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hub.core.drift.subgroups import GROUPS, Subgroups, classes_of
from hub.core.drift.windows import Counts, Interval

GROUP_HEAD = 2  # a group's windows and rows come before its counts


class Weighed(Protocol):
    """Hold a window that is believed, as far as adding it up needs it."""

    @property
    def rows(self) -> int:
        """Return the rows that it weighs."""

    @property
    def reference_rows(self) -> float:
        """Return what the sampling of its own baseline adds to its variance."""

    @property
    def noise_units(self) -> float:
        """Return how often the variance of one window's noise is in it."""

    @property
    def counts(self) -> Sequence[int] | Counts:
        """Return its counts [bins of all signals]."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Hold windows of one interval, added up; calibrated windows and others never share one.

    `groups` [groups, windows and rows and bins] holds the same by sub-group, and behind those by class of rows, a row for each class that
    there is; it is empty where a first hub kept none, and without classes where an earlier one took the windows in. `late` of the windows
    came after the interval was first tested.
    """

    windows: int
    rows: int
    reference_rows: float
    noise_units: float
    counts: Counts
    groups: Counts
    late: int = 0


def add_up(members: Sequence[Weighed], places: Sequence[int]) -> Sums:
    """Add up new windows of one interval; `places` are the random numbers that choose their sub-groups.

    Raises:
        ValueError: their counts are of different lengths.
    """
    groups = _by_group(members, places)
    return Sums(
        windows=len(members),
        rows=sum(one.rows for one in members),
        reference_rows=sum(one.reference_rows for one in members),
        noise_units=sum(one.noise_units for one in members),
        counts=groups[:GROUPS, GROUP_HEAD:].sum(axis=0),
        groups=groups,
    )


def merge(before: Sums, more: Sums, *, tested: bool) -> Sums:
    """Add new windows to those that an interval has; they are late where it was `tested` already.

    Raises:
        ValueError: their counts are of different lengths.
    """
    if before.counts.shape != more.counts.shape:
        raise ValueError(f"counts must have the same shape: an interval has {before.counts.size} bins, its new windows {more.counts.size}")
    return Sums(
        windows=more.windows + before.windows,
        rows=more.rows + before.rows,
        reference_rows=more.reference_rows + before.reference_rows,
        noise_units=more.noise_units + before.noise_units,
        counts=more.counts + before.counts,
        groups=_merged_groups(before, more),
        late=before.late + (more.windows if tested else 0),
    )


def interval(sums: Sums, *, release: bytes, model: str, cohort: str, start: int, seconds: int, calibrated: bool) -> Interval:
    """Return the sums with the interval that they are of."""
    return Interval(
        release,
        model,
        cohort,
        start,
        seconds,
        sums.windows,
        tuple(sums.counts.tolist()),
        sums.rows,
        calibrated,
        sums.reference_rows,
        sums.noise_units,
        sums.late,
    )


def subgroups(sums: Sums) -> Subgroups:
    """Return windows, rows and counts by sub-group; one group where a first hub kept none."""
    if not sums.groups.size:
        return Subgroups((sums.windows,), (sums.rows,), sums.counts[np.newaxis])
    table = sums.groups.reshape(-1, GROUP_HEAD + sums.counts.size)
    classes = _subgroups(table[GROUPS:])
    return _subgroups(table[:GROUPS], classes if sum(classes.windows) == sums.windows else None)


def _subgroups(table: Counts, by_rows: Subgroups | None = None) -> Subgroups:
    return Subgroups(tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist()), table[:, GROUP_HEAD:], by_rows)


def _merged_groups(before: Sums, more: Sums) -> Counts:
    if not before.groups.size:
        return more.groups[:GROUPS]  # A first hub's windows are in no class, and so are these in none that would be all.
    width = GROUP_HEAD + before.counts.size
    old, new = before.groups.reshape(-1, width), more.groups.reshape(-1, width)
    classes = np.concatenate([old[GROUPS:], new[GROUPS:]])
    return np.concatenate([old[:GROUPS] + new[:GROUPS], _added(classes, classes_of(classes[:, 1] / np.maximum(1, classes[:, 0])))])


def _added(table: Counts, chosen: Counts) -> Counts:
    """Add up rows of a table that are of one class."""
    if not len(table):
        return table
    order = np.argsort(chosen, kind="stable")
    found: Counts = np.add.reduceat(table[order], np.flatnonzero(np.diff(chosen[order], prepend=-1)), axis=0)
    return found


def _by_group(members: Sequence[Weighed], places: Sequence[int]) -> Counts:
    counts = np.stack([np.asarray(one.counts, np.int64) for one in members])
    chosen = np.array([place % GROUPS for place in places])
    order = np.argsort(chosen, kind="stable")
    firsts = np.flatnonzero(np.diff(chosen[order], prepend=-1))
    heard = chosen[order[firsts]]
    found = np.zeros((GROUPS, GROUP_HEAD + counts.shape[1]), np.int64)
    found[heard, 0] = np.bincount(chosen, minlength=GROUPS)[heard]
    found[heard, 1] = np.add.reduceat(np.array([one.rows for one in members], np.int64)[order], firsts)
    found[heard, GROUP_HEAD:] = np.add.reduceat(counts[order], firsts, axis=0)
    rows = np.array([one.rows for one in members], np.int64)
    table = np.column_stack([np.ones(len(rows), np.int64), rows, counts])
    return np.concatenate([found, _added(table, classes_of(rows.astype(np.float64)))])
