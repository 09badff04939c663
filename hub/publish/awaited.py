"""Wait for a coroutine that a thread beside runs: Ctrl-C ends the wait at once, which a call into a native library would not allow."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def begun(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Begin a coroutine; to cancel the future ends what it waits for."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop(os.getpid()))


def awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, or raise what it raises. It is ended where the wait is."""
    running = begun(coroutine)
    try:
        return running.result()
    finally:
        running.cancel()


@cache
def _loop(_process: int) -> asyncio.AbstractEventLoop:
    """Return the loop of this process, which a child does not inherit. Its thread ends with the process and keeps none from its end."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="awaited", daemon=True).start()
    return loop
