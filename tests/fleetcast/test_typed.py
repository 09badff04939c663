"""A program that uses a fleet is checked by `mypy --strict` against what we ship: no name or type is missing, and mistakes are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
GOOD = """
import fleetcast
import numpy as np


def publish(fleet: fleetcast.Fleet) -> int:
    release: fleetcast.PublishedRelease = fleet.publish(
        "model.onnx", name="delay", version="1.2.0", reference={"a": np.zeros(3)}, signer=fleetcast.Key("team.pem")
    )
    plan: fleetcast.Plan = fleet.plan(release, deadline="36h")
    with fleet.roll_out(release, stages=[1, "lab: site=lab", 100], soak="1h") as rollout:
        for status in rollout:
            print(status.state, status.percent + 1)
    nodes: fleetcast.Table[fleetcast.Node] = fleet.nodes(where="site=jfk")
    names: list[str] = [one.node for one in nodes]
    return plan.total_bytes + len(names)


def main() -> None:
    try:
        with fleetcast.open("./plant") as fleet:
            publish(fleet)
        publish(fleetcast.connect("https://hub.example:8443", token="..."))
    except fleetcast.Refused as error:
        print(error.code, error.reason, error.mend)
    except fleetcast.RolloutEnded as error:
        print(error.code, error.status.state if error.status else None)
"""
WRONG = """
import fleetcast

with fleetcast.open("./plant") as fleet:
    fleet.nodes(were="site=jfk")
    fleet.plan(3)
    fleet.releases()[0].size + 1
    fleet.rollout("delay").status.state
"""


@pytest.mark.slow  # mypy reads all that the names lead to
def test_a_program_is_checked_strictly_and_its_mistakes_are_found(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--no-color-output",
        f"--cache-dir={CHECKOUT}/.mypy_cache/user",
    ]

    environment = {**os.environ, "MYPYPATH": str(CHECKOUT)}
    done = subprocess.run(
        [*command, "good.py", "wrong.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
    )

    *found, last = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in found if ": error:" in line] == ["wrong.py"] * 4, done.stdout + done.stderr
    kinds = [line.rpartition("[")[2] for line in found if ": error:" in line]
    assert kinds == ["call-arg]", "arg-type]", "attr-defined]", "union-attr]"], last
