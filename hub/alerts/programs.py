"""Run one program of the operator's to its end within bounds: time, output, environment. Knows no alert.

Its input comes from a file, so that we never wait for it to read. The end of its output is kept, however long the output is. It has a
process group of its own, which ends as a whole: a process left behind would hold its output open.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TAIL_BYTES_MAX = 8 * 1024
GRACE_SECONDS = 10.0  # Time between SIGTERM and SIGKILL.
LOOK_SECONDS = 0.1
CHUNK_BYTES = 64 * 1024
PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")  # Variables that are passed on; others may hold secrets.


@dataclass(frozen=True, slots=True)
class Outcome:
    """Describe how it ended; `exit_code` is negative for a signal, None if it never ran. `tail` is the end of its output."""

    how: Literal["ended", "timed_out", "stopped", "not_started"]
    exit_code: int | None
    tail: str
    seconds: float


def run(
    argv: Sequence[str],
    *,
    stdin: Path,
    directory: Path,
    environment: Mapping[str, str],
    timeout_seconds: float,
    stopped: Callable[[], bool],
) -> Outcome:
    """Run a program until it ends, its time is over, or `stopped` returns true."""
    began = time.monotonic()
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    try:
        with stdin.open("rb") as given:
            process = subprocess.Popen(
                list(argv),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**passed, **environment},
                start_new_session=True,
            )
    except (OSError, ValueError) as error:  # ValueError: an argument has a null byte.
        return Outcome("not_started", None, f"{argv[0]}: {getattr(error, 'strerror', None) or error}", time.monotonic() - began)
    tail = bytearray()
    reader = threading.Thread(target=_keep_tail, args=(process, tail), daemon=True)
    reader.start()
    how: Literal["ended", "timed_out", "stopped"] = "ended"
    while not _ended(process.pid, LOOK_SECONDS):
        if stopped() or time.monotonic() - began >= timeout_seconds:
            how = "stopped" if stopped() else "timed_out"
            _signal_all(process.pid, signal.SIGTERM)
            _ended(process.pid, GRACE_SECONDS)
            break
    _signal_all(process.pid, signal.SIGKILL)  # The group is killed before its number is free again.
    exit_code = process.wait()
    reader.join(GRACE_SECONDS)
    return Outcome(how, exit_code, tail.decode(errors="replace"), time.monotonic() - began)


def _ended(pid: int, seconds: float) -> bool:
    """Return whether it ends within this time; its number stays taken, so that its group can still be signalled."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _signal_all(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _keep_tail(process: "subprocess.Popen[bytes]", tail: bytearray) -> None:
    if process.stdout is None:
        return
    with process.stdout as pipe:
        while chunk := os.read(pipe.fileno(), CHUNK_BYTES):
            tail += chunk
            del tail[:-TAIL_BYTES_MAX]
