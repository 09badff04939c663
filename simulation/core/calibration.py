"""Learn from the real cores how fast nodes of each group fetch: how much slower than their links, and how many bytes for each one needed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.core.environment import Environment
from simulation.core.fetching import CoreFetching, Rows, Waits
from simulation.core.plan import Plan
from simulation.core.schedule import Floats

EVENTS_MAX = 6_000_000  # Of transfers that go on for months the first weeks show how fast they are.
SLOWNESS_NEVER = np.inf
NEIGHBOURS = 3  # Nodes of the sample on either side of a rate, of which one lends its pace.
BEGIN_SECONDS = 86_400.0  # The sample begins at times of one day, for schedules make a difference.


@dataclass(frozen=True, slots=True)
class Pace:
    """Hold what nodes of one group have shown: link seconds over those that the bare rate would take, and bytes over those needed."""

    rates: Floats  # Rates of the nodes that have shown it, rising.
    slowness: Floats
    waste: Floats

    def drawn(self, rates: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return slowness and waste for nodes of these rates: each from a node of the sample whose rate is about the same."""
        low = np.maximum(0, np.searchsorted(self.rates, rates, "left") - NEIGHBOURS)
        high = np.minimum(len(self.rates), np.searchsorted(self.rates, rates, "right") + NEIGHBOURS)
        at = low + (rng.random(len(rates)) * (high - low)).astype(np.int64)
        return self.slowness[at], self.waste[at]


def step_seconds(elapsed: float) -> float:
    """Return how long a step is: what takes minutes is looked at by the second, what takes days by the minute."""
    for until, seconds in ((3600.0, 5.0), (6 * 3600.0, 15.0), (2 * 86_400.0, 60.0)):
        if elapsed < until:
            return seconds
    return 300.0


def calibrated(
    plan: Plan,
    environment: Environment,
    rows: Rows,
    groups: NDArray[np.int64],
    *,
    rates: Floats,
    seed: int,
    tell: Callable[[float], None] = lambda share: None,
) -> list[Pace]:
    """Let a sample fetch, each node from some time of the first day on; return the pace of each group."""
    cores = CoreFetching(plan, rows, groups, rates=rates, seed=seed)
    rng = np.random.default_rng([seed, 2])
    begins = rng.random(len(rows)) * BEGIN_SECONDS * (1 if any(not one.schedule.is_always for one in plan.groups) else 0)
    pending = np.array([plan.groups[group].fetch is not None for group in groups.tolist()], bool)
    total = max(1, int(pending.sum()))
    waits, seconds = Waits.of(int(rows.max(initial=-1)) + 1), 0.0
    begun = 0
    while seconds < plan.days_max * 86_400 and cores.fleet.events < EVENTS_MAX:
        moment, step = environment.at(seconds), step_seconds(seconds)
        ready = pending & (begins <= seconds) & (moment.off_seconds[rows] <= 0)
        if ready.any():
            cores.begin(rows[ready], seconds)
            pending &= ~ready
            begun += int(ready.sum())
        cores.advance(moment, step, waits)
        seconds += step
        done = int(np.isfinite(cores.fetched_at).sum())
        tell(done / total)
        if not pending.any() and done >= begun:
            break
    return _paces(plan, cores, groups, rates)


def _paces(plan: Plan, cores: CoreFetching, groups: NDArray[np.int64], rates: Floats) -> list[Pace]:
    needed, carried, busy = cores.needed_bytes(), cores.carried_bytes(), cores.busy_seconds()
    found = []
    for number, _ in enumerate(plan.groups):
        at = np.flatnonzero((groups == number) & (busy > 0))
        at = at[np.argsort(rates[at], kind="stable")]
        if not len(at):
            found.append(Pace(np.ones(1), np.ones(1), np.ones(1)))
            continue
        has_moved = needed[at] > 0
        ones = np.ones(len(at))
        slowness = np.divide(busy[at] * rates[at], needed[at], out=ones * SLOWNESS_NEVER, where=has_moved)
        waste = np.maximum(1.0, np.divide(carried[at], needed[at], out=ones.copy(), where=has_moved))
        found.append(Pace(rates[at], slowness, waste))
    return found
