"""What a new rollout would replace, by the one that is signed now."""

from typing import Any

from hub.core.rollouts.predecessors import predecessors
from schemas.rollout import Fallback, ReleaseRef, Rollout

OLD, NEW, CANARY = ReleaseRef("1.0.0", b"o" * 32), ReleaseRef("1.1.0", b"n" * 32), ReleaseRef("1.0.5", b"c" * 32)


def rollout(**fields: Any) -> Rollout:
    given = {"model": "delay", "serial": 1, "release": NEW, "state": "running", "stages": (10, 100), "salt": bytes(16), "started": 0}
    return Rollout(**{**given, **fields})


def test_without_a_rollout_nothing_is_replaced() -> None:
    assert predecessors(None, {}) == ()


def test_a_running_rollout_leaves_nodes_with_both_releases() -> None:
    assert set(predecessors(rollout(fallback=OLD), {})) == {OLD, NEW}


def test_a_rollout_that_is_done_leaves_its_release() -> None:
    assert predecessors(rollout(state="done", fallback=OLD), {}) == (NEW,)


def test_nodes_outside_a_done_rollout_have_their_fallback() -> None:
    done = rollout(state="done", labels={"ring": "canary"}, fallback=OLD)

    assert set(predecessors(done, {})) == {OLD, NEW}
    assert predecessors(done, {"ring": "canary"}) == (NEW,)
    assert predecessors(done, {"ring": "stable"}) == (OLD,)


def test_after_going_back_nodes_have_their_fallback() -> None:
    assert predecessors(rollout(state="rolled_back", fallback=OLD), {}) == (OLD,)


def test_after_going_back_a_node_without_a_fallback_has_the_release() -> None:
    back = rollout(state="rolled_back", fallbacks=(Fallback(labels={"ring": "canary"}, release=CANARY),))

    assert set(predecessors(back, {})) == {CANARY, NEW}
    assert predecessors(back, {"ring": "canary"}) == (CANARY,)


def test_of_several_fallbacks_only_those_that_these_nodes_can_have_count() -> None:
    before = rollout(fallbacks=(Fallback(labels={"ring": "canary"}, release=CANARY), Fallback(labels={}, release=OLD)))

    assert set(predecessors(before, {})) == {CANARY, OLD, NEW}
    assert set(predecessors(before, {"ring": "canary"})) == {CANARY, NEW}
    assert set(predecessors(before, {"ring": "stable"})) == {OLD, NEW}
