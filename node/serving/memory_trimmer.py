"""Give the memory of large requests back to the system, a moment after the last of them. Knows no request."""

import asyncio
from typing import Final

from fleetcast.memory_trim import LARGE_BYTES, trim_memory

SECONDS: Final = 2.0  # until telemetry has counted the rows and let them go; several large requests in a row are one


class MemoryTrimmer:
    """Trim in a thread: requests need not wait for it."""

    def __init__(self) -> None:
        self._due: asyncio.TimerHandle | None = None
        self._again = False

    def noticed(self, size: int) -> None:
        """Take note of a request that, with its answer, had so many bytes."""
        if size < LARGE_BYTES:
            return
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(SECONDS, self._trim)
        else:
            self._again = True  # It is not put off: requests without a pause between them would keep their memory for good.

    def _trim(self) -> None:
        loop = asyncio.get_running_loop()
        self._due, again, self._again = None, self._again, False
        if again:
            self._due = loop.call_later(SECONDS, self._trim)
        loop.run_in_executor(None, trim_memory)
