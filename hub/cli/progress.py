"""How far long work is: bars where somebody looks, now and then a line where stderr is a file or a pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

UNITS = {  # What is counted, by the first word of a step; of others only the time left is known.
    "blocks": "blocks",
    "encoding": "B",
    "intervals": "intervals",
    "measuring": "rows",
    "profiles": "profiles",
    "running": "rows",
}
PACE_SECONDS_MIN = 1.0  # before that a rate means nothing
SECONDS_BETWEEN = 5.0  # two lines, and before the first: what is done sooner says nothing

Tell = Callable[[str, int, int], None]  # what, how many are done, of how many


class Reporter:
    """Report how far work is, and get out of the way of what is printed meanwhile."""

    def __init__(self, tell: Tell, bars: Progress | None = None) -> None:
        self._tell, self._bars = tell, bars

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report a step."""
        if self._bars is not None and not self._bars.live.is_started:
            self._bars.start()
        self._tell(what, done, total)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bars off the terminal while something is printed or asked. They come back with the next step, if there is one."""
        if self._bars is not None:
            self._bars.stop()
            for task in self._bars.tasks:
                self._bars.update(task.id, visible=False)  # What was done before the question is not drawn again behind it.
        yield


class Paces:
    """Say how fast each step goes, and how long it still takes at this rate."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}

    def words(self, what: str, done: int, total: int, now: float) -> str:
        """Return rate and time left, such as "12.3 MB/s, 40 s left"; "" while they are not known."""
        began, before = self._begun.setdefault(what, (now, done))
        if now - began < PACE_SECONDS_MIN or done <= before or total <= 0:
            return ""
        rate = (done - before) / (now - began)
        unit = UNITS.get(what.partition(" ")[0])
        left = f"{_duration(max(total - done, 0) / rate)} left"
        return f"{_rate(rate, unit)}, {left}" if unit is not None else left


def _rate(rate: float, unit: str) -> str:
    if unit == "B":
        return f"{rate / 1e6:.1f} MB/s" if rate >= 1e5 else f"{rate / 1e3:.1f} kB/s"
    return f"{rate:.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress() -> Iterator[Reporter]:
    """Show a bar for each step, on stderr when it is a terminal; otherwise lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Reporter(lines(console.file, time.monotonic))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}
        paces = Paces()

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, pace="")
            bars.update(tasks[what], completed=done, visible=True, pace=paces.words(what, done, total, time.monotonic()))

        yield Reporter(report, bars)


def lines(target: IO[str], clock: Callable[[], float]) -> Tell:
    """Write at most a line every five seconds, so that a log of a long publish shows that it lives, and is not filled by it."""
    last, paces = clock(), Paces()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = clock()
        pace = paces.words(what, done, total, now)
        if now - last < SECONDS_BETWEEN:
            return
        last = now
        share = f"{min(done / total, 1):.0%}" if total > 0 else "begun"
        target.write(f"{what}: {share}{', ' if pace else ''}{pace}\n")
        target.flush()

    return report
