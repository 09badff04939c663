"""What becomes of a slot whose worker ends, or whose release cannot be brought back, is decided from facts alone."""

import pytest

from node.core.activation import lifecycle, recovery
from node.core.activation.lifecycle import ModelSlot, Restore, Step, Target
from node.core.activation.recovery import CRASHES_MAX, RESTORE_SECONDS, RESTORE_TRIES, RetryRestore
from schemas.errors import Code
from schemas.names import sha256


def target(number: int) -> Target:
    return Target(version=f"{number}.0.0", digest=sha256(b"release %d" % number))


def slot_that(*, proven: bool = True, last_good: int | None = 1, state: str = "active", wanted: int | None = None) -> ModelSlot:
    return ModelSlot(
        model="m",
        state=state,
        serving=target(2),
        last_good=target(last_good) if last_good is not None else None,
        last_good_proven=last_good is not None,
        target=target(wanted) if wanted is not None else target(2),
        proven=proven,
    )


def ended(slot: ModelSlot, number: int, *, deaths: int = 1) -> Step:
    return recovery.worker_ended(slot, target(number).digest, reason="signal 11", deaths=deaths, now=7)


def not_restored(slot: ModelSlot, code: Code, *, tries: int) -> RetryRestore | Step:
    return recovery.not_restored(slot, code, "why", tries=tries, now=7)


def test_proven_release_outlives_a_few_deaths_of_its_worker() -> None:
    assert ended(slot_that(), 2, deaths=CRASHES_MAX - 1) == Step(slot_that(), [])


def test_proven_release_whose_worker_loops_makes_way_for_the_last_good() -> None:
    step = ended(slot_that(), 2, deaths=CRASHES_MAX)

    assert step.slot.serving == target(1)
    assert Restore(target(1)) in step.commands
    assert step.slot.code == Code.WORKER_CRASHED


def test_proven_release_without_a_last_good_stays_however_often_it_dies() -> None:
    assert ended(slot_that(last_good=None), 2, deaths=100 * CRASHES_MAX).move is None


def test_first_death_on_probation_rolls_back() -> None:
    step = ended(slot_that(proven=False, state="probation"), 2)

    assert (step.slot.state, step.slot.serving) == (lifecycle.MOVES["probation", "failed"], target(1))


def test_death_of_what_is_compared_fails_it_and_leaves_what_is_served() -> None:
    step = ended(slot_that(state="shadow", wanted=3), 3)

    assert step.slot.serving == target(2)
    assert [one.outcome for one in step.commands if isinstance(one, lifecycle.Report)] == ["refused"]


def test_death_of_the_release_that_served_before_changes_nothing() -> None:
    assert ended(slot_that(proven=False, state="probation"), 1).move is None


def test_restore_is_tried_again_ever_later_while_the_device_may_be_to_blame() -> None:
    found = [not_restored(slot_that(), Code.MODEL_TOO_SLOW, tries=tries) for tries in range(RESTORE_TRIES - 1)]

    assert found == [RetryRestore(tries, RESTORE_SECONDS * tries) for tries in range(1, RESTORE_TRIES)]


@pytest.mark.parametrize(
    ("slot", "code", "tries"),
    [
        (slot_that(), Code.MODEL_TOO_SLOW, RESTORE_TRIES - 1),
        (slot_that(), Code.ARTIFACT_DIGEST, 0),
        (slot_that(proven=False, state="probation"), Code.MODEL_TOO_SLOW, 0),
    ],
    ids=["tries are over", "the release's fault", "not proven"],
)
def test_restore_that_cannot_help_goes_back_to_the_last_good(slot: ModelSlot, code: Code, tries: int) -> None:
    step = not_restored(slot, code, tries=tries)

    assert isinstance(step, Step)
    assert (step.slot.serving, step.slot.code) == (target(1), code)


def test_restored_release_keeps_only_the_workers_that_are_needed() -> None:
    held = frozenset(target(number).digest for number in range(1, 5))
    shadow, idle = slot_that(state="shadow", wanted=3), slot_that()

    assert recovery.restored(shadow, held) == recovery.Restored(target(3), frozenset({target(4).digest}))
    assert recovery.restored(idle, held) == recovery.Restored(None, frozenset({target(3).digest, target(4).digest}))


def test_release_that_something_else_overtook_is_not_switched_to() -> None:
    assert recovery.is_overtaken(slot_that(), target(1))
    assert not recovery.is_overtaken(slot_that(), target(2))
