"""Says whether drift of a release can be judged, and was: what a gate answers when there is no alarm. Knows no store and no clock.

Nothing is tested of fewer nodes than the cohort's minimum, and nothing before an interval is over. No alarm is then not the same as no
drift, and an operator that moves a fleet by it has to know which of them it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from fleetcast.counted import counted as number_of

UNKNOWN = "of unknown name"  # a node that has not reported its own


@dataclass(frozen=True, slots=True)
class Judged:
    """Hold the number of intervals tested since the stage began, and its meaning in words."""

    tests: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """Hold the numbers of nodes in the newest interval of a release in a cohort, which begins at `start`.

    Differences from own baselines and counts are tested apart: a cohort of both may be large and have too few of either.
    """

    start: int
    calibrated: int = 0  # windows of nodes with baselines of their own
    others: int = 0

    @property
    def nodes(self) -> int:
        """Return how many there are of both kinds."""
        return self.calibrated + self.others

    def too_few(self, nodes_min: int) -> bool:
        """Return whether neither kind is tested."""
        return max(self.calibrated, self.others) < nodes_min

    def in_words(self, nodes_min: int) -> str:
        """Write what there is beside what is needed."""
        text = number_of(self.nodes, "node")
        if self.calibrated and self.others:
            return f"{self.calibrated} with baselines, {self.others} without, {nodes_min} of a kind needed"
        return f"{text}{' with baselines' if self.calibrated else ''}, {nodes_min} needed"


def judged(
    version: str,
    *,
    watched: bool,
    nodes: Mapping[str | None, int],
    tests: Mapping[str, int],
    nodes_min: int,
    gathering: int = 0,
    newest: Mapping[str, Heard] | None = None,
) -> Judged:
    """Return what is known of drift in a stage without an alarm: `nodes` heard from and `tests` of the release's intervals, by cohort.

    `gathering` are intervals of nodes that gather their own baselines: shown, and not judged. `newest` are the release's intervals of the
    stage, by cohort.
    """
    if not watched:
        return Judged(0, f"drift cannot be judged: {version} watches no signals")
    done = sum(count for cohort, count in tests.items() if cohort in nodes or None in nodes)
    small = {cohort: count for cohort, count in nodes.items() if count < nodes_min and not tests.get(cohort or "")}
    if nodes and len(small) == len(nodes) and not done:
        return Judged(0, f"drift cannot be judged: {_few(small, nodes_min)}")
    apart = {
        cohort: heard
        for cohort, heard in (newest or {}).items()
        if heard.too_few(nodes_min) and not tests.get(cohort) and cohort not in small and (cohort in nodes or None in nodes)
    }
    if not done and apart:
        return Judged(0, f"drift cannot be judged: {_apart(apart, nodes_min)}")
    if not done and gathering:
        return Judged(0, f"drift is not judged yet: the nodes gather baselines of their own for {version}")
    if not done:
        return Judged(0, f"drift is not judged yet: no interval of {version} was tested in this stage")
    text = f"no drift in {number_of(done, 'tested interval')}"
    but = _few(small, nodes_min) if small else _apart(apart, nodes_min) if apart else ""
    return Judged(done, f"{text}, but {but}" if but else text)


def stage_percent_min(nodes: Mapping[str | None, int], nodes_min: int) -> int | None:
    """Return the smallest stage at which the largest cohort has enough nodes to be judged, on average, in percent; None where none has."""
    most = max(nodes.values(), default=0)
    return max(1, ceil(100 * nodes_min / most)) if most >= nodes_min else None


def _few(small: Mapping[str | None, int], nodes_min: int) -> str:
    cohort = max(small, key=lambda one: small[one])
    count = small[cohort]
    more = f", and {len(small) - 1} more cohort{'' if len(small) == 2 else 's'} of too few" if len(small) > 1 else ""
    return f"{number_of(count, 'node')} in cohort {cohort or UNKNOWN}, {nodes_min} needed{more}"


def _apart(newest: Mapping[str, Heard], nodes_min: int) -> str:
    cohort = max(newest, key=lambda one: newest[one].nodes)
    more = f", and {len(newest) - 1} more cohort{'' if len(newest) == 2 else 's'} of too few" if len(newest) > 1 else ""
    return f"the newest interval of cohort {cohort} has {newest[cohort].in_words(nodes_min)}{more}"
