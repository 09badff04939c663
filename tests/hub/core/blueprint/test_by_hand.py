"""Who is named for a difference: who changed what a blueprint speaks of, and nobody who only stopped or moved a rollout."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hub.core.blueprint.by_hand import last_of, parts_changed
from hub.core.blueprint.diff import Part
from hub.core.nodes import device_settings
from hub.core.nodes.device_settings import Chosen
from hub.core.rollouts import rollout as core
from hub.core.rollouts.changes import change_of
from hub.core.rollouts.commands import SetParameters
from hub.core.rollouts.rollout import Progress
from hub.core.rollouts.tally import Tally
from schemas.deployments import Deployment, Stage
from schemas.device_settings import LinkBudget
from schemas.parameters import Parameter
from schemas.rollout import ReleaseRef
from schemas.selectors import parse

ONE, TWO = (ReleaseRef(version, bytes([number]) * 32) for number, version in enumerate(("1.0.0", "1.1.0")))
ALLOWED = (Parameter(name="threshold", goes_to="client", default=0.5, min=0, max=1),)
RUNNING = Progress(
    "m",
    Deployment(
        name="default",
        priority=0,
        selector=(),
        release=TWO,
        fallback=ONE,
        state="running",
        rollout=bytes(16),
        stages=(Stage(10), Stage(100, approve=True)),
        started=1,
    ),
    stage_entered_at=1,
    judged_from=1,
    tally=Tally(failed=1),
)
PLACE, RELEASE = Part("m/default", "place"), Part("m/default", "release")


def changed(before: Progress | None, after: Progress | None) -> set[Part]:
    body = change_of(*(one.deployment if one is not None else None for one in (before, after)))
    return parts_changed("rollout", {"model": "m", "deployment": "default", "serial": 2, **body})


def with_(**fields: Any) -> Progress:
    return replace(RUNNING, deployment=RUNNING.deployment.model_copy(update=fields))


@pytest.mark.parametrize(
    "act",
    [
        core.halt,
        core.approve,
        lambda one: core.retry(one, now=2),
        lambda one: replace(one, deployment=one.deployment.model_copy(update={"state": "done", "stage": 1})),
    ],
    ids=["halt", "approve", "retry", "done"],
)
def test_who_stops_or_moves_a_rollout_has_not_changed_the_release(act: Callable[[Progress], Progress]) -> None:
    assert changed(RUNNING, act(RUNNING)) == set()
    assert changed(core.halt(RUNNING), core.resume(core.halt(RUNNING), now=2)) == set()


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        (None, RUNNING, {PLACE, RELEASE}),
        (RUNNING, None, {PLACE, RELEASE}),
        (RUNNING, with_(release=ONE), {RELEASE}),
        (RUNNING, core.roll_back(RUNNING), {RELEASE}),
        (core.roll_back(RUNNING), RUNNING, {RELEASE}),
        (RUNNING, core.set_parameters(RUNNING, SetParameters(version="1.1.0", parameters={"threshold": 1}), allowed=ALLOWED), {RELEASE}),
        (with_(selector=parse("a=b")), RUNNING, {PLACE}),
        (RUNNING, with_(priority=3), {PLACE}),
    ],
    ids=range(8),
)
def test_a_change_of_a_deployment_is_of_the_part_that_it_is_about(
    before: Progress | None, after: Progress | None, parts: set[Part]
) -> None:
    assert changed(before, after) == parts


def test_a_change_of_settings_is_of_those_that_differ_on_each_node() -> None:
    before, after = Chosen({"ring": "a"}, cohort="x", budgets={}), Chosen({}, cohort="x", budgets={"metered": LinkBudget(bytes_day_max=5)})
    change = device_settings.change_of(before, after)
    one = {"node": "n1", "nodes": ["n1"], **change}
    many = {"node": None, "where": "a", "nodes": ["n1", "n2"], **{side: {"n1": found} for side, found in change.items()}}
    names = {"label ring", "budget.metered.bytes_day_max"}

    assert parts_changed("device", one) == {Part("n1", name) for name in names}
    assert parts_changed("device", many) == {Part("n1", name) for name in names} | {Part("n2", "")}
    assert parts_changed("device", {"node": "n1", "before": {"state": "known"}, "after": {"state": "forgotten"}}) == set()


def test_the_newest_event_that_changed_a_part_is_named() -> None:
    old, new = parts_changed("rollout", {"model": "m", "deployment": "default"}), changed(RUNNING, with_(priority=3))
    events = dict.fromkeys(old, (1, "ann")) | dict.fromkeys(new, (2, "bob"))

    assert last_of({RELEASE}, events) == "ann"  # An earlier version does not say what it changed.
    assert last_of({PLACE, RELEASE}, events) == "bob"
    assert last_of({Part("m/other", "place")}, events) is None
