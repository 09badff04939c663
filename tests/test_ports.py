"""Ports of tests: no two runs on one machine are given the same."""

import subprocess
import sys
from pathlib import Path

from tests.brokers import PORTS, free_port

CHECKOUT = Path(__file__).parents[1]
COUNT = PORTS.step + PORTS.step // 2  # more than one block
ANOTHER = f"""
import sys
from tests.brokers import free_port
print(*(free_port() for _ in range({COUNT})), flush=True)
sys.stdin.read()
"""


def test_two_runs_beside_each_other_never_get_the_same_port() -> None:
    with subprocess.Popen([sys.executable, "-c", ANOTHER], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = {free_port() for _ in range(COUNT)}
        other.communicate()

    assert (len(theirs), len(ours), theirs & ours) == (COUNT, COUNT, set())
