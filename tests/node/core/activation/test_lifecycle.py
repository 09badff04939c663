"""A slot moves by its table, keeps what works, can be replayed, and goes on from wherever it was cut off."""

from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.core.activation import lifecycle
from node.core.activation.lifecycle import (
    IN_WORKER,
    SERVING,
    UNDER_WAY,
    CancelFetch,
    Command,
    Compare,
    Fetch,
    ImpossibleMove,
    ModelSlot,
    Move,
    Prepare,
    Report,
    Restore,
    Retire,
    Step,
    Switch,
    Target,
    Tidy,
)
from schemas.lifecycle import EVENTS, MOVES, STATES, EventName
from schemas.names import sha256
from schemas.state import SlotState


def target(number: int, rollout: int = 0) -> Target:
    return Target(version=f"{number}.0.0", digest=sha256(b"release %d" % number), rollout=bytes([rollout]) * 16)


def through(slot: ModelSlot, *events: Callable[..., Step], now: int = 1) -> ModelSlot:
    for event in events:
        slot = event(slot, now=now).slot
    return slot


def wants(number: int, rollout: int = 0) -> Callable[..., Step]:
    return lambda slot, *, now: lifecycle.wanted(slot, target(number, rollout), now=now)


def compared(slot: ModelSlot, *, now: int) -> Step:
    return lifecycle.prepared(slot, now=now, compare=True)


TO_PROBATION = (lifecycle.fetched, lifecycle.begun, lifecycle.prepared)


def on_probation(number: int = 1) -> ModelSlot:
    return through(ModelSlot(model="m"), wants(number), *TO_PROBATION)


def active(number: int = 1) -> ModelSlot:
    return through(on_probation(number), lifecycle.settled)


@pytest.mark.parametrize("reached", [1, 2])
def test_the_end_of_probation_stops_no_worker_that_tests_what_is_wanted(reached: int) -> None:
    slot = through(active(1), wants(2), *TO_PROBATION, wants(1, rollout=1), *TO_PROBATION[:reached])

    step = lifecycle.settled(slot, now=5)

    assert step.commands == [Tidy()]
    assert step.slot.state == slot.state


def test_a_release_that_is_good_is_fetched_tested_switched_to_and_settled() -> None:
    steps, slot = [], ModelSlot(model="m")
    for now, event in enumerate((wants(1), *TO_PROBATION, lifecycle.settled), start=1):
        steps.append(event(slot, now=now))
        slot = steps[-1].slot

    commands = [command for step in steps for command in step.commands]
    assert commands == [Fetch(target(1)), Prepare(target(1)), Switch(target(1)), Report("serving", target(1)), Tidy()]
    assert [step.slot.state for step in steps] == ["fetching", "staged", "testing", "probation", "active"]
    assert (slot.serving, slot.serving_since, slot.proven) == (target(1), 4, True)


def test_a_release_that_wants_it_is_compared_before_it_is_switched_to() -> None:
    slot = through(active(1), wants(2), lifecycle.fetched, lifecycle.begun)

    beside = lifecycle.prepared(slot, now=2, compare=True)
    after = lifecycle.agreed(beside.slot, now=3)

    assert (beside.slot.state, beside.slot.serving, beside.commands) == ("shadow", target(1), [Compare(target(2))])
    assert (after.slot.state, after.slot.serving, after.slot.last_good) == ("probation", target(2), target(1))
    assert after.commands == [Switch(target(2)), Report("serving", target(2))]


def test_the_first_release_has_nothing_to_be_compared_with() -> None:
    slot = through(ModelSlot(model="m"), wants(1), lifecycle.fetched, lifecycle.begun)

    assert lifecycle.prepared(slot, now=2, compare=True).slot.state == "probation"


def test_a_release_that_disagrees_in_the_comparison_is_refused_and_never_served() -> None:
    slot = through(active(1), wants(2), lifecycle.fetched, lifecycle.begun, compared)

    step = lifecycle.failed(slot, "shadow.disagrees", "no", now=3)

    assert (step.slot.state, step.slot.serving) == ("refused", target(1))
    assert step.commands == [Retire(target(2)), Report("refused", target(2), "shadow.disagrees", "no")]


def test_settling_ends_the_worker_that_answered_beside_the_new_one() -> None:
    slot = through(active(1), wants(2), *TO_PROBATION)

    assert lifecycle.settled(slot, now=3).commands == [Retire(target(1)), Tidy()]


