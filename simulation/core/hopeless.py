"""Find nodes that can never arrive, before they are waited for: by their budget, their times, their link."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.rollout import Carriage
from simulation.core.environment import Environment
from simulation.core.fetching import day_bytes
from simulation.core.plan import Group, Plan
from simulation.core.schedule import Bools, Floats

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Hold which nodes can never arrive, why those of a group cannot, and how many days each node needs at least."""

    any: Bools
    reasons: tuple[str, ...]  # by group; empty where nothing but speed speaks against it
    days: Floats
    by_budget: Floats  # Days that each node needs for its budget alone.


def hopeless(plan: Plan, environment: Environment, groups: NDArray[np.int64], speeds: Floats) -> Hopeless:
    """Return the nodes that cannot arrive. `speeds` are bytes a second, as the cores have shown them."""
    fetch, activate = environment.open_shares(), environment.activate_shares()
    reasons = tuple(
        _reason(group, plan.rollout.carriage or Carriage(), fetch[at], activate[at], has_activate=plan.rollout.activate is not None)
        for at, group in enumerate(plan.groups)
    )
    sizes = np.array([float(group.fetch.bytes) if group.fetch is not None else 0.0 for group in plan.groups])
    by_budget = sizes / np.array([day_bytes(group) or 1.0 for group in plan.groups])
    open_seconds = np.maximum(np.array(fetch), 1e-9) * DAY_SECONDS
    with np.errstate(divide="ignore"):
        by_link = sizes[groups] / (speeds * open_seconds[groups])
    days = np.maximum(by_link, by_budget[groups])
    never = np.array([bool(one) for one in reasons])[groups] | (days > 1.05 * plan.days_max)
    return Hopeless(never & (sizes[groups] > 0), reasons, days, by_budget[groups])


def _reason(group: Group, carriage: Carriage, fetch: float, activate: float, *, has_activate: bool) -> str:
    if group.fetch is None:
        return ""
    whole = group.policy.full_download if carriage.full_download is None else carriage.full_download
    if group.fetch.instead_bytes and not whole:
        return f"a delta's parent is not there, and a {group.link.cost_class} link takes no whole blocks (full_download)"
    if carriage.bytes_max is not None and group.fetch.bytes > carriage.bytes_max:
        return f"the release takes {group.fetch.bytes} bytes, the rollout allows a node {carriage.bytes_max} (node_bytes_max)"
    if not fetch:
        return f"it is never on ({group.schedule.text}) while it may fetch"
    if has_activate and not activate and not group.serves_nothing:
        return f"it is never on ({group.schedule.text}) while it may switch"
    return ""
