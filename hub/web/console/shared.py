"""Share between viewers what takes a while to read: all nodes, rollouts, drift. Each is read again when it is too old, once for all."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from hub.operations.snapshot import Snapshots

T = TypeVar("T")
SHARE: Final = 10  # As hub/operations/snapshot.py.
KEPT_SECONDS_MIN: Final = 0.5
KEPT_MAX: Final = 256


class Shared:
    """Keep what was read for a moment, by a key. Any thread may ask; several that ask at once wait for the same one."""

    def __init__(self, snapshots: Snapshots, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.snapshots = snapshots
        self._monotonic, self._lock = monotonic, threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], tuple[float, Any]] = OrderedDict()
        self._reading: dict[tuple[object, ...], threading.Lock] = {}

    def get(self, key: tuple[object, ...], read: Callable[[], T], *, seconds: float = KEPT_SECONDS_MIN, at_most: int = KEPT_MAX) -> T:
        """Return what is kept under this key, or read it. It may be `seconds` old, and older where reading takes long.

        Of keys that begin alike `at_most` are kept, the newest: what a viewer chooses, such as a selector, must not fill the memory.
        """
        with self._lock:
            lock = self._reading.setdefault(key, threading.Lock())
        with lock:
            began = self._monotonic()
            with self._lock:
                until, found = self._kept.get(key, (float("-inf"), None))
            if began < until:
                return cast(T, found)
            fresh = read()
            ended = self._monotonic()
            with self._lock:
                self._kept[key] = ended + max(seconds, SHARE * (ended - began)), fresh
                self._kept.move_to_end(key)
                alike = [one for one in self._kept if one[0] == key[0]]
                for gone in [*alike[: max(0, len(alike) - at_most)], *list(self._kept)[: max(0, len(self._kept) - KEPT_MAX)]]:
                    self._kept.pop(gone, None)
                    self._reading.pop(gone, None)
            return fresh

    def forget(self, name: str = "") -> None:
        """Read again what is kept under keys that begin so, or everything: somebody has just changed it, and wants to see that."""
        with self._lock:
            for key in [one for one in self._kept if name in ("", one[0])]:
                del self._kept[key]