def test_a_spent_budget_shows_and_is_no_refusal() -> None:
    step = lifecycle.waits(through(active(1), wants(2)), "budget.day", spent=True, now=2)
    slot = step.slot

    assert (slot.state, slot.code, slot.serving, step.commands) == ("out_of_budget", "budget.day", target(1), [])
    assert lifecycle.interrupted(slot, now=2).commands == [Restore(target(1)), Fetch(target(2))]
    assert lifecycle.halted(slot, now=3).commands == [CancelFetch(target(2))]

    slot = lifecycle.waits(slot, "", spent=False, now=3).slot
    slot = lifecycle.waits(slot, "disk.full", spent=False, now=4).slot
    assert (slot.state, slot.code) == ("fetching", "disk.full")
    step = lifecycle.fetched(slot, now=5)
    assert (step.slot.state, step.slot.code, step.commands) == ("staged", "", [Prepare(target(2))])
    assert lifecycle.waits(step.slot, "budget.day", spent=True, now=6) == Step(step.slot, [])


def test_a_release_that_fails_its_test_is_refused_and_the_old_one_keeps_serving() -> None:
    slot = through(active(1), wants(2), lifecycle.fetched, lifecycle.begun)

    step = lifecycle.failed(slot, "model.golden_mismatch", "no", now=3)

    assert (step.slot.state, step.slot.serving, step.slot.code) == ("refused", target(1), "model.golden_mismatch")
    assert Report("refused", target(2), "model.golden_mismatch", "no") in step.commands


def test_a_release_that_misbehaves_on_probation_goes_back_to_the_last_good() -> None:
    slot = through(active(1), wants(2), *TO_PROBATION)

    step = lifecycle.misbehaved(slot, "worker.crashed", "gone", now=3)

    assert (step.slot.state, step.slot.serving, step.slot.last_good, step.slot.proven) == ("rolled_back", target(1), None, True)
    assert step.commands == [Restore(target(1)), Report("rolled_back", target(2), "worker.crashed", "gone")]


def test_a_first_release_that_misbehaves_serves_no_more() -> None:
    step = lifecycle.failed(on_probation(), "probation.errors", "bad", now=3)

    assert (step.slot.state, step.slot.serving) == ("rolled_back", None)
    assert Retire(target(1)) in step.commands


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((wants(3),), "fetching"),
        ((wants(3), lifecycle.fetched), "staged"),
        ((wants(3), lifecycle.fetched, lifecycle.begun), "testing"),
        ((wants(3), lifecycle.fetched, lifecycle.begun, compared), "staged"),
    ],
)
def test_what_is_served_unproven_goes_back_even_while_a_newer_release_is_under_way(
    events: tuple[Callable[..., Step], ...], state: SlotState
) -> None:
    slot = through(active(1), wants(2), *TO_PROBATION, *events)

    step = lifecycle.misbehaved(slot, "probation.errors", "bad", now=3)

    assert (step.slot.state, step.slot.target, step.slot.serving, step.slot.proven) == (state, target(3), target(1), True)
    assert {Restore(target(1)), Report("rolled_back", target(2), "probation.errors", "bad")} <= set(step.commands)
    assert (Prepare(target(3)) in step.commands) == (len(events) == 4)  # what it was compared with is gone: it proves itself again


def test_a_release_that_was_superseded_on_probation_is_not_what_is_gone_back_to() -> None:
    slot = through(active(1), wants(2), *TO_PROBATION, wants(3), *TO_PROBATION)

    assert (slot.serving, slot.last_good) == (target(3), target(1))


def test_what_is_served_settles_also_while_a_newer_release_is_on_its_way() -> None:
    slot = through(active(1), wants(2), *TO_PROBATION, wants(3))

    after = lifecycle.settled(slot, now=9).slot

    assert (after.state, after.proven, after.since) == ("fetching", True, slot.since)
    assert through(after, *TO_PROBATION).last_good == target(2)


def test_what_a_rollout_was_refused_is_not_tried_again_but_by_another_rollout() -> None:
    slot = lifecycle.failed(through(active(1), wants(2, rollout=1)), "model.too_slow", "slow", now=2).slot

    same = lifecycle.wanted(slot, target(2, rollout=1), now=3)
    other = lifecycle.wanted(slot, target(2, rollout=2), now=3)

    assert same == Step(slot, [])
    assert (other.slot.state, other.commands) == ("fetching", [Fetch(target(2, rollout=2))])


def test_a_newer_release_cancels_the_older_transfer() -> None:
    step = lifecycle.wanted(through(active(1), wants(2)), target(3), now=2)

    assert step.commands == [CancelFetch(target(2)), Fetch(target(3))]
    assert step.slot.target == target(3)


def test_wanting_what_is_served_gives_up_what_was_under_way() -> None:
    step = lifecycle.wanted(through(active(1), wants(2)), target(1), now=2)

    assert (step.slot.state, step.commands) == ("active", [CancelFetch(target(2))])


