"""Enrolment, certificates and changes of keys are struck at the changes of their files, and the same command is run again: see acts.py.

By default a fault begins at the first change of every kind, and at even distances; with FAULTS_EVERY=1 at each single change.
"""

import re
from functools import cache

import pytest

from tests.faults import shim
from tests.faults.test_every_change import EVERY, SHARES, Count, judged, outcomes

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(shim.compiler() is None, reason="no C compiler: `apt-get install gcc libc6-dev`"),
]
MODULE = "tests.faults.acts"
STRIDES = 8
AGAIN = 40  # changes until the repeated command is struck, at most
ACTS = [
    ("enrol", "site"),
    ("enrol", "fleet"),
    ("renew", "site"),
    ("renew", "fleet"),
    ("issue", "fleet"),
    ("revoke", "fleet"),
    ("rotate-online", "fleet"),
    ("rotate-all", "fleet"),
    ("ceremony", "fleet"),
]


@cache
def places(scenario: str, victim: str) -> tuple[int, ...]:
    """Return the changes at which a run's first fault begins."""
    (found,) = outcomes([{"scenario": scenario, "victim": victim, "how": "none", "at": -1}], module=MODULE)
    assert found["broken"] == []
    kinds = [re.sub(r"[0-9a-f]{32,}|\d+|(?<=pem\.)\w{8}$", "N", one) for one in found["kinds"]]
    if EVERY:
        return tuple(range(len(kinds)))
    first = {kind: number for number, kind in reversed(list(enumerate(kinds)))}
    return tuple(sorted({*first.values(), *range(0, len(kinds), max(1, len(kinds) // STRIDES))}))


@pytest.mark.parametrize(("scenario", "victim"), ACTS)
def test_an_act_that_a_fault_cuts_off_is_ended_by_the_same_command(scenario: str, victim: str, count: Count) -> None:
    cases = []
    for how, (begin, step) in SHARES.items():
        wanted = places(scenario, victim)
        for number, at in enumerate(wanted if EVERY else wanted[begin::step]):
            cases.append({"scenario": scenario, "victim": victim, "how": how, "at": at, "again": AGAIN * (number % 2), "seed": number % 7})

    found = outcomes(cases, module=MODULE)

    assert len(found) == len(cases)
    assert sum(one["struck"] for one in found) >= len(cases) // 2
    judged(found, count, module=MODULE)


# Found by this suite, and mended.
FOUND = [
    ("rotate-online", "fleet", "io", 54, 3),  # the public half of a promoted key stayed, and was taken for that of the next: a key was lost
    ("enrol", "site", "full", 108, 5),  # a full disk under the node's database was a bug
    ("ceremony", "fleet", "lost", 28, 4),  # the public half of a promoted key stayed for good
    ("issue", "fleet", "io", 36, 2),  # so was an error of the disk, in every command of the hub
]


def test_what_once_broke_in_an_act_holds(count: Count) -> None:
    cases = [
        {"scenario": scenario, "victim": victim, "how": how, "at": at, "again": AGAIN, "seed": seed}
        for scenario, victim, how, at, seed in FOUND
    ]

    judged(outcomes(cases, module=MODULE), count, module=MODULE)
