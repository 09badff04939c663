"""Count a simulated fleet as the hub counts its nodes (hub/core/rollouts/tally.py), with numpy: a hub looks thousands of times.

A test holds both beside each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from hub.core.rollouts.fleet import QUIET_SECONDS, QUIET_SHARE
from hub.core.rollouts.tally import NodeReport, Tally, retries_of
from schemas.deployments import EVERYBODY, Deployment, is_past_deadline, position
from schemas.selectors import NodeFacts, matches
from simulation.core.schedule import Bools, Floats

NOT_FAILED = -1


@dataclass(slots=True)
class Known:
    """Hold what the hub knows of each node; arrays are by node, and change as the simulation goes on."""

    facts: Sequence[NodeFacts]
    off_seconds: Floats
    serving: Bools
    serves_nothing: Bools
    failed_at: NDArray[np.int64]
    tried: NDArray[np.int64]
    quiet_after: Floats

    def report(self, at: int, *, silent_seconds: int) -> NodeReport:
        """Return a node as the rollout's core sees it."""
        facts, off, serving = self.facts[at], float(self.off_seconds[at]), bool(self.serving[at])
        return NodeReport(
            node=facts.node,
            labels=facts.labels,
            arch=facts.arch,
            heard=off < silent_seconds,
            serving=serving,
            serves_nothing=bool(self.serves_nothing[at]),
            failed_at=int(self.failed_at[at]) if self.failed_at[at] != NOT_FAILED else None,
            tried=max(1, int(self.tried[at])),
            quiet=serving and off > self.quiet_after[at],
        )


class Reports(Sequence[NodeReport]):
    """Make the reports of nodes when they are looked at; most looks need their number alone."""

    def __init__(self, known: Known, *, silent_seconds: int) -> None:
        self._known, self._silent_seconds = known, silent_seconds

    def __len__(self) -> int:
        return len(self._known.facts)

    @overload
    def __getitem__(self, at: int) -> NodeReport: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[NodeReport]: ...
    def __getitem__(self, at: int | slice) -> NodeReport | Sequence[NodeReport]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return self._known.report(at, silent_seconds=self._silent_seconds)


def counted(deployment: Deployment, known: Known, reached: Bools, *, silent_seconds: int, judged_from: int, now: int) -> Tally:
    """Count the nodes of a deployment that was not rolled back, as `tally` does."""
    retries = retries_of(deployment)
    heard = known.off_seconds < silent_seconds
    failed = np.flatnonzero(known.failed_at != NOT_FAILED)  # few
    tried = np.maximum(1, known.tried[failed])
    counts = (known.failed_at[failed] >= judged_from) | ((retries > 0) & (tried > retries))
    counts &= ~known.serving[failed]
    failed, tried = failed[counts], tried[counts]
    mine, expired = reached, 0
    if is_past_deadline(deployment, now):
        late = heard & ~known.serving
        late[failed] = False
        mine, expired = reached & ~late, int(np.count_nonzero(late))
    there = mine & heard
    serving = there & known.serving
    left = np.maximum(0, retries + 1 - tried[there[failed]])
    addressed, listening = int(np.count_nonzero(mine)), int(np.count_nonzero(there))
    return Tally(
        addressed=addressed,
        heard=listening,
        serving=int(np.count_nonzero(serving)),
        failed=len(left),
        silent=addressed - listening,
        quiet=int(np.count_nonzero(serving & (known.off_seconds > known.quiet_after))) if serving.any() else 0,
        expired=expired,
        trying=int(np.count_nonzero(left)),
        tries_left=int(left.max(initial=0)),
    )


def quiet_after_seconds(report_seconds: float) -> float:
    """Return after how long a node is quiet whose reports are so far apart (hub/core/rollouts/fleet.py)."""
    return QUIET_SHARE * report_seconds + QUIET_SECONDS


def positions(rollout: bytes, facts: Sequence[NodeFacts]) -> NDArray[np.uint64]:
    """Return each node's place in the order of a rollout."""
    return np.fromiter((position(rollout, one.node) for one in facts), np.uint64, len(facts))


def reached_by(deployment: Deployment, facts: Sequence[NodeFacts], places: NDArray[np.uint64]) -> Bools:
    """Return which nodes a stage that has begun names, as `is_reached` does."""
    if deployment.state == "done" or deployment.threshold == EVERYBODY:
        return np.ones(len(facts), bool)
    found = places < np.uint64(deployment.threshold)
    for stage in deployment.reached:
        if stage.selector is not None:
            found |= np.fromiter((matches(stage.selector, one) for one in facts), bool, len(facts))
    return found
