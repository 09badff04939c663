"""Retrain when the demonstration's hub finds drift: train on the newest labelled flights, publish, and start a rollout.

This is a real program of an operator's: it knows fleetcast only by its commands, the evidence on stdin, and its environment. Labels are
those
that an airline's warehouse has by then: flights that landed before the drift was found, and no later ones.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from deploy.demo import summer

DAYS = 50  # Days of training data before the drift was found.
STAGES, SOAK_SECONDS = "34,100", 6


def main() -> int:
    """Retrain; the exit code and the last lines of output become an event of the hub."""
    evidence = json.load(sys.stdin)
    found = evidence["findings"][0]
    signals = ", ".join(signal["name"] for signal in found["alert"]["signals"])
    last = datetime.fromtimestamp(found["drift"]["start"], UTC)
    first = last - timedelta(days=DAYS)
    print(f"drift of {signals} in cohort {found['alert']['cohort']}, found on {last:%d %B}", flush=True)
    warehouse = pd.read_parquet(os.environ["WAREHOUSE"])
    frame = warehouse[(warehouse.date >= first.month * 100 + first.day) & (warehouse.date <= last.month * 100 + last.day)]
    folder = Path(os.environ["FLEETCAST_EVIDENCE"]).parent / "models"
    _, model, reference = summer.train(frame, folder, "retrained")
    print(f"trained on {len(frame)} flights from {first:%d %B} to {last:%d %B}", flush=True)
    major, minor, _ = found["alert"]["version"].split(".")
    version = f"{major}.{int(minor) + 1}.0"
    fleetcast(*summer.publish_arguments(model, reference, version))
    fleetcast("rollout", "start", f"delay@{version}", "--stages", STAGES, "--soak-seconds", str(SOAK_SECONDS), "--silent-seconds", "120")
    print(f"published {version} and started its rollout", flush=True)
    return 0


def fleetcast(*arguments: str) -> None:
    """Run one command; it inherits our output."""
    subprocess.run([str(Path(sys.executable).parent / "fleetcast"), *arguments], check=True, timeout=120, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
