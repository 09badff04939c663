"""Wait for what a test needs to be so. Knows nothing of what is tested."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")
PAUSE_SECONDS: Final = 0.02
PAUSE_SECONDS_MAX: Final = 1.0


def until(what: str, probe: Callable[[], T], *, seconds: float = 100.0) -> T:
    """Wait for something to be so, and return it. A probe that runs a command leaves most of a core to the processes it waits for."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        found = probe()
        if found:
            return found
        now = time.monotonic()
        assert now < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(min(max(PAUSE_SECONDS, 2 * (now - began)), PAUSE_SECONDS_MAX))
