"""A store that times out now and then is one spell of trouble, and is well only after a while without."""

from hub.core.delivery.store_health import SLOW_SECONDS, WELL_SECONDS, StoreHealth


def test_a_store_is_away_from_its_first_failure_until_all_went_well_for_a_while() -> None:
    health = StoreHealth().failed("it does not answer", now=0)
    assert (health.trouble, health.is_strained, health.failures) == ("away", True, 1)

    health = health.answered(0.1, now=1)
    assert (health.trouble, health.is_strained, health.failures) == ("away", False, 0)  # Not an end and a beginning of two spells.
    assert health.failed("again", now=2).answered(0.1, now=WELL_SECONDS).trouble == "away"
    assert health.answered(0.1, now=WELL_SECONDS) == StoreHealth()


def test_a_store_is_slow_when_an_answer_took_long_or_does_not_come() -> None:
    slow = StoreHealth().answered(SLOW_SECONDS, now=0)
    waited = StoreHealth().waited(SLOW_SECONDS, now=0)

    assert (slow.trouble, waited.trouble, slow.is_strained) == ("slow", "slow", False)
    assert StoreHealth().waited(SLOW_SECONDS - 1, now=0) == StoreHealth().answered(SLOW_SECONDS - 1, now=0) == StoreHealth()
    assert slow.failed("it does not answer", now=1).trouble == "away"
    assert slow.failed("it does not answer", now=1).answered(SLOW_SECONDS, now=2).is_strained  # One payload at a time is still slow.
    assert slow.answered(0.1, now=WELL_SECONDS) == StoreHealth()
