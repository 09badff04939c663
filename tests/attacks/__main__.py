"""Make every attack, as `make test-attacks` does: `python -m tests.attacks [--write] [--processes N]`."""

import argparse
import time

import pytest

from bench import tables
from bench.figures import Figure, write
from tests.attacks import page  # it adds all attacks to the list
from tests.attacks.catalogue import ATTACKS
from tests.attacks.elsewhere import ELSEWHERE
from tests.brokers import KINDS

COMMAND = "make test-attacks"
DISTINCT_MIN = 60
MARK = "attacks or not attacks"


class Outcomes:
    """What became of each attack, on whichever brokers it was made."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.broke: set[str] = set()
        self.skipped: set[str] = set()
        self.runs = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = attack_of(report.nodeid)
        if report.failed:
            self.broke.add(name)
        elif report.skipped:
            self.skipped.add(name)
        elif report.when == "call":
            self.runs += 1
            self.refused.add(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broke.add(report.nodeid)


def attack_of(test: str) -> str:
    """Return what an attack is called whichever broker it was made on."""
    for kind in KINDS:
        test = test.replace(f"[{kind}-", "[").replace(f"-{kind}]", "]").replace(f"[{kind}]", "")
    return test


def figures(outcomes: Outcomes) -> list[Figure]:
    refused = len(outcomes.refused - outcomes.broke)
    on = f"{outcomes.runs} runs, on mosquitto and the embedded broker"
    return [
        Figure("attacks.refused", refused, "attacks", f"at least {DISTINCT_MIN}", on, None, COMMAND),
        Figure("attacks.broke", len(outcomes.broke), "attacks", "0", on, None, COMMAND),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="that make attacks at the same time")
    parser.add_argument("--write", action="store_true", help="write the counts to bench/results.json, and into the pages")
    arguments = parser.parse_args()
    assert page.page() == page.PAGE.read_text(), "docs/security.md lists other attacks: python -m tests.attacks.page"
    assert len(ATTACKS) >= DISTINCT_MIN
    began, outcomes = time.monotonic(), Outcomes()
    tests = [test for those in ELSEWHERE.values() for test in those]
    ended = pytest.main(["-m", MARK, "-n", str(arguments.processes), "--dist", "loadfile", "tests/attacks", *tests], plugins=[outcomes])
    rows = figures(outcomes)
    for name in sorted(outcomes.broke):
        print(f"broke: {name}")
    for name in sorted(outcomes.skipped):
        print(f"skipped: {name}")
    if arguments.write:
        write(rows)
        tables.main([])
    print(f"{outcomes.runs} runs in {time.monotonic() - began:.0f} s")
    print(f"{rows[0].value} refused, {rows[1].value} broke")
    return 0 if ended == pytest.ExitCode.OK and not outcomes.broke and not outcomes.skipped else 1


if __name__ == "__main__":
    raise SystemExit(main())
