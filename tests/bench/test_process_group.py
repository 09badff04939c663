"""A server that a bench starts, and its children, end with the bench, however that ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.process_group import process_group
from tests.hub.hubs import until

ROOT = Path(__file__).parents[2]
# A server whose child does not end when it is asked to, as the workers of some servers.
SERVER = """
import os, signal, sys, time
from pathlib import Path
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(sys.argv[1], str(os.getpid())).touch()
else:
    Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(600)
"""
BENCH = """
import sys, time
from bench.process_group import process_group
with process_group([sys.executable, "-c", sys.argv[1], sys.argv[2]], grace_seconds=0.5):
    time.sleep(600)
"""


def running(folder: Path) -> list[str]:
    """Those of the server's two processes that still run."""
    found = []
    for one in folder.iterdir():
        try:
            state = Path("/proc", one.name, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [one.name] if state not in "ZX" else []
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_bench_that_is_ended_leaves_no_server_behind(number: signal.Signals, tmp_path: Path) -> None:
    bench = subprocess.Popen([sys.executable, "-c", BENCH, SERVER, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        until("both processes run", lambda: len(running(tmp_path)) == 2)
        os.kill(bench.pid, number)
        bench.wait(30)
        until("none is left", lambda: not running(tmp_path))
    finally:
        bench.kill()


def test_a_group_is_ended_where_the_bench_is_done_with_it(tmp_path: Path) -> None:
    with process_group([sys.executable, "-c", SERVER, str(tmp_path)], grace_seconds=0.5):
        until("both processes run", lambda: len(running(tmp_path)) == 2)

    assert not running(tmp_path)


def test_a_command_that_does_not_exist_leaves_no_watchdog() -> None:
    with pytest.raises(FileNotFoundError), process_group(["/no/such/server"]):
        pass
