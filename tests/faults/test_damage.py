"""A byte is flipped in each file of a device's and of a hub's folder, and clocks are set wrong, in the simulated fleet: see damage.py."""

import pytest

from tests.faults import shim
from tests.faults.damage import JUMPS, LIFE
from tests.faults.test_every_change import Count, judged, outcomes

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shim.compiler() is None, reason="no C compiler: `apt-get install gcc libc6-dev`"),
]
FILES_MAX = {"n0": 24, "hub": 48}
BYTES = 2  # places tried in each file


@pytest.mark.parametrize("victim", ["n0", "hub"])
def test_a_flipped_byte_in_any_file_is_found_and_mended(victim: str, count: Count) -> None:
    cases = [
        {"scenario": "flip", "victim": victim, "how": "flip", "at": number, "seed": seed}
        for number in range(FILES_MAX[victim])
        for seed in range(BYTES)
    ]

    found = outcomes(cases, module="tests.faults.damage")

    names = {name for one in found for name in one["kinds"]}
    assert len(names) < FILES_MAX[victim], "there are more files than are tried"
    assert len(names) > 5
    judged(found, count, module="tests.faults.damage")


@pytest.mark.parametrize("victim", ["n0", "hub"])
def test_a_clock_that_jumps_loses_nothing(victim: str, count: Count) -> None:
    cases = [
        {"scenario": "clock", "victim": victim, "how": "jump", "at": place * len(JUMPS) + jump, "seed": place}
        for place in range(1, len(LIFE))
        for jump in range(len(JUMPS))
    ]

    found = outcomes(cases, module="tests.faults.damage")

    for one in found:
        one["struck"] = 1
    judged(found, count, module="tests.faults.damage")
