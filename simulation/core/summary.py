"""Draw the outcome from the state in which a simulation ended: when, what it cost, where nodes waited, which never arrive and why."""

from collections.abc import Iterator
from math import ceil

import numpy as np

from hub.core.rollouts.plan import WIRE_OVERHEAD
from simulation.core.environment import slices
from simulation.core.fetching import CODE
from simulation.core.outcome import (
    MEANINGS,
    REASONS,
    Agreement,
    GroupOutcome,
    LinkBytes,
    Milestone,
    Missing,
    Outcome,
    Reason,
)
from simulation.core.plan import Group
from simulation.core.run import FAILED, SERVES, WAITS, Finished
from simulation.core.schedule import Floats

PERCENTS = (50, 90, 99, 100)
CURVE_POINTS = 240
ENDS = {"running": "the rollout still waits", "done": "the rollout has ended"}
ENDS |= {"halted": "the rollout halted", "rolled_back": "the rollout went back"}
QUANTILES = (0.5, 0.9, 0.99)
HOUR = 3600.0
DAY_SECONDS = 86_400.0


def outcome_of(finished: Finished) -> Outcome:
    """Return what is printed, drawn or written."""
    plan, nodes, progress = finished.plan, finished.nodes, finished.progress
    serving_at = np.sort(nodes.serving_at[nodes.phase == SERVES])
    _wait_for_stages(finished)
    hours = [float(one) / HOUR for one in finished.waits.seconds.sum(axis=1, dtype=np.float64)]
    return Outcome(
        nodes=plan.nodes,
        sampled=len(finished.cores.rows),
        seed=finished.seed,
        start=plan.start,
        state=progress.deployment.state,
        reason=progress.reason,
        ended_seconds=finished.ended_seconds,
        simulated_seconds=finished.seconds,
        milestones=tuple(Milestone(percent, _milestone(serving_at, percent, plan.nodes)) for percent in PERCENTS),
        curve=_curve(serving_at, plan.nodes, finished.seconds),
        steps=finished.steps,
        links=tuple(_links(finished)),
        groups=tuple(_group(finished, at, group) for at, group in enumerate(plan.groups)),
        waited_hours=tuple((reason, hours[CODE[reason]]) for reason in REASONS),
        missing=tuple(_missing(finished)),
        agreement=_agreement(finished),
    )


def _milestone(serving_at: Floats, percent: int, nodes: int) -> float | None:
    count = ceil(percent * nodes / 100)
    return float(serving_at[count - 1]) if count <= len(serving_at) else None


def _curve(serving_at: Floats, nodes: int, seconds: float) -> tuple[tuple[float, float], ...]:
    last = float(serving_at[-1]) if len(serving_at) else 0.0
    until = max(60.0, last * 1.02 if last else seconds)
    times = np.linspace(0.0, until, CURVE_POINTS)
    shares = np.searchsorted(serving_at, times, "right") / nodes
    return tuple(zip(times.tolist(), shares.tolist(), strict=True))


def _wait_for_stages(finished: Finished) -> None:
    """Add the time until a stage reached each node, which no step counts."""
    nodes = finished.nodes
    waits = np.minimum(nodes.reached_at, finished.seconds)
    finished.waits.seconds[CODE["stage"]] = np.where(nodes.phase == SERVES, np.minimum(waits, nodes.serving_at), waits)


def _carried(finished: Finished) -> Floats:
    found = np.zeros(finished.plan.nodes)
    for fetching in (finished.model, finished.cores):
        found[fetching.rows] = fetching.carried_bytes()
    return found


def _links(finished: Finished) -> Iterator[LinkBytes]:
    carried = _carried(finished)
    by_name: dict[str, list[tuple[Group, slice]]] = {}
    for where, group in zip(slices(finished.plan.groups), finished.plan.groups, strict=True):
        by_name.setdefault(group.link.name, []).append((group, where))
    for name, rows in by_name.items():
        link = rows[0][0].link
        size = float(sum(carried[where].sum() for _, where in rows))
        wire = size * WIRE_OVERHEAD / (1 - link.loss)
        cost = wire / 1e6 * link.price_mb if link.price_mb is not None else None
        yield LinkBytes(name, sum(group.nodes for group, _ in rows), round(size), round(wire), cost)


