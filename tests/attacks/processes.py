"""Processes of fleetcast as an attacker finds them, and what the kernel and their logs say of them."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.node.serving.served_process import cpu_seconds, memory_mib

T = TypeVar("T")
WAIT_SECONDS = 100.0


def until(what: str, probe: Callable[[], T], *, seconds: float = WAIT_SECONDS) -> T:
    """Wait for something to be so, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.02)


class Process:
    """One running command, and the lines of JSON that it logs."""

    def __init__(self, command: Sequence[str], log: Path, *, descriptors: int = 1024) -> None:
        """`descriptors`: its limit, by default the usual one."""
        self.log = log

        with log.open("ab") as file:
            self._process = subprocess.Popen(["prlimit", f"--nofile={descriptors}:{descriptors}", *command], stdout=file, stderr=file)
        self.pid = self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def memory_mib(self) -> float:
        """What it has resident now, without its workers."""
        return memory_mib(self.pid)

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    @property
    def log_bytes(self) -> int:
        return self.log.stat().st_size

    def lines(self, since: int = 0) -> list[dict[str, Any]]:
        """Whole lines that were logged behind this place in the file."""
        with self.log.open("rb") as file:
            file.seek(since)
            whole = file.read().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def logged(self, event: str, since: int = 0, **fields: Any) -> bool:
        """Whether it has logged this event with these fields."""
        return any(line["event"] == event and all(line.get(name) == value for name, value in fields.items()) for line in self.lines(since))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(100)
