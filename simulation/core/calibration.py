"""Learn from the real cores how fast nodes of each group fetch: how much slower than their links, and with how many bytes too many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from simulation.core.fetching import CoreFetching
from simulation.core.plan import Plan
from simulation.core.schedule import Floats

SLOWNESS_NEVER: Final = np.inf
NEIGHBOURS: Final = 3  # Nodes of the sample on either side of a rate, of which one lends its pace.


@dataclass(frozen=True, slots=True)
class Pace:
    """Hold what nodes of one group have shown: link seconds over those that the bare rate would take, and bytes over those needed."""

    rates: Floats  # Rates of the nodes that have shown it, rising.
    slowness: Floats
    waste: Floats

    @classmethod
    def bare(cls) -> "Pace":
        """Return the pace of nodes that fetch as fast as their links carry."""
        return cls(np.ones(1), np.ones(1), np.ones(1))

    def drawn(self, rates: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return slowness and waste for nodes of these rates: each from a node of the sample whose rate is about the same."""
        low = np.maximum(0, np.searchsorted(self.rates, rates, "left") - NEIGHBOURS)
        high = np.minimum(len(self.rates), np.searchsorted(self.rates, rates, "right") + NEIGHBOURS)
        at = low + (rng.random(len(rates)) * (high - low)).astype(np.int64)
        return self.slowness[at], self.waste[at]


def paces_of(plan: Plan, cores: CoreFetching, rates: Floats) -> Sequence[Pace]:
    """Return the pace of each group, as its nodes in the cores have shown it; `rates` are those of the cores' nodes."""
    needed, carried, busy = cores.needed_bytes(), cores.carried_bytes(), cores.busy_seconds()
    found = []
    for number, _ in enumerate(plan.groups):
        at = np.flatnonzero((cores.groups == number) & (busy > 0))
        at = at[np.argsort(rates[at], kind="stable")]
        if not len(at):
            found.append(Pace.bare())
            continue
        has_moved = needed[at] > 0
        ones = np.ones(len(at))
        slowness = np.divide(busy[at] * rates[at], needed[at], out=ones * SLOWNESS_NEVER, where=has_moved)
        waste = np.maximum(1.0, np.divide(carried[at], needed[at], out=ones.copy(), where=has_moved))
        found.append(Pace(rates[at], slowness, waste))
    return found
