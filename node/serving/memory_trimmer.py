"""Give the memory of large requests back to the system, a moment after the last of them. Knows no request."""

import asyncio
from typing import Final

from fleetcast.memory_trim import LARGE_BYTES, trim_memory

SECONDS: Final = 2.0  # until telemetry has counted the rows and let them go; several large requests in a row are one


class MemoryTrimmer:
    """Trim in a thread: requests need not wait for it."""

    def __init__(self) -> None:
        self._due: asyncio.TimerHandle | None = None

    def noticed(self, size: int) -> None:
        """Take note of a request that, with its answer, had so many bytes."""
        if size < LARGE_BYTES:
            return
        if self._due is not None:
            self._due.cancel()
        self._due = asyncio.get_running_loop().call_later(SECONDS, self._trim)

    def _trim(self) -> None:
        self._due = None
        asyncio.get_running_loop().run_in_executor(None, trim_memory)
