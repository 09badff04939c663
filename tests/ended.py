"""How a run of the tests ended, beside pytest's own cache: what `.ci/again` goes by. Knows nothing of what is tested."""

from typing import Any, Literal

import pytest

NAME = "fleetcast/ended"  # .pytest_cache/v/fleetcast/ended
PHASES = {"setup", "call", "teardown"}
How = Literal["failed", "timed out", "crashed", "not collected"]


class Ended:
    """Of the whole run, in the process that leads it; `how` is the worst that was told of a test."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.bad: dict[str, How] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.bad[report.nodeid] = max(_how(report), self.bad.get(report.nodeid, "failed"), key=ORDER.index)
        elif report.passed and report.when == "call":
            self.passed.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.bad[report.nodeid] = "not collected"

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        told: dict[str, Any] = {"exit_code": int(exitstatus), "passed": len(self.passed - self.bad.keys()), "bad": self.bad}
        cache = getattr(session.config, "cache", None)  # there is none under `-p no:cacheprovider`
        if cache is not None:
            cache.set(NAME, told)


ORDER: tuple[How, ...] = ("failed", "timed out", "crashed", "not collected")


def _how(report: pytest.TestReport) -> How:
    if report.when not in PHASES:  # xdist tells of a process that died in words of its own
        return "crashed"
    return "timed out" if "from pytest-timeout" in report.longreprtext else "failed"


def follow(config: pytest.Config) -> None:
    """Write down how this run ends; the processes that xdist starts leave that to the one that started them."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Ended(), "ended")
