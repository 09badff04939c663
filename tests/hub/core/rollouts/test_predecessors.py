"""What a new rollout would replace, by the deployment in which it begins."""

from typing import Any

from hub.core.rollouts.predecessors import predecessors
from hub.core.rollouts.rollout import Place
from schemas.deployments import DEFAULT, Deployment, Stage
from schemas.rollout import ReleaseRef

OLD, NEW = ReleaseRef("1.0.0", b"o" * 32), ReleaseRef("1.1.0", b"n" * 32)


def place(**fields: Any) -> Place:
    given = {"name": DEFAULT, "release": NEW, "state": "running", "stages": (Stage(10), Stage(100)), "rollout": bytes(16), "started": 0}
    return Place(DEFAULT, before=Deployment(**{**given, **fields}))


def test_without_a_rollout_nothing_is_replaced() -> None:
    assert predecessors(Place(DEFAULT)) == ()


def test_a_new_deployment_replaces_what_its_nodes_have_by_the_one_before() -> None:
    assert predecessors(Place("site-jfk", fallback=OLD)) == (OLD,)


def test_a_running_rollout_leaves_nodes_with_both_releases() -> None:
    assert set(predecessors(place(fallback=OLD))) == {OLD, NEW}
    assert predecessors(place()) == (NEW,)


def test_a_rollout_that_is_done_leaves_its_release() -> None:
    assert predecessors(place(state="done", fallback=OLD)) == (NEW,)


def test_after_going_back_nodes_have_their_fallback() -> None:
    assert predecessors(place(state="rolled_back", fallback=OLD)) == (OLD,)


def test_after_going_back_a_node_without_a_fallback_has_the_release() -> None:
    assert predecessors(place(state="rolled_back")) == (NEW,)