def _group(finished: Finished, at: int, group: Group) -> GroupOutcome:
    where, nodes = slices(finished.plan.groups)[at], finished.nodes
    times = nodes.serving_at[where][nodes.phase[where] == SERVES]
    hours = finished.waits.seconds[:, where].sum(axis=1, dtype=np.float64) / HOUR
    return GroupOutcome(
        group=group.name,
        link=group.link.name,
        nodes=group.nodes,
        serving=len(times),
        median_seconds=float(np.median(times)) if len(times) else None,
        last_seconds=float(times.max()) if len(times) else None,
        waited_hours=tuple((reason, float(hours[CODE[reason]])) for reason in REASONS),
    )


def _missing(finished: Finished) -> Iterator[Missing]:
    nodes, plan = finished.nodes, finished.plan
    for at, (where, group) in enumerate(zip(slices(plan.groups), plan.groups, strict=True)):
        phase = nodes.phase[where]
        failed, unreached = phase == FAILED, (phase == WAITS) & np.isinf(nodes.reached_at[where])
        reason = finished.hopeless.reasons[at]
        late = ~failed & ~unreached & (phase != SERVES)
        never = late & finished.hopeless.any[where]
        late &= ~never
        if failed.any():
            tries = int(finished.known.tried[where][failed].max())
            yield Missing(
                group.name, int(failed.sum()), f"the release fails there, tried {tries} {'time' if tries == 1 else 'times'} at most"
            )
        if never.any():
            yield Missing(group.name, int(never.sum()), reason or _too_slow(finished, where))
        if unreached.any():
            yield Missing(group.name, int(unreached.sum()), f"no stage has reached it; {ENDS[finished.progress.deployment.state]}")
        if late.any():
            yield Missing(group.name, int(late.sum()), _late(finished, where, late))


def _too_slow(finished: Finished, where: slice) -> str:
    never = finished.hopeless.any[where]
    days, by_budget = finished.hopeless.days[where][never], finished.hopeless.by_budget[where][never]
    needs = "no block ever arrives whole" if np.isinf(days).all() else f"it needs about {np.median(days[np.isfinite(days)]):.0f} days"
    why = "its budget is too small" if np.median(by_budget) >= 0.99 * np.median(days) else "the link is too slow"
    return f"{why}: {needs}, {finished.plan.days_max:g} are simulated"


def _late(finished: Finished, where: slice, late: "np.typing.NDArray[np.bool_]") -> str:
    waited = finished.waits.seconds[:, where][:, late].sum(axis=1)
    waited[CODE["stage"]] = 0
    most: Reason = REASONS[int(np.argmax(waited))]
    state, days = finished.progress.deployment.state, finished.seconds / DAY_SECONDS
    if state == "halted":
        return "it was on its way when the rollout halted"
    if finished.plan.rollout.deadline is not None and finished.plan.start + finished.seconds >= finished.plan.rollout.deadline:
        return f"the deadline passed; it waited mostly because {MEANINGS[most]}"
    return f"not within {days:.0f} days; it waits mostly because {MEANINGS[most]}"


def _agreement(finished: Finished) -> Agreement | None:
    cores, ghost = finished.cores, finished.ghost
    both = np.isfinite(cores.fetched_at) & np.isfinite(ghost.fetched_at)
    if not both.any():
        return None
    real, model = (one.fetched_at[both] - one.begun_at[both] for one in (cores, ghost))
    rows = [
        (f"{quantile:.0%} have fetched, s", float(np.quantile(real, quantile)), float(np.quantile(model, quantile)))
        for quantile in QUANTILES
    ]
    carried = float(cores.carried_bytes()[both].sum()), float(ghost.carried_bytes()[both].sum())
    return Agreement(int(both.sum()), (*rows, ("bytes", *carried)))