def test_a_halted_rollout_stops_who_has_not_switched_and_leaves_who_has() -> None:
    stopped = lifecycle.halted(through(active(1), wants(2)), now=2)
    dropped = lifecycle.halted(through(ModelSlot(model="m"), wants(1)), now=2).slot
    resumed = lifecycle.wanted(stopped.slot, target(2), now=3)

    assert (stopped.slot.state, stopped.slot.serving, stopped.commands) == ("active", target(1), [CancelFetch(target(2))])
    assert (dropped.state, dropped.target) == ("idle", None)
    assert (resumed.slot.state, resumed.commands) == ("fetching", [Fetch(target(2))])
    assert lifecycle.halted(active(1), now=2) == Step(active(1), [])


def test_going_back_on_probation_is_to_what_was_proven_and_needs_no_comparison() -> None:
    slot = through(active(1), wants(2), *TO_PROBATION, wants(1, rollout=1), lifecycle.fetched, lifecycle.begun)

    step = lifecycle.prepared(slot, now=5, compare=True)
    after = lifecycle.settled(step.slot, now=6)

    assert step.commands == [Switch(target(1, rollout=1)), Report("serving", target(1, rollout=1))]
    assert (step.slot.state, step.slot.serving, step.slot.last_good, step.slot.proven) == ("probation", target(1, rollout=1), None, True)
    assert (after.slot.state, after.commands) == ("active", [Tidy()])


def test_going_back_to_a_first_release_that_never_settled_keeps_the_other_one_to_fall_back_on() -> None:
    slot = through(on_probation(1), wants(2), *TO_PROBATION, wants(1, rollout=1), *TO_PROBATION)

    assert (slot.serving, slot.last_good, slot.proven) == (target(1, rollout=1), target(2), False)


@pytest.mark.parametrize("events", [(), (lifecycle.fetched,), (lifecycle.fetched, lifecycle.begun)])
def test_what_fails_while_the_last_good_is_wanted_leaves_nothing_under_way(events: tuple[Callable[..., Step], ...]) -> None:
    slot = through(active(1), wants(2), *TO_PROBATION, wants(1, rollout=1), *events)

    step = lifecycle.misbehaved(slot, "worker.crashed", "gone", now=5)

    assert (step.slot.state, step.slot.target, step.slot.serving, step.slot.proven) == ("active", target(1), target(1), True)
    assert step.commands[-2:] == [Restore(target(1)), Report("rolled_back", target(2), "worker.crashed", "gone")]
    assert lifecycle.wanted(step.slot, target(1, rollout=1), now=6) == Step(step.slot, [])


def test_a_slot_whose_last_good_is_what_it_serves_settles_without_ending_it() -> None:
    slot = through(active(1), wants(2), *TO_PROBATION).model_copy(update={"serving": target(1)})  # as an older agent left it

    assert lifecycle.settled(slot, now=3).commands == [Tidy()]


@pytest.mark.parametrize("event", [lifecycle.fetched, lifecycle.begun, lifecycle.prepared, lifecycle.agreed])
def test_what_the_table_does_not_name_raises_and_changes_nothing(event: Callable[..., Step]) -> None:
    slot = active(1)

    with pytest.raises(ImpossibleMove):
        event(slot, now=9)

    assert slot == active(1)


def test_the_table_explains_every_state_and_event_and_reaches_every_state() -> None:
    assert set(STATES) == set(get_args(SlotState)) == {before for before, _ in MOVES}
    assert set(EVENTS) == set(get_args(EventName)) == {event for _, event in MOVES}
    reached, grown = {"idle"}, True
    while grown:
        more = {after for (before, _), after in MOVES.items() if before in reached} - reached
        reached, grown = reached | more, bool(more)
    assert reached == set(STATES)


def test_a_journal_with_a_hole_or_a_move_outside_the_table_is_no_history() -> None:
    moves = [
        Move(number=1, at=1, event="wanted", before="idle", after="fetching"),
        Move(number=2, at=1, event="fetched", before="fetching", after="staged"),
    ]

    assert lifecycle.replay(moves) == "staged"
    with pytest.raises(ImpossibleMove):
        lifecycle.replay([moves[0], moves[1].model_copy(update={"number": 3})])
    with pytest.raises(ImpossibleMove):
        lifecycle.replay([moves[0], moves[1].model_copy(update={"before": "staged"})])
    with pytest.raises(ImpossibleMove):
        lifecycle.replay([moves[0].model_copy(update={"after": "active"})])


