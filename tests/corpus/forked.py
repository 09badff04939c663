"""Start worker processes by a fork of a process that has imported what they import: a tenth of the time, thousands of times.

Everything else is the product's: the agent's end is `node.workers.worker_handle`, and the process runs `node.workers.worker_main`.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from typing import Any
from unittest.mock import patch

from node.workers import worker_handle, worker_main
from tests.warm import FORKS


class Forked:
    """What a `Worker` asks of its process."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self.pid = process.pid

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("worker", timeout)
        self._process.close()
        return code


@contextmanager
def workers() -> Iterator[None]:
    """Have the workers that are started here forked."""
    with patch.object(worker_handle, "_spawn", _fork):
        yield


def _fork(theirs: socket.socket, cancels: int, threads: int, how: str) -> Forked:
    del threads, how  # the first is in the frame that loads the model, and nobody is served meanwhile who would need a quiet start
    with theirs:
        try:
            process = FORKS.Process(target=_answer, args=(theirs, _Descriptor(cancels)), daemon=True)
            process.start()
            return Forked(process)
        finally:
            os.close(cancels)


class _Descriptor:
    """A descriptor that is sent along with a process's arguments."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.number),)


def _received(sent: Any) -> "_Descriptor":
    return _Descriptor(sent.detach())


def _answer(connection: socket.socket, cancels: _Descriptor) -> None:
    with connection:
        sys.exit(worker_main.answer(connection, cancels.number, quiet=False))
