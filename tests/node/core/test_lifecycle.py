"""A slot moves by its table, keeps what works, and goes on from wherever it was cut off."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.core import lifecycle
from node.core.lifecycle import (
    MOVES,
    CancelFetch,
    Fetch,
    ImpossibleMove,
    ModelSlot,
    Prepare,
    Report,
    Restore,
    Retire,
    Switch,
    Target,
    Tidy,
)
from schemas.names import sha256


def target(number: int, rollout: int = 0) -> Target:
    return Target(version=f"{number}.0.0", digest=sha256(b"release %d" % number), rollout=bytes([rollout]) * 16)


def active(number: int = 1) -> ModelSlot:
    slot, _ = lifecycle.wanted(ModelSlot(model="m"), target(number), now=1)
    for move in (lifecycle.fetched, lifecycle.prepared, lifecycle.switched, lifecycle.settled):
        slot, _ = move(slot, now=1)
    return slot


def test_a_release_that_is_good_is_fetched_tested_switched_to_and_settled() -> None:
    slot, first = lifecycle.wanted(ModelSlot(model="m"), target(1), now=1)
    slot, second = lifecycle.fetched(slot, now=2)
    slot, third = lifecycle.prepared(slot, now=3)
    slot, fourth = lifecycle.switched(slot, now=4)
    slot, fifth = lifecycle.settled(slot, now=5)

    assert first + second + third == [Fetch(target(1)), Prepare(target(1)), Switch(target(1))]
    assert fourth + fifth == [Report("serving", target(1)), Tidy()]
    assert (slot.state, slot.serving, slot.serving_since) == ("active", target(1), 4)


def test_a_spent_budget_shows_and_is_no_refusal() -> None:
    slot, _ = lifecycle.wanted(active(1), target(2), now=1)

    slot, nothing = lifecycle.waits(slot, "budget.day", spent=True, now=2)
    assert (slot.state, slot.code, slot.serving, nothing) == ("out_of_budget", "budget.day", target(1), [])
    assert lifecycle.resume(slot) == [Restore(target(1)), Fetch(target(2))]
    assert lifecycle.halted(slot, now=3)[1] == [CancelFetch(target(2))]

    slot, _ = lifecycle.waits(slot, "", spent=False, now=3)
    slot, _ = lifecycle.waits(slot, "disk.full", spent=False, now=4)
    assert (slot.state, slot.code) == ("fetching", "disk.full")
    slot, commands = lifecycle.fetched(slot, now=5)
    assert (slot.state, slot.code, commands) == ("staged", "", [Prepare(target(2))])
    assert lifecycle.waits(slot, "budget.day", spent=True, now=6) == (slot, [])


def test_a_release_that_fails_its_test_is_refused_and_the_old_one_keeps_serving() -> None:
    slot, _ = lifecycle.wanted(active(1), target(2), now=1)
    slot, _ = lifecycle.fetched(slot, now=2)

    slot, commands = lifecycle.failed(slot, "model.golden_mismatch", "no", now=3)

    assert (slot.state, slot.serving, slot.code) == ("refused", target(1), "model.golden_mismatch")
    assert Report("refused", target(2), "model.golden_mismatch", "no") in commands


def test_a_release_that_misbehaves_on_probation_goes_back_to_the_last_good() -> None:
    slot, _ = lifecycle.wanted(active(1), target(2), now=1)
    for move in (lifecycle.fetched, lifecycle.prepared, lifecycle.switched):
        slot, _ = move(slot, now=2)

    slot, commands = lifecycle.failed(slot, "worker.crashed", "gone", now=3)

    assert (slot.state, slot.serving, slot.last_good) == ("rolled_back", target(1), None)
    assert commands == [Restore(target(1)), Report("rolled_back", target(2), "worker.crashed", "gone")]


def test_a_first_release_that_misbehaves_serves_no_more() -> None:
    slot, _ = lifecycle.wanted(ModelSlot(model="m"), target(1), now=1)
    for move in (lifecycle.fetched, lifecycle.prepared, lifecycle.switched):
        slot, _ = move(slot, now=2)

    slot, commands = lifecycle.failed(slot, "probation.errors", "bad", now=3)

    assert (slot.state, slot.serving) == ("rolled_back", None)
    assert Retire(target(1)) in commands


def test_what_a_rollout_was_refused_is_not_tried_again_but_by_another_rollout() -> None:
    slot, _ = lifecycle.wanted(active(1), target(2, rollout=1), now=1)
    slot, _ = lifecycle.failed(slot, "model.too_slow", "slow", now=2)

    same, nothing = lifecycle.wanted(slot, target(2, rollout=1), now=3)
    other, again = lifecycle.wanted(slot, target(2, rollout=2), now=3)

    assert (same, nothing) == (slot, [])
    assert other.state == "fetching"
    assert again == [Fetch(target(2, rollout=2))]


def test_a_newer_release_cancels_the_older_transfer() -> None:
    slot, _ = lifecycle.wanted(active(1), target(2), now=1)

    slot, commands = lifecycle.wanted(slot, target(3), now=2)

    assert commands == [CancelFetch(target(2)), Fetch(target(3))]
    assert slot.target == target(3)


def test_wanting_what_is_served_gives_up_what_was_under_way() -> None:
    slot, _ = lifecycle.wanted(active(1), target(2), now=1)

    slot, commands = lifecycle.wanted(slot, target(1), now=2)

    assert (slot.state, commands) == ("active", [CancelFetch(target(2))])


def test_a_halted_rollout_stops_who_has_not_switched_and_leaves_who_has() -> None:
    fetching, _ = lifecycle.wanted(active(1), target(2), now=1)
    first, _ = lifecycle.wanted(ModelSlot(model="m"), target(1), now=1)

    stopped, commands = lifecycle.halted(fetching, now=2)
    dropped, _ = lifecycle.halted(first, now=2)
    resumed, again = lifecycle.wanted(stopped, target(2), now=3)

    assert (stopped.state, stopped.serving, commands) == ("active", target(1), [CancelFetch(target(2))])
    assert (dropped.state, dropped.target) == ("idle", None)
    assert (resumed.state, again) == ("fetching", [Fetch(target(2))])
    assert lifecycle.halted(active(1), now=2) == (active(1), [])


@pytest.mark.parametrize("move", [lifecycle.fetched, lifecycle.prepared, lifecycle.switched, lifecycle.settled])
def test_what_the_table_does_not_name_raises_and_changes_nothing(move: object) -> None:
    slot = active(1)

    with pytest.raises(ImpossibleMove):
        move(slot, now=9)  # type: ignore[operator]

    assert slot == active(1)


class Life(RuleBasedStateMachine):
    """Anything may happen, in any order, and the process may die between any two things."""

    def __init__(self) -> None:
        super().__init__()
        self.slot = ModelSlot(model="m")
        self.good: set[bytes] = set()  # settled once
        self.bad: set[bytes] = set()

    def do(self, step: lifecycle.Step) -> None:
        before, (after, _) = self.slot, step
        assert before.state == after.state or any(after.state == to for (start, _), to in MOVES.items() if start == before.state)
        self.slot = after

    @rule(number=st.integers(1, 4), rollout=st.integers(0, 2))
    def want(self, number: int, rollout: int) -> None:
        self.do(lifecycle.wanted(self.slot, target(number, rollout), now=1))

    @precondition(lambda self: self.slot.state == "fetching")
    @rule()
    def fetch(self) -> None:
        self.do(lifecycle.fetched(self.slot, now=1))

    @precondition(lambda self: self.slot.state == "staged")
    @rule()
    def test_and_switch(self) -> None:
        self.do(lifecycle.prepared(self.slot, now=1))
        self.do(lifecycle.switched(self.slot, now=1))

    @precondition(lambda self: self.slot.state == "probation")
    @rule()
    def settle(self) -> None:
        self.do(lifecycle.settled(self.slot, now=1))

    @precondition(lambda self: self.slot.state in {"fetching", "staged", "testing", "probation", "active"})
    @rule()
    def fail(self) -> None:
        self.do(lifecycle.failed(self.slot, "code", "reason", now=1))

    @rule()
    def halt(self) -> None:
        self.do(lifecycle.halted(self.slot, now=1))

    @rule()
    def die_and_come_back(self) -> None:
        written = self.slot.model_dump_json()
        self.slot = lifecycle.restarted(ModelSlot.model_validate_json(written))
        commands = lifecycle.resume(self.slot)
        assert not any(isinstance(command, Report | Tidy) for command in commands)
        if self.slot.serving is not None:
            assert Restore(self.slot.serving) in commands

    @invariant()
    def what_is_active_is_served(self) -> None:
        if self.slot.state in {"probation", "active"} and self.slot.serving is None:
            # only a slot that had nothing to serve before it was withdrawn may be active without serving
            raise AssertionError("active without serving")
        if self.slot.state == "rolled_back" and self.slot.serving is not None and self.slot.target is not None:
            assert self.slot.serving.digest != self.slot.target.digest


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
