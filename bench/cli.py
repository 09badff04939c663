"""What a command costs before it does anything: processor time beside that of a bare Python, started in turns."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure
from hub.database.rows import NodeRow, ReceiptRow
from hub.database.store import Store
from schemas import codec
from schemas.receipt import Evidence, Receipt, SealedReceipt
from schemas.state import Profile, Slot, State

NODES = 10
RUNS = 15  # the least of them: everything else that runs only adds
BIN = Path(sys.executable).parent
HELP_GOAL, NODES_GOAL = "<= 5", "<= 15"
DIGEST, VERSION = bytes(range(32)), "1.0.0"


def measure() -> Sequence[Figure]:
    """Measure --help of both command lines, and `fleetcast nodes` on a fleet of ten."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = make_fleet(Path(folder))
        commands = {
            "bare": [sys.executable, "-c", "pass"],
            "help": [str(BIN / "fleetcast"), "--help"],
            "node_help": [str(BIN / "fleetcast-node"), "--help"],
            "nodes": [str(BIN / "fleetcast"), "nodes", "--dir", str(fleet)],
        }
        least = dict.fromkeys(commands, float("inf"))
        for _ in range(RUNS):
            for name, command in commands.items():
                least[name] = min(least[name], _cpu_seconds(command))

    def figure(name: str, goal: str) -> Figure:
        return Figure(f"cli.{name}_ratio", least[name] / least["bare"], "x the CPU time", goal, "python -c pass (ms)", 1000 * least["bare"])

    return [figure("help", HELP_GOAL), figure("node_help", HELP_GOAL), figure("nodes", NODES_GOAL)]


def make_fleet(folder: Path) -> Path:
    """Make a fleet whose ten nodes have reported, and serve a release by their receipts."""
    secret, fleet = folder / "secret", folder / "fleet"
    secret.write_text("bench\n")
    secret.chmod(0o600)
    made = [str(BIN / "fleetcast"), "init", str(fleet), "--fleet", "bench", "--model", "delay"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "FLEETCAST_PASSPHRASE_FILE": str(secret)})
    store, now = Store(f"sqlite:///{fleet / 'hub.sqlite'}"), int(time.time())
    store.open()
    for number in range(NODES):
        node = f"gateway-{number}"
        slot = Slot(model="delay", state="active", serving=DIGEST, serving_version=VERSION, bytes_planned=4096, bytes_received=4096)
        profile = Profile(arch="aarch64", cores=4, memory_bytes=2**30, labels={"line": "a"})
        state = State(node=node, session=1, status="online", at=now, software="0.1.0", cohort="plant", profile=profile, slots=(slot,))
        receipt = Receipt(
            node=node, sequence=1, at=now, outcome="serving", model="delay", version=VERSION, digest=DIGEST, since=now, evidence=Evidence()
        )
        sealed = codec.encode(SealedReceipt(body=codec.encode(receipt), signature=b"unread"))
        store.upsert_node(NodeRow(node, 1, "online", now, codec.encode(state), b"", "plant"))
        store.add_receipts([ReceiptRow(node, 1, now, now, "serving", "delay", VERSION, DIGEST, now, "", "", sealed)])
    store.close()
    return fleet


def _cpu_seconds(command: Sequence[str]) -> float:
    """Run a command, and return its user and system time.

    Raises:
        CalledProcessError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
