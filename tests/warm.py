"""Run `fleetcast` and `fleetcast-node` in processes of their own, which begin with most modules already imported.

Nine tenths of a short command's CPU is spent on imports, the same ones every time. A server process imports them once for each process
of tests, and forks for every command. Arguments, environment, folder, streams, the command's own modules and its end are as an operator
has them. `start` begins a hub or an agent in the same way. A test of how a program starts, of its interpreter, its memory or its
descriptors uses `subprocess` and the installed program.
"""

import atexit
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Literal

Program = Literal["fleetcast", "fleetcast-node"]
BIN = Path(sys.executable).parent
ENTRIES: dict[Program, str] = {"fleetcast": "hub.__main__", "fleetcast-node": "node.__main__"}
AT_IMPORT = dict(os.environ)  # what the server began with; a test may have changed the environment since
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "OPENBLAS", "OMP_")  # variables that a running interpreter does not read again
OF_INTERPRETER = {name: value for name, value in AT_IMPORT.items() if name.startswith(READ_AT_START)}

# One server for each process of tests, whose list of imports is one for all: whatever is to be forked from it is named here.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded", "tests.node.agent.lives"])


def run(
    program: Program,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    typed: str = "",
    seconds: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with `typed` on its standard input, and return what it printed and its exit code.

    Raises:
        subprocess.TimeoutExpired: it had not ended after `seconds`.
    """
    environment = dict(os.environ if env is None else env)
    words = [str(argument) for argument in arguments]
    if _read_anew(environment):
        command = [str(BIN / program), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd, input=typed, timeout=seconds)
    with tempfile.TemporaryDirectory(prefix="fleetcast-run-") as folder:
        streams = [Path(folder, name) for name in ("in", "out", "err")]
        for path, text in zip(streams, (typed, "", ""), strict=True):
            path.write_text(text)
        process = FORKS.Process(target=_main, args=(program, words, environment, cwd or Path.cwd(), streams))
        process.start()
        process.join(seconds)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        process.close()
        printed, complained = (path.read_text() for path in streams[1:])
        if code is None:
            raise subprocess.TimeoutExpired([program, *words], seconds, printed, complained)
        return subprocess.CompletedProcess([program, *words], code, printed, complained)


class Started:
    """A program that runs until it is ended, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, program: Program, words: Sequence[str], environment: Mapping[str, str], out: int, err: int) -> None:
        self.args = [program, *words]
        streams = [Connection(os.dup(number), readable=False) for number in (out, err)]
        self._process = FORKS.Process(target=_stay, args=(program, words, environment, Path.cwd(), *streams))
        self._process.start()
        for stream in streams:
            stream.close()
        self.pid = self._process.pid or 0
        self.stdout: IO[str] | None = None

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Running = Started | subprocess.Popen[Any]


def start(program: Program, *arguments: str | Path, log: IO[bytes] | None = None, env: Mapping[str, str] | None = None) -> Running:
    """Begin a program that stays. Its output and complaints go to `log`; without one, its output to `stdout` and its complaints nowhere."""
    environment = dict(os.environ if env is None else env)
    words = [str(argument) for argument in arguments]
    if _read_anew(environment):
        command = [str(BIN / program), *words]
        if log is not None:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    if log is not None:
        return _kept(Started(program, words, environment, log.fileno(), log.fileno()))
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as out, Path(os.devnull).open("wb") as nowhere:
        started = Started(program, words, environment, out.fileno(), nowhere.fileno())
    started.stdout = os.fdopen(reader)
    return _kept(started)


def _kept(started: Started) -> Started:
    """Have what a test that failed has left end before `multiprocessing` waits for it."""
    atexit.register(started.kill)
    return started


def _read_anew(environment: Mapping[str, str]) -> bool:
    """Whether an interpreter has to begin for this environment."""
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_START)} != OF_INTERPRETER


def _stay(program: Program, words: Sequence[str], environment: Mapping[str, str], cwd: Path, out: Connection, err: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    _be(program, words, environment, cwd)


def _main(program: Program, words: Sequence[str], environment: Mapping[str, str], cwd: Path, streams: Sequence[Path]) -> None:
    """Be the installed program, with these arguments, environment, folder and standard streams."""
    for number, (path, flags) in enumerate(zip(streams, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    _be(program, words, environment, cwd)


def _be(program: Program, words: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(BIN / program), *words]
    try:
        importlib.import_module(ENTRIES[program]).main()
    finally:
        atexit._run_exitfuncs()
