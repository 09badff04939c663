"""Programs that ask the nodes of a simulated fleet, so that there is something to count; and what must hold of what was counted."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
from sqlalchemy import func, select

from hub.core.publish.baseline import SignalSpec, build_baseline
from hub.core.publish.noise import sigma2_for
from hub.database import tables
from node.agent.telemetry import windows
from schemas import codec
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.signals import Privacy
from tests.simulation.whole_fleet import template
from tests.simulation.whole_fleet.machines import RHO_DAY_MAX, NodeMachine

if TYPE_CHECKING:
    from tests.simulation.whole_fleet.fleet import Fleet

ASK_SECONDS, SLOW_SECONDS = 45.0, 1800.0
WINDOW_SECONDS, EPSILON, DELTA = 300, 1.0, 1e-6  # so that a day's budget is spent within hours


@cache
def watched() -> Mapping[tuple[str, str], bytes]:
    """Return the releases with one signal of the input: what nodes are asked with is drawn as its reference is."""
    made, rows = template.template(), np.random.default_rng(0).normal(size=3000)
    baseline = build_baseline([(SignalSpec("x", "numeric", "input", "x"), rows)], np.repeat(np.arange(30), 100))
    numerator, denominator = sigma2_for(EPSILON, DELTA, 1)
    noise = {"sigma2_numerator": numerator, "sigma2_denominator": denominator}
    privacy = Privacy(epsilon=EPSILON, delta=DELTA, window_seconds=WINDOW_SECONDS, **noise)
    found = {
        one: codec.encode(codec.decode(Manifest, document).model_copy(update={"baseline": baseline, "privacy": privacy}))
        for one, document in made.manifests.items()
    }
    made.names.update({sha256(document): version for (_, version), document in found.items()})
    return found


class Traffic:
    """Asks every node for every model, seldom while a long time passes."""

    def __init__(self, fleet: "Fleet") -> None:
        self._fleet, self._rng = fleet, fleet.world.random("traffic")
        self._goes_on, self.is_slow = False, False

    def patched(self) -> contextlib.AbstractContextManager[object]:
        """Draw the nodes' noise and names of windows by the seed."""
        return mock.patch.object(windows, "os", SimpleNamespace(urandom=self._fleet.world.random("noise").randbytes))

    def begin(self) -> None:
        self._goes_on = True
        self._fleet.world.after(ASK_SECONDS, self._ask)

    def end(self) -> None:
        self._goes_on = False

    def _ask(self) -> None:
        if not self._goes_on:
            return
        for machine in (*self._fleet.machines, *self._fleet.extra):
            for model in self._fleet.models() if machine.on else ():
                machine.ask(model, self._rng.gauss(0, 1))
        self._fleet.world.after(SLOW_SECONDS if self.is_slow else ASK_SECONDS, self._ask)


def broken(fleet: "Fleet") -> Iterator[str]:
    """Windows and ledgers add up: each window is counted once, none is lost where nobody forgot, and no day is overspent."""
    if not fleet.plan.telemetry or fleet.hub.service is None:
        return
    yield from _counted(fleet)
    for machine in fleet.machines:
        if machine.agent is not None:
            yield from _ledger(machine)


def _counted(fleet: "Fleet") -> Iterator[str]:
    assert fleet.hub.service is not None
    with fleet.hub.service._store.database.read() as db:
        seen = set(db.execute(select(tables.windows_seen.c.id)).scalars())
        counted = int(db.execute(select(func.sum(tables.intervals.c.windows))).scalar() or 0)
    everybody = (*fleet.machines, *fleet.extra)
    made = set[bytes]().union(*(machine.made_windows for machine in everybody))
    acknowledged = set[bytes]().union(*(machine.acknowledged for machine in everybody))
    if counted != len(seen):
        yield f"the hub's intervals count {counted} windows, and {len(seen)} came"
    if strangers := seen - made:
        yield f"the hub has counted {len(strangers)} windows that no node has made"
    # The hub refuses windows of a clock that is wrong, and reports several as one.
    is_refusing = any(row.code.startswith("window.") for row in fleet.hub.service._store.refusals())
    lost = acknowledged - seen
    if lost and not is_refusing and not fleet.disturbed & {"broker forgot", "hub restored"}:
        yield f"{len(lost)} of {len(acknowledged)} windows that the broker acknowledged never came to the hub, and it has refused none"


def _ledger(machine: NodeMachine) -> Iterator[str]:
    assert machine.agent is not None
    store = machine.agent._store
    before, entries = store.ledger()
    charged: dict[int, float] = defaultdict(float)
    for entry in entries:
        for day in entry.days:
            charged[day] += entry.rho
    for day, spent in store.spent_days().items():
        if spent > RHO_DAY_MAX + 1e-9:
            yield f"{machine.name} has spent {spent:.3f} of day {day}, and {RHO_DAY_MAX} is allowed"
        if before.number == 0 and not math.isclose(spent, charged[day], abs_tol=1e-9):
            yield f"{machine.name} has spent {spent:.3f} of day {day}, and its ledger has {charged[day]:.3f}"
    if waiting := store.count_waiting("window"):
        yield f"{machine.name} still has {waiting} windows that it has not sent"
