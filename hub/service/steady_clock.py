"""Read the clocks of a hub's machine: the wall clock, which is not followed at once where it steps by more than a day."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tuf.api.metadata import Timestamp

from hub.core.publish.believed_time import BelievedTime
from hub.core.publish.metadata_expiry import life
from hub.signing.metadata_files import files_of
from schemas.analytics_messages import Alert
from schemas.errors import Code, FleetcastError


def elapsed() -> float:
    """Return seconds of a clock that only rises, and that runs while the machine sleeps where there is such a clock."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)  # Linux's
    return time.clock_gettime(boot) if boot is not None else time.monotonic()


class SteadyClock:
    """Give the time that a hub signs by, to any of its threads."""

    def __init__(
        self, newest_signed: float | None, *, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = elapsed
    ) -> None:
        self._wall, self._elapsed, self._lock = wall, elapsed, threading.Lock()
        self._believed = BelievedTime(newest_signed)

    def __call__(self) -> float:
        """Return seconds since 1970."""
        with self._lock:
            return self._believed.at(self._wall(), self._elapsed())

    def is_guess(self) -> bool:
        """Return whether nobody should be told this time: the clock has made no sense since the start, and that is all that is known."""
        self()
        return self._believed.is_guess

    def is_held(self) -> bool:
        """Return whether the machine's clock is not followed now, because it has stepped or makes no sense."""
        self()
        return self._believed.differs != 0.0

    def alert(self) -> Alert | None:
        """Return what an operator should know of the clock; None while it is believed."""
        at, seconds = self(), self._believed.differs
        if not seconds:
            return None
        days = f"{abs(seconds) / 86_400:.0f} days {'ahead of' if seconds > 0 else 'behind'}"
        minutes = f"{self._believed.held_seconds / 60:.0f} minutes"
        if self._believed.is_guess:
            text = (
                f"the clock of the hub's machine is {days} its newest signature: the hub was off for so long, or the clock is wrong; it"
                f" goes by that signature, and follows the clock if it stays so for {minutes}; until then no device can enrol or renew"
            )
        else:
            text = (
                f"the clock of the hub's machine is {days} what this hub knows; it goes on by its own count, and follows the clock if it"
                f" stays so for {minutes}"
            )
        return Alert(kind="refused", at=int(at), code=str(Code.CLOCK_STEPPED), text=text)


def is_held(wall: Callable[[], float]) -> bool:
    """Return whether a hub's clock is not followed now; another clock than a hub's always is."""
    return isinstance(wall, SteadyClock) and wall.is_held()


def steady_clock_of(directory: Path) -> SteadyClock:
    """Return the clock of the hub of a fleet's folder, which knows when its newest metadata was signed, if that can be read."""
    newest: float | None = None
    with suppress(FleetcastError):  # What is wrong with it, the hub says where it needs it.
        files = files_of(directory / "trust")
        with files.locked():
            newest = (files.newest("timestamp", Timestamp).signed.expires - life("timestamp")).timestamp()
    return SteadyClock(newest)
