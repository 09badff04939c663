"""Run a rollout over a simulated fleet: the hub's core decides for all nodes, the node's cores fetch for a sample, a model for the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

import numpy as np
from numpy.typing import NDArray

from hub.core.rollouts import rollout as core
from hub.core.rollouts.deployments import Model, begun
from hub.core.rollouts.gates import Facts
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.rollout import Progress
from schemas.deployments import is_past_deadline
from schemas.selectors import NodeFacts
from simulation.core.calibration import Pace, paces_of
from simulation.core.counting import NOT_FAILED, Known, Reports, counted, positions, quiet_after_seconds, reached_by
from simulation.core.environment import Environment, Moment, slices
from simulation.core.fetching import NO_ROWS, CoreFetching, ModelFetching, Rows, Waits
from simulation.core.hopeless import Hopeless, hopeless
from simulation.core.outcome import Step
from simulation.core.plan import MODEL, RELEASE, Plan
from simulation.core.schedule import Bools, Floats

SAMPLE = 1000
SAMPLE_BLOCKS_MAX = 150_000  # Blocks that the cores fetch; of a large release fewer nodes are sampled.
SAMPLE_GROUP_MIN = 20
EVENTS_MAX = 6_000_000  # Transfers that go on for months show in their first weeks how fast they are.
STUCK_SECONDS = 8 * 86_400.0  # A week in which nothing changed repeats.
WAITS, FETCHES, STAGED, SERVES, FAILED = range(5)
ALWAYS_FAILS = 1_000_000

Tell = Callable[[str, float], None]


def step_seconds(elapsed: float) -> float:
    """Return how long a step is: what takes minutes is looked at by the second, what takes days by the minute.

    No step divides the 600 s for which a broker keeps a block: nodes that begin at steps would all come just as it ends.
    """
    for until, seconds in ((1800.0, 9.0), (6 * 3600.0, 29.0), (86_400.0, 59.0)):
        if elapsed < until:
            return seconds
    return 293.0


@dataclass(slots=True)
class Nodes:
    """Hold what the nodes are and have come to; every array is by node."""

    groups: NDArray[np.int64]
    rates: Floats
    phase: NDArray[np.int8]
    reached_at: Floats
    fetched_at: Floats
    activating_until: Floats
    serving_at: Floats
    failures_left: NDArray[np.int64]
    attempt: NDArray[np.int64]

    @property
    def pending(self) -> Bools:
        """Return which nodes are on their way."""
        found: Bools = (self.phase == FETCHES) | (self.phase == STAGED)
        return found


@dataclass(frozen=True, slots=True)
class Finished:
    """Hold the state in which a simulation ended."""

    plan: Plan
    seed: int
    nodes: Nodes
    known: Known
    progress: Progress
    waits: Waits
    steps: tuple[Step, ...]
    ended_seconds: float | None
    seconds: float
    cores: CoreFetching
    model: ModelFetching
    ghost: ModelFetching
    hopeless: Hopeless


def run(
    plan: Plan, *, seed: int, sample: int = SAMPLE, paces: Sequence[Pace] | None = None, tell: Tell = lambda what, share: None
) -> Finished:
    """Simulate a rollout. `paces` are those of an earlier calibration; without them the sample is calibrated first.

    Raises:
        Refused: the terms of the rollout are wrong, as `fleetcast rollout start` would say.
    """
    if paces is None:
        paces = calibrated(plan, seed=seed, sample=sample, tell=tell)
    rng = np.random.default_rng([seed, 1])
    rows = _chosen(plan, rng, sample)
    return _Run(plan, seed, rows, paces, rng).to_the_end(lambda share: tell("simulating", share))


def calibrated(plan: Plan, *, seed: int, sample: int = SAMPLE, tell: Tell = lambda what, share: None) -> Sequence[Pace]:
    """Run the same rollout over the sample alone, all of it by the real cores; return the pace that each group shows there.

    What the rollout does not reach begins at its end: of that, too, it is learned how fast it is.
    """
    counts = _counts(plan, sample)
    kept = [at for at, count in enumerate(counts) if count]
    small = replace(plan, groups=tuple(replace(plan.groups[at], nodes=counts[at], fails=0.0) for at in kept))
    if not kept:
        return [Pace.bare()] * len(plan.groups)
    rng = np.random.default_rng([seed, 2])
    every = np.arange(small.nodes)[np.repeat([one.fetch is not None for one in small.groups], [one.nodes for one in small.groups])]
    started = _Run(small, seed, every, [Pace.bare()] * len(kept), rng)
    finished = started.to_the_end(lambda share: tell("calibrating on the real cores", share), every_node=True)
    found = dict(zip(kept, paces_of(small, finished.cores, finished.nodes.rates[every]), strict=True))
    return [found.get(at, Pace.bare()) for at in range(len(plan.groups))]


def _counts(plan: Plan, sample: int) -> list[int]:
    """Return how many nodes of each group are sampled: its share, but at least some; fewer of a large release."""
    blocks = sum(group.nodes * len(group.fetch.payloads) for group in plan.groups if group.fetch is not None)
    wanted = min(sample, max(1, int(SAMPLE_BLOCKS_MAX * plan.nodes / max(1, blocks)))) if sample else 0
    found = []
    for group in plan.groups:
        most = SAMPLE_BLOCKS_MAX // max(1, len(group.fetch.payloads)) if group.fetch is not None else wanted
        found.append(min(group.nodes, max(round(wanted * group.nodes / plan.nodes), min(SAMPLE_GROUP_MIN, wanted, max(1, most)))))
    return found


def _chosen(plan: Plan, rng: np.random.Generator, sample: int) -> Rows:
    """Return the nodes whose transfers the real cores run."""
    found = [
        where.start + rng.choice(group.nodes, count, replace=False)
        for where, group, count in zip(slices(plan.groups), plan.groups, _counts(plan, sample), strict=True)
        if group.fetch is not None
    ]
    return np.sort(np.concatenate(found)).astype(np.int64) if found else NO_ROWS


def _nodes_of(plan: Plan, rng: np.random.Generator) -> tuple[Nodes, list[Floats]]:
    n = plan.nodes
    groups = np.repeat(np.arange(len(plan.groups)), [group.nodes for group in plan.groups])
    rates, shifts, left = np.ones(n), list[Floats](), np.zeros(n, np.int64)
    for where, group in zip(slices(plan.groups), plan.groups, strict=True):
        link = group.link
        own = link.rate_bit_s * np.exp(link.spread * rng.standard_normal(group.nodes))
        most = link.bytes_per_second(float("inf"))
        rates[where] = np.minimum(own / 8, most)
        period = group.schedule.period_seconds
        phases = rng.random(group.nodes)
        shifts.append(phases * period if period else np.round((2 * phases - 1) * group.shift_seconds_max / 60) * 60)
        fails = rng.random(group.nodes) < group.fails
        tries = rng.geometric(group.mends, group.nodes) if group.mends else np.full(group.nodes, ALWAYS_FAILS)
        left[where] = fails * tries
    serves = np.array([group.fetch is None for group in plan.groups])[groups]
    nodes = Nodes(
        groups=groups,
        rates=rates,
        phase=np.where(serves, SERVES, WAITS).astype(np.int8),
        reached_at=np.where(serves, 0.0, np.inf),
        fetched_at=np.full(n, np.inf),
        activating_until=np.full(n, np.inf),
        serving_at=np.where(serves, 0.0, np.inf),
        failures_left=left,
        attempt=np.zeros(n, np.int64),
    )
    return nodes, shifts


class _Run:
    """Hold the fleet between two steps."""

    def __init__(self, plan: Plan, seed: int, rows: Rows, paces: Sequence[Pace], rng: np.random.Generator) -> None:
        n = plan.nodes
        nodes, shifts = _nodes_of(plan, rng)
        environment = Environment(plan, shifts)
        facts = [NodeFacts(f"{group.name}-{number}", group.labels) for group in plan.groups for number in range(group.nodes)]
        progress = begun(Model(MODEL), plan.rollout, RELEASE, nodes=facts, rollout=Random(seed).randbytes(16), now=plan.start)
        self._plan, self._seed, self._nodes, self._environment, self._progress = plan, seed, nodes, environment, progress
        self._is_sampled = np.zeros(n, bool)
        self._is_sampled[rows] = True
        slowness, waste = np.ones(n), np.ones(n)
        for where, pace in zip(slices(plan.groups), paces, strict=True):
            slowness[where], waste[where] = pace.drawn(nodes.rates[where], rng)
        rest = np.flatnonzero(~self._is_sampled)
        self._cores = CoreFetching(plan, rows, nodes.groups[rows], rates=nodes.rates[rows], seed=seed + 1)
        self._model, self._ghost = (
            ModelFetching(plan, one, nodes.groups[one], rates=nodes.rates[one], slowness=slowness[one], waste=waste[one])
            for one in (rest, rows)
        )
        self._hopeless = hopeless(plan, environment, nodes.groups, nodes.rates / slowness)
        self._waits, self._ghost_waits = Waits.of(n), Waits.of(n)
        nothing = np.array([group.serves_nothing for group in plan.groups])
        self._serves_nothing = nothing[nodes.groups]
        self._known = Known(
            facts=facts,
            off_seconds=environment.at(0.0).off_seconds,
            serving=nodes.phase == SERVES,
            serves_nothing=self._serves_nothing.copy(),
            failed_at=np.full(n, NOT_FAILED, np.int64),
            tried=np.zeros(n, np.int64),
            quiet_after=np.array([quiet_after_seconds(group.report_seconds) for group in plan.groups])[nodes.groups],
        )
        self._places = positions(progress.deployment.rollout, facts)
        self._reached = reached_by(progress.deployment, facts, self._places)
        self._steps = [Step(0.0, "has begun", progress.deployment.percent)]
        self._changed_at, self._tally, self._due_at = 0.0, progress.tally, 0.0
        self._ended: float | None = None

    def to_the_end(self, tell: Callable[[float], None], *, every_node: bool = False) -> Finished:
        """Step until nothing can change any more, or the time is up. `every_node`: those that are not reached by then begin."""
        seconds, horizon = 0.0, self._plan.days_max * 86_400
        moment = self._environment.at(seconds)
        idle = min(step_seconds(horizon), self._progress.gate.soak_seconds / 20)  # While only time passes nobody has to look so often.
        while seconds < horizon:
            length = step_seconds(seconds) if self._nodes.pending.any() else max(step_seconds(seconds), idle)
            self._step(moment, length)
            seconds += length
            moment = self._environment.at(seconds)
            self._look(seconds)
            if self._is_over(seconds) or self._cores.fleet.events > EVENTS_MAX:
                if not every_node or self._reached.all() or self._cores.fleet.events > EVENTS_MAX:
                    break
                self._reached = np.ones(self._plan.nodes, bool)
            tell(self._share())
        return Finished(
            plan=self._plan,
            seed=self._seed,
            nodes=self._nodes,
            known=self._known,
            progress=self._progress,
            waits=self._waits,
            steps=tuple(self._steps),
            ended_seconds=self._ended,
            seconds=seconds,
            cores=self._cores,
            model=self._model,
            ghost=self._ghost,
            hopeless=self._hopeless,
        )

    def _share(self) -> float:
        return float(np.count_nonzero(self._nodes.phase == SERVES)) / self._plan.nodes

    def _step(self, moment: Moment, length: float) -> None:
        nodes, on = self._nodes, moment.off_seconds <= 0
        fresh = np.flatnonzero((nodes.phase == WAITS) & self._reached)
        nodes.reached_at[fresh] = np.minimum(nodes.reached_at[fresh], moment.seconds)
        here = fresh[on[fresh]]
        self._waits.add("schedule", fresh[~on[fresh]], length)
        if len(here):
            nodes.phase[here] = FETCHES
            self._model.begin(here[~self._is_sampled[here]], moment.seconds)
            self._cores.begin(here[self._is_sampled[here]], moment.seconds)
            self._ghost.begin(here[self._is_sampled[here]], moment.seconds)
        self._ghost.advance(moment, length, self._ghost_waits)
        for fetching in (self._model, self._cores):
            done, at = fetching.advance(moment, length, self._waits)
            nodes.phase[done] = STAGED
            nodes.fetched_at[done] = at
        self._activate(moment, length, on)
        retrying = np.flatnonzero(nodes.phase == FAILED)
        if len(retrying) and self._progress.retry_since is not None:
            self._waits.add("retry", retrying, length)

    def _activate(self, moment: Moment, length: float, on: Bools) -> None:
        nodes, staged = self._nodes, np.flatnonzero(self._nodes.phase == STAGED)
        if not len(staged):
            return
        is_begun = np.isfinite(nodes.activating_until[staged])
        open_ = moment.activate_open[nodes.groups[staged]] | self._serves_nothing[staged]
        may = on[staged] & open_ & ~is_begun
        begins = staged[may]
        nodes.activating_until[begins] = np.maximum(moment.seconds, nodes.fetched_at[begins]) + self._plan.activate_seconds
        held = staged[~may & ~is_begun]
        self._waits.add("schedule", held[~on[held]], length)
        self._waits.add("window", held[on[held]], length)
        self._waits.add("activation", staged[may | is_begun], length)
        end = moment.seconds + length
        finished = staged[(nodes.activating_until[staged] <= end) & on[staged]]
        failed = finished[nodes.failures_left[finished] > 0]
        good = finished[nodes.failures_left[finished] == 0]
        nodes.phase[good], nodes.serving_at[good] = SERVES, np.maximum(nodes.activating_until[good], moment.seconds)
        self._known.serving[good] = True
        nodes.phase[failed] = FAILED
        nodes.failures_left[failed] -= 1
        nodes.attempt[failed] = self._progress.deployment.attempt or 0
        self._known.failed_at[failed] = self._plan.start + int(end) - 1
        self._known.tried[failed] += 1
        self._known.failed_at[good] = NOT_FAILED

    def _look(self, seconds: float) -> None:
        """Look at the gates as the hub does, and take in what it signs."""
        before, gate = self._progress, self._progress.gate  # `known` shares the environment's array, which is of this moment.
        now = self._plan.start + int(seconds)
        found = counted(
            before.deployment,
            self._known,
            self._reached,
            silent_seconds=gate.silent_seconds,
            judged_from=before.judged_from,
            now=now,
        )
        if found == self._tally and seconds < self._due_at:
            return  # The core would say the same: it looks at these counts, and at times that have not come.
        if found != self._tally:
            self._tally, self._changed_at = found, seconds
        facts = Facts(Reports(self._known, silent_seconds=gate.silent_seconds))
        self._progress, actions = core.step(before, facts, now=now, listened=Listened(seconds), counted=found)
        deployment = self._progress.deployment
        self._due_at = self._due(seconds)
        if deployment == before.deployment:
            return
        self._changed_at = seconds
        self._steps += [Step(seconds, one.text, deployment.percent) for one in actions if isinstance(one, core.Announce)]
        if deployment.state != "running" and self._ended is None:
            self._ended = seconds
        self._reached = reached_by(deployment, self._known.facts, self._places)
        again = np.flatnonzero((self._nodes.phase == FAILED) & (self._nodes.attempt < (deployment.attempt or 0)))
        self._nodes.phase[again] = STAGED
        self._nodes.fetched_at[again] = seconds
        self._nodes.activating_until[again] = np.inf

    def _due(self, seconds: float) -> float:
        """Return when the next look can find something else although no count has changed."""
        progress, gate = self._progress, self._progress.gate
        if progress.reason == "the stage has just begun":
            return seconds
        due = [inf]
        due += [progress.held_since + gate.soak_seconds] if progress.held_since is not None else []
        due += [progress.retry_since + (gate.retry_seconds or core.RETRY_SECONDS)] if progress.retry_since is not None else []
        due += [progress.deployment.deadline - self._plan.start] if progress.deployment.deadline is not None else []
        return min((one for one in due if one > seconds or progress.deployment.state == "running"), default=inf)

    def _is_over(self, seconds: float) -> bool:
        deployment = self._progress.deployment
        if deployment.state == "halted" and not self._reached.all():
            return True
        if deployment.state == "done" and is_past_deadline(deployment, self._plan.start + int(seconds)):
            return True
        alive = (self._nodes.pending | ((self._nodes.phase == WAITS) & self._reached)) & ~self._hopeless.any
        if alive.any():
            return False
        return deployment.state == "done" or seconds - self._changed_at > max(STUCK_SECONDS, 2 * self._progress.gate.soak_seconds)
