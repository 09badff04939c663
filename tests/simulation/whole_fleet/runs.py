"""Run a plan to its end, and find the smallest part of a plan that still fails."""

import gc
import hashlib
import logging
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import structlog

from tests.simulation.whole_fleet.fleet import Fleet
from tests.simulation.whole_fleet.invariants import broken
from tests.simulation.whole_fleet.operations import Plan, plan_of
from tests.simulation.whole_fleet.template import scratch, template

SHRINKS_MAX = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has shown; nothing in `broken`: all holds."""

    seed: int
    plan: Plan
    broken: tuple[str, ...]
    log: tuple[str, ...]
    trace: str  # A digest of who switched when, and of every client's messages: two runs of one plan have the same.

    def __str__(self) -> str:
        return "\n".join(
            (
                f"seed {self.seed}: {self.plan.nodes} nodes, {self.plan.models} models",
                *self.log,
                *(f"  BROKEN {one}" for one in self.broken),
            )
        )


BUGS = frozenset(
    {
        "bug.survived",
        "turn.failed",
        "message.failed",
        "batch.failed",
        "routing.failed",
        "probe.failed",
        "release.prepare_failed",
        "callback.failed",
        "infer.failed",
    }
)  # what hub and nodes log where a bug of ours was survived
survived: list[str] = []  # of the present run


def _keep_bugs(logger: object, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    if event["event"] in BUGS:
        error = sys.exc_info()[1] or event.get("exc_info")
        text = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
        survived.append(f"{ {**event, 'exc_info': None} }\n{text}")
    raise structlog.DropEvent


@contextmanager
def quiet() -> Iterator[None]:
    """The logs of a fleet that is mistreated say nothing that a reader of tests wants, but for the bugs that it has survived."""
    before = structlog.get_config()
    level = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=level, processors=[_keep_bugs], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


def run(seed: int, plan: Plan | None = None) -> Outcome:
    """Run a seed, or another plan with the chances of that seed."""
    _ready()
    plan = plan or plan_of(seed)
    folder = scratch()
    survived.clear()
    fleet = Fleet(seed, plan, folder)
    try:
        found = _survived(fleet)
    finally:
        fleet.close()
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(seed, plan, tuple(found), tuple(fleet.log), _trace(fleet))


@cache
def _ready() -> None:
    template()
    gc.collect()
    gc.freeze()  # what the product is made of stays; searched again at every full collection it is a large part of a run


def run_quietly(seed: int) -> Outcome:
    """Run a seed in a process of its own."""
    with quiet():
        return run(seed)


def _trace(fleet: Fleet) -> str:
    switches = [(round(ran.at, 3), ran.machine, ran.model, ran.digest) for ran in fleet.ran]
    return hashlib.sha256(repr((switches, sorted(fleet.broker.counts.items()))).encode()).hexdigest()


def _survived(fleet: Fleet) -> list[str]:
    try:
        fleet.begin()
        for one in fleet.plan.operations:
            fleet.do(one)
        fleet.come_to_rest()
        return [*broken(fleet), *dict.fromkeys(f"a bug was survived: {one}" for one in survived)]
    except Exception:
        return [f"an error that nobody caught at {fleet.world.now:.1f}: {traceback.format_exc()}"]


def shrink(outcome: Outcome, *, say: Callable[[str], None] = lambda text: None) -> Outcome:
    """Leave out operations, many at first, as long as it still fails."""
    best, tries = outcome, 0
    size = max(1, len(best.plan.operations) // 2)
    while size >= 1 and tries < SHRINKS_MAX:
        at, smaller = 0, False
        while at < len(best.plan.operations) and tries < SHRINKS_MAX:
            tries += 1
            tried = run(best.seed, best.plan.without(at, size))
            if tried.broken:
                best, smaller = tried, True
                say(f"still fails with {len(best.plan.operations)} operations")
            else:
                at += size
        if not smaller or size > len(best.plan.operations):
            size //= 2
    return best
