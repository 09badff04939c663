"""A trial is time in which it ran, on a clock that neither jumps nor runs while nobody looks."""

from hypothesis import given
from hypothesis import strategies as st

from node.core.activation.trial import STEP_SECONDS_MAX, UNSEEN_SECONDS_MAX, Trial


def test_time_between_two_looks_counts_only_if_it_ran_at_both() -> None:
    trial = Trial()
    for now, running in ((10.0, True), (11.0, True), (12.0, False), (13.0, True), (14.0, True)):
        trial.look(running=running, now=now)

    assert trial.seconds == 2.0


def test_a_process_that_was_stopped_has_not_served_meanwhile() -> None:
    trial = Trial()
    trial.look(running=True, now=0.0)
    trial.look(running=True, now=3600.0)

    assert trial.seconds == UNSEEN_SECONDS_MAX


def test_what_the_process_before_had_kept_is_gone_on_from() -> None:
    trial = Trial(40.0, 40.0)
    trial.look(running=True, now=5.0)  # the clock of another boot
    trial.look(running=True, now=6.0)

    assert (trial.seconds, trial.is_due(terms_seconds=45)) == (41.0, False)


@given(terms_seconds=st.floats(0, 1e6), looks=st.lists(st.floats(0, 10), max_size=50))
def test_a_restart_costs_at_most_a_step(terms_seconds: float, looks: list[float]) -> None:
    trial, now = Trial(), 0.0
    for pause in looks:
        now += pause
        trial.look(running=True, now=now)
        if trial.is_due(terms_seconds=terms_seconds):
            trial.kept_seconds = trial.seconds

    assert 0 <= trial.seconds - trial.kept_seconds <= max(1.0, min(STEP_SECONDS_MAX, terms_seconds / 20))
