"""How many messages of one sender are taken in a minute."""

from hub.core.floods.sender_rates import BURST_MINUTES, SENDERS_MAX, SenderRates


def admitted(rates: SenderRates, sender: str, count: int, now: float, lane: str = "receipt") -> int:
    return sum(rates.admit(lane, sender, now) for _ in range(count))


def test_a_sender_may_send_a_burst_and_then_its_rate() -> None:
    rates = SenderRates({"receipt": 60})

    assert admitted(rates, "n1", 10_000, 0.0) == 60 * BURST_MINUTES
    assert admitted(rates, "n1", 10_000, 5.0) == 5
    assert admitted(rates, "n2", 100, 5.0) == 100
    assert admitted(rates, "n1", 10_000, 5.0 + 3600) == 60 * BURST_MINUTES


def test_a_lane_without_a_rate_or_with_none_is_not_limited() -> None:
    rates = SenderRates({"telemetry": 0})

    assert admitted(rates, "m/nyc", 100_000, 0.0, "telemetry") == 100_000
    assert admitted(rates, "n1", 100_000, 0.0, "want") == 100_000


def test_a_bounded_number_of_senders_is_remembered() -> None:
    rates = SenderRates({"state": 60})
    for number in range(SENDERS_MAX + 100):
        rates.admit("state", f"n{number}", 0.0)

    assert len(rates._senders) == SENDERS_MAX
