"""Losses of a node: the first is news at once, those that follow soon are one report with a count."""

from hub.core.floods.flapping import EPISODE_SECONDS, STEADY_SECONDS, Flapping, Flaps


def test_many_flaps_are_two_reports() -> None:
    flapping = Flapping()

    alone = [flapping.lost("n1", float(second)) for second in range(400)]

    assert alone == [True] + [False] * 399
    assert list(flapping.due(398 + STEADY_SECONDS)) == []
    assert list(flapping.due(399 + STEADY_SECONDS)) == [Flaps("n1", 399, 399.0)]
    assert list(flapping.due(5000.0)) == []


def test_a_loss_after_a_steady_time_is_news_again() -> None:
    flapping = Flapping()
    flapping.lost("n1", 0.0)
    assert list(flapping.due(STEADY_SECONDS)) == []

    assert flapping.lost("n1", STEADY_SECONDS)


def test_flapping_without_end_is_reported_once_an_hour() -> None:
    flapping, found = Flapping(), list[Flaps]()
    for second in range(0, 24 * 3600, 60):
        flapping.lost("n1", float(second))
        found += flapping.due(float(second))

    assert len(found) == 24 * 3600 // EPISODE_SECONDS - 1
    assert {one.losses for one in found} == {60}
