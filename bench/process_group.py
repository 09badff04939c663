"""Start a process that does not outlive the bench, nor do its children: `python bench/process_group.py SECONDS` is the watchdog beside it.

A bench that is killed runs no `finally`. The kernel closes its end of a pipe, and the watchdog that reads from it then ends the group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GRACE_SECONDS = 30.0  # A server that is asked to end may answer what it has begun; then it is killed.


@contextlib.contextmanager
def process_group(command: list[str], *, grace_seconds: float = GRACE_SECONDS, **popen: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command in a group of its own, and end the group at exit, also when this process is killed before."""
    watchdog = subprocess.Popen([sys.executable, __file__, str(grace_seconds)], stdin=subprocess.PIPE, start_new_session=True)
    assert watchdog.stdin is not None
    try:
        process = subprocess.Popen(command, start_new_session=True, **popen)
        watchdog.stdin.write(f"{process.pid}\n".encode())
        watchdog.stdin.flush()
        try:
            yield process
        finally:
            watchdog.stdin.close()
            left = watchdog.wait(grace_seconds + 15)
            process.wait(5)
            assert left == 0, f"processes of {command[0]} are left"
    finally:
        watchdog.stdin.close()
        watchdog.wait(grace_seconds + 15)


def members(group: int) -> list[int]:
    """Return the processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = path.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def _end(group: int, grace_seconds: float) -> bool:
    """Return whether nothing of the group is left: asked to end first, and killed afterwards."""
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        until = time.monotonic() + seconds
        while members(group):
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        else:
            return True
    return False


if __name__ == "__main__":
    line = sys.stdin.readline()
    sys.stdin.read()  # Until the bench closes its end, or is no more.
    if line.strip():
        sys.exit(0 if _end(int(line), float(sys.argv[1])) else 1)
