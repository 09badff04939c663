"""The processes of `fleetcast quickstart`: a hub and nodes that end with it, and commands that are run to their end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from fleetcast import interrupts
from hub.cli.errors import Ended, Exit

LOOK_SECONDS: Final = 0.05
STOP_SECONDS: Final = 15.0  # from SIGTERM to SIGKILL
TAIL_BYTES: Final = 4096
_OF_NODE: Final = {4: Exit.UNREACHABLE, 7: Exit.DISK_FULL, 8: Exit.PORT_IN_USE}  # exit codes of fleetcast-node that have one of ours


class Processes:
    """Start processes that do not outlive this one, and end them in the reverse order."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLEETCAST_") or name == "FLEETCAST_DEBUG"}
        self._environment = {**inherited, **environment}
        self._running: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def start(self, name: str, module: str, words: Sequence[str], log: Path) -> int:
        """Start one that stays, and return its process id. What it prints goes into its log."""
        with interrupts.held(), log.open("ab") as file:  # One that was started is one that is ended.
            process = self._popen(module, words, stdout=file, stderr=subprocess.STDOUT)
            self._running.append((name, process, log))
        return process.pid

    def check(self) -> None:
        """Check that all run.

        Raises:
            Ended: one does not; with its exit code and its last words.
        """
        for name, process, log in self._running:
            code = process.poll()
            if code is not None:
                is_node = name.startswith("node")
                exit_code = _OF_NODE.get(code, Exit.REFUSED) if is_node else _exit_of(code)
                raise Ended(exit_code, f"{name} has ended, with exit code {code}: {_last_line(log)}; {log} has more")

    def run(self, words: Sequence[str]) -> bytes:
        """Run a command of `fleetcast` to its end while the others run, and return what it printed.

        Raises:
            Ended: it went wrong, or another process has ended.
        """
        with interrupts.held():
            process = self._popen("hub", words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    out, err = process.communicate(timeout=LOOK_SECONDS)
                    break
                self.check()
        finally:
            _end(process, signal.SIGINT)
        if process.returncode:
            last = (err.decode(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
            raise Ended(_exit_of(process.returncode), f"`fleetcast {words[0]}` ended with exit code {process.returncode}: {last}")
        return out

    def until(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until something is so.

        Raises:
            Ended: it is not so in time, or a process has ended.
        """
        deadline = time.monotonic() + seconds
        while not done():
            self.check()
            if time.monotonic() >= deadline:
                raise Ended(Exit.TIMEOUT, f"{what}: not within {seconds:g} s; the logs beside {self._running[0][2]} say more")
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """End all: the nodes first, together; they take their leave of the hub's broker. The hub was started first."""
        hub, nodes = self._running[:1], self._running[1:]
        for _, process, _ in nodes:
            if process.poll() is None:
                process.terminate()
        for _, process, _ in (*nodes, *hub):
            _end(process, signal.SIGTERM)
        self._running.clear()

    def _popen(self, module: str, words: Sequence[str], *, stdout: int | IO[bytes], stderr: int) -> "subprocess.Popen[bytes]":
        # A session of its own: Ctrl-C is for this process alone, which ends the others in their order.
        # -P: a file of the user's that is named like a package of ours is not run in its place.
        command = [sys.executable, "-P", "-m", "fleetcast.cli.tied", str(os.getpid()), module, *words]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=self._environment,
            start_new_session=True,
        )


def _end(process: "subprocess.Popen[bytes]", number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _exit_of(code: int) -> Exit:
    return Exit(code) if code in set(Exit) else Exit.REFUSED


def _last_line(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return (file.read().decode(errors="replace").strip().splitlines() or ["it logged nothing"])[-1]
    return "it has no log"