class Life(RuleBasedStateMachine):
    """Anything may happen, in any order, and the process may die between any two things."""

    def __init__(self) -> None:
        super().__init__()
        self.slot = ModelSlot(model="m")
        self.moves: list[Move] = []
        self.proven: set[bytes] = set()
        self.bad: set[bytes] = set()

    def do(self, step: Step) -> list[Command]:
        if step.move is None:
            assert step.slot == self.slot
        else:
            self.moves.append(step.move)
        self.slot = step.slot
        return step.commands

    @rule(number=st.integers(1, 4), rollout=st.integers(0, 2))
    def want(self, number: int, rollout: int) -> None:
        self.do(lifecycle.wanted(self.slot, target(number, rollout), now=1))

    @precondition(lambda self: self.slot.state in {"fetching", "out_of_budget"})
    @rule()
    def fetch(self) -> None:
        self.do(lifecycle.fetched(self.slot, now=1))

    @precondition(lambda self: self.slot.state in {"fetching", "out_of_budget"})
    @rule(code=st.sampled_from(["", "budget.day", "disk.full"]))
    def wait(self, code: str) -> None:
        self.do(lifecycle.waits(self.slot, code, spent=code == "budget.day", now=1))

    @precondition(lambda self: self.slot.state == "staged")
    @rule()
    def begin(self) -> None:
        self.do(lifecycle.begun(self.slot, now=1))

    @precondition(lambda self: self.slot.state == "testing")
    @rule(compare=st.booleans())
    def prove(self, compare: bool) -> None:
        self.do(lifecycle.prepared(self.slot, now=1, compare=compare))

    @precondition(lambda self: self.slot.state == "shadow")
    @rule()
    def agree(self) -> None:
        self.do(lifecycle.agreed(self.slot, now=1))

    @precondition(lambda self: self.slot.serving is not None and (not self.slot.proven or self.slot.state == "probation"))
    @rule()
    def settle(self) -> None:
        assert self.slot.serving is not None
        self.proven.add(self.slot.serving.digest)
        self.do(lifecycle.settled(self.slot, now=1))

    @precondition(lambda self: self.slot.state in UNDER_WAY | SERVING)
    @rule()
    def fail(self) -> None:
        self.do(lifecycle.failed(self.slot, "code", "reason", now=1))

    @rule()
    def misbehave(self) -> None:
        before = self.slot
        commands = self.do(lifecycle.misbehaved(self.slot, "code", "reason", now=1))
        if before.serving is not None:
            assert self.slot.serving != before.serving
            assert Report("rolled_back", before.serving, "code", "reason") in commands
            assert self.slot.serving is None or Restore(self.slot.serving) in commands

    @rule()
    def halt(self) -> None:
        self.do(lifecycle.halted(self.slot, now=1))

    @rule()
    def stop(self) -> None:
        before = self.slot
        commands = self.do(lifecycle.stopped(self.slot, now=1))
        assert (self.slot.state, self.slot.serving, self.slot.target) == ("idle", None, None)
        for held in (before.serving, before.last_good):
            assert held is None or Retire(held) in commands
        assert sum(isinstance(command, Report) for command in commands) == (before.serving is not None)

    @rule()
    def die_and_come_back(self) -> None:
        self.slot = ModelSlot.model_validate_json(self.slot.model_dump_json())
        commands = self.do(lifecycle.interrupted(self.slot, now=1))
        assert not any(isinstance(command, Report | Tidy) for command in commands)
        if self.slot.serving is not None:
            assert Restore(self.slot.serving) in commands
        assert self.slot.state not in IN_WORKER
        if self.slot.state in UNDER_WAY:
            assert any(isinstance(command, Fetch | Prepare) for command in commands)

    @invariant()
    def what_is_served_is_served(self) -> None:
        if self.slot.state in SERVING:
            assert self.slot.serving is not None
        digests = [one.digest for one in (self.slot.serving, self.slot.last_good) if one is not None]
        assert len(set(digests)) == len(digests)
        if self.slot.state in UNDER_WAY and self.slot.serving is not None and self.slot.target is not None:
            assert self.slot.serving.digest != self.slot.target.digest
        if self.slot.state == "shadow":
            assert self.slot.serving is not None
            assert self.slot.target != self.slot.serving
        if self.slot.state == "rolled_back" and self.slot.serving is not None and self.slot.target is not None:
            assert self.slot.serving.digest != self.slot.target.digest

    @invariant()
    def only_what_was_proven_is_called_so(self) -> None:
        if self.slot.proven and self.slot.serving is not None:
            assert self.slot.serving.digest in self.proven

    @invariant()
    def its_journal_says_how_it_came_to_be(self) -> None:
        assert lifecycle.replay(self.moves) == self.slot.state


Life.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
