"""How far long work is: bars where somebody looks, now and then a line where stderr is a file or a pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.progress import Progress

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


@contextmanager
def progress() -> Iterator[Reporter]:
    """Show a bar for each step, on stderr when it is a terminal; otherwise lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Reporter(lines(console.file, time.monotonic))
        return
    with Progress(console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, visible=True)

        yield Reporter(report, bars)


def lines(target: IO[str], clock: Callable[[], float]) -> Tell:
    """Write at most a line every five seconds, so that a log of a long publish shows that it lives, and is not filled by it."""
    last = clock()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        if clock() - last < SECONDS_BETWEEN:
            return
        last = clock()
        share = f"{min(done / total, 1):.0%}" if total > 0 else "begun"
        target.write(f"{what}: {share}\n")
        target.flush()

    return report
