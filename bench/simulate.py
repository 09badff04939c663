"""What `fleetcast simulate` costs for 100,000 nodes: time and memory of the real command on its example, and how far its model is off."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Figure

NODES, SEED = 100_000, 1
PROGRAM = Path(sys.executable).with_name("fleetcast")


def measure() -> list[Figure]:
    """The file that `--example` prints, at 100,000 nodes, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file, printed = Path(folder) / "fleet.toml", Path(folder) / "outcome.json"
        file.write_bytes(subprocess.run([PROGRAM, "simulate", "--example"], check=True, capture_output=True).stdout)
        with printed.open("wb") as out:
            began = time.perf_counter()
            running = subprocess.Popen([PROGRAM, "simulate", file, "--nodes", str(NODES), "--seed", str(SEED), "--json"], stdout=out)
            rss_kib = 0
            while running.poll() is None:
                rss_kib = max(rss_kib, _peak_kib(running.pid))
                time.sleep(0.1)
            took = time.perf_counter() - began
        assert running.returncode == 0
        found = json.loads(printed.read_text())
    days, sampled = found["simulated_seconds"] / 86_400, found["sampled"]
    return [
        Figure(
            f"simulate.{NODES}_s",
            took,
            f"s, {days:.1f} days of the fleet, {sampled} nodes by the cores",
            "<= 600",
            "",
            None,
        ),
        Figure("simulate.rss_mib", rss_kib / 1024, f"MiB at most, {NODES:,} nodes", "", "", None),
        Figure("simulate.model_error", found["agreement"]["worst"], "of the cores' times and bytes, on the sample", "<= 0.05", "", None),
    ]


def _peak_kib(pid: int) -> int:
    """Its own peak: what `getrusage` says of a child begins with the size of this process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
