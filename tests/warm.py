"""Run `fleetcast` and `fleetcast-node` in processes of their own, which begin with most modules already imported.

Nine tenths of a short command's CPU is spent on imports, the same ones every time. A server process imports them once for each process
of tests, and forks for every command. Arguments, environment, folder, streams, the command's own modules and its end are as an operator
has them. A test of how a command starts, of its interpreter, or of a process that stays uses `subprocess` and the installed program.
"""

import atexit
import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

Program = Literal["fleetcast", "fleetcast-node"]
BIN = Path(sys.executable).parent
ENTRIES: dict[Program, str] = {"fleetcast": "hub.__main__", "fleetcast-node": "node.__main__"}
AT_IMPORT = dict(os.environ)  # what the server began with; a test may have changed the environment since
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "OPENBLAS", "OMP_")  # variables that a running interpreter does not read again

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
    read = {name for name in (*environment, *AT_IMPORT) if name.startswith(READ_AT_START)}
    if any(environment.get(name) != AT_IMPORT.get(name) for name in read):
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


def _main(program: Program, words: Sequence[str], environment: Mapping[str, str], cwd: Path, streams: Sequence[Path]) -> None:
    """Be the installed program, with these arguments, environment, folder and standard streams."""
    for number, (path, flags) in enumerate(zip(streams, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(BIN / program), *words]
    try:
        importlib.import_module(ENTRIES[program]).main()
    finally:
        atexit._run_exitfuncs()
