"""How a run of the tests ended, beside pytest's own cache: what `.ci/again` goes by. Its last line names what was skipped, and why.

Knows nothing of what is tested.
"""

from collections import Counter
from collections.abc import Generator
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
        self.skipped: dict[str, str] = {}  # why, by test, or by file where a whole file says so

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.bad[report.nodeid] = max(_how(report), self.bad.get(report.nodeid, "failed"), key=ORDER.index)
        elif report.skipped:
            self.skipped[report.nodeid] = _why(report)
        elif report.passed and report.when == "call":
            self.passed.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.bad[report.nodeid] = "not collected"
        elif report.skipped:
            self.skipped[report.nodeid] = _why(report)

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest's own, which ends with its count: after this nothing is printed
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
        passed = len(self.passed - self.bad.keys())
        told: dict[str, Any] = {"exit_code": int(exitstatus), "passed": passed, "bad": self.bad, "skipped": self.skipped}
        cache = getattr(session.config, "cache", None)  # there is none under `-p no:cacheprovider`
        if cache is not None:
            cache.set(NAME, told)
        yield
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and not session.config.option.collectonly:
            terminal.ensure_newline()
            terminal.write_line(said_of(self.skipped))


ORDER: tuple[How, ...] = ("failed", "timed out", "crashed", "not collected")


def said_of(skipped: dict[str, str]) -> str:
    """All that was skipped in one line: the tests by file, and the reason of each."""
    if not skipped:
        return "skipped: nothing"
    counts: dict[str, Counter[str]] = {}
    for test, why in skipped.items():
        counts.setdefault(why, Counter())[_place(test, skipped)] += 1
    said = (f"{', '.join(_counted(place, count) for place, count in places.items())} ({why})" for why, places in counts.items())
    return f"skipped, {len(skipped)} in all: {'; '.join(said)}"


def _place(test: str, skipped: dict[str, str]) -> str:
    """The test; its function where other cases were skipped too for the same reason; its file where other functions were."""
    path, _, name = test.partition("::")
    function = name.partition("[")[0]
    alike = [other for other, why in skipped.items() if why == skipped[test] and other.partition("::")[0] == path]
    if len(alike) == 1 or not name:
        return test
    return f"{path}::{function}" if all(other.partition("::")[2].partition("[")[0] == function for other in alike) else path


def _counted(place: str, count: int) -> str:
    return place if count == 1 else f"{count} of {place}"


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason in one line, without pytest's own word before it."""
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}".removesuffix(": ")
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(said.removeprefix("Skipped: ").split()) or "no reason given"


def _how(report: pytest.TestReport) -> How:
    if report.when not in PHASES:  # xdist tells of a process that died in words of its own
        return "crashed"
    return "timed out" if "from pytest-timeout" in report.longreprtext else "failed"


def follow(config: pytest.Config) -> None:
    """Write down how this run ends; the processes that xdist starts leave that to the one that started them."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Ended(), "ended")
