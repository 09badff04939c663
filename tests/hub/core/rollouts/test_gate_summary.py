"""What a gate says of drift when there is no alarm: that there was none, that nobody has looked yet, or that nobody can."""

import pytest

from hub.core.rollouts.gate_summary import Heard, judged, stage_percent_min


@pytest.mark.parametrize(
    ("nodes", "tests", "expected"),
    [
        ({"nyc": 3}, {}, (0, "drift cannot be judged: 3 nodes in cohort nyc, 20 needed")),
        ({"nyc": 3, "bos": 1, None: 1}, {}, (0, "drift cannot be judged: 3 nodes in cohort nyc, 20 needed, and 2 more cohorts of too few")),
        ({None: 1}, {}, (0, "drift cannot be judged: 1 node in cohort of unknown name, 20 needed")),
        ({"nyc": 30}, {}, (0, "drift is not judged yet: no interval of 1.1.0 was tested in this stage")),
        ({"nyc": 30}, {"bos": 4}, (0, "drift is not judged yet: no interval of 1.1.0 was tested in this stage")),
        ({"nyc": 30}, {"nyc": 1}, (1, "no drift in 1 tested interval")),
        ({"nyc": 30, "bos": 2}, {"nyc": 4}, (4, "no drift in 4 tested intervals, but 2 nodes in cohort bos, 20 needed")),
        ({"nyc": 15}, {"nyc": 2}, (2, "no drift in 2 tested intervals")),  # some have gone silent since
        ({}, {}, (0, "drift is not judged yet: no interval of 1.1.0 was tested in this stage")),
    ],
)
def test_no_alarm_is_told_apart_from_no_test_and_from_too_few_nodes(
    nodes: dict[str | None, int], tests: dict[str, int], expected: tuple[int, str]
) -> None:
    found = judged("1.1.0", watched=True, nodes=nodes, tests=tests, nodes_min=20)

    assert expected == (found.tests, found.text)


def test_a_release_without_signals_cannot_drift_for_anybody_to_see() -> None:
    found = judged("1.1.0", watched=False, nodes={"nyc": 30}, tests={}, nodes_min=20)

    assert found.text == "drift cannot be judged: 1.1.0 watches no signals"


MIXED = "the newest interval of cohort nyc has 19 with baselines, 6 without, 20 of a kind needed"


@pytest.mark.parametrize(
    ("newest", "tests", "expected"),
    [
        ({"nyc": Heard(1, 19, 6)}, {}, f"drift cannot be judged: {MIXED}"),
        ({"nyc": Heard(1, 19, 6), "bos": Heard(1, 0, 30)}, {"bos": 2}, f"no drift in 2 tested intervals, but {MIXED}"),
        ({"nyc": Heard(1, 20, 5)}, {}, "drift is not judged yet: no interval of 1.1.0 was tested in this stage"),  # not settled yet
        ({"nyc": Heard(1, 0, 4)}, {}, "drift cannot be judged: the newest interval of cohort nyc has 4 nodes, 20 needed"),
        ({"sfo": Heard(1, 19, 6)}, {}, "drift is not judged yet: no interval of 1.1.0 was tested in this stage"),  # not of this stage
    ],
)
def test_a_cohort_of_which_too_few_are_of_a_kind_is_not_waited_for_without_a_word(
    newest: dict[str, Heard], tests: dict[str, int], expected: str
) -> None:
    found = judged("1.1.0", watched=True, nodes={"nyc": 25, "bos": 30}, tests=tests, nodes_min=20, newest=newest)

    assert found.text == expected


@pytest.mark.parametrize(("most", "expected"), [(19, None), (20, 100), (40, 50), (3000, 1), (10**6, 1)])
def test_the_smallest_stage_that_can_be_judged(most: int, expected: int | None) -> None:
    assert expected == stage_percent_min({"nyc": most, "bos": 2}, 20)
