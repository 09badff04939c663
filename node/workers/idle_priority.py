"""Work that waits for an idle processor, so that nobody who is served waits for it. Imports next to nothing."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

QUIET: Final = "quiet"  # the argument that has a worker process start quietly
LOUD: Final = "loud"


def in_thread(work: Callable[[], T], *, quiet: bool) -> T:
    """Return what `work` returns or raises; quiet: done by a thread that runs only when no other wants the processor.

    A thread of its own, since it could not go back: without privilege, SCHED_IDLE is for good.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        if quiet:
            _only_when_idle()
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    try:
        thread.start()
    except RuntimeError as refused:  # there is no memory for its stack
        raise MemoryError(str(refused)) from None
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # there is one where there is no error


def _only_when_idle() -> None:
    """Lower the priority of the calling thread, for good. A niceness of 10, measured, still made some requests wait for a whole time
    slice.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
