"""Nodes with different pasts, by the real commands and processes: which of them move, and where each goes back to."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from hub.signing import deployment_statements
from hub.signing.tuf_repository import Repository
from schemas.deployments import Deployment, position
from tests.brokers import running
from tests.e2e.test_path import Plant, until

pytestmark = pytest.mark.timeout(400)
NODES = {"node-a": 'labels = {ring = "canary"}', "node-b": "", "node-c": ""}
WAITS = ("--wait", "--timeout-seconds", "200")


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with running("embedded", tmp_path / "broker") as broker:
        made = Plant(tmp_path, broker)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def served(plant: Plant, name: str) -> str:
    return str(plant.infer(name, load_diabetes().data[:1].astype(np.float32))["model_version"])


def test_a_canarys_release_reaches_no_other_node_and_each_goes_back_to_its_own(plant: Plant) -> None:
    for name, labels in NODES.items():
        plant.node_settings = (labels, "state_seconds = 5") if labels else ("state_seconds = 5",)
        plant.start_node(name)
    for number in range(3):
        plant.publish(f"1.{number}.0", 1.0 + number)
    until("the nodes", lambda: len(plant.cli("nodes")) == len(NODES))
    plant.cli("rollout", "start", "diabetes@1.0.0", *WAITS)
    refused = plant.cli("rollout", "start", "diabetes@1.1.0", "--label", "ring=canari", code=3)
    plant.cli("rollout", "start", "diabetes@1.1.0", "--label", "ring=canary", *WAITS)
    before = {"node-a": "1.1.0", "node-b": "1.0.0", "node-c": "1.0.0"}
    until("the canary", lambda: {name: served(plant, name) for name in NODES} == before)

    plant.cli("rollout", "start", "diabetes@1.2.0", "--stages", "34,100", "--soak-seconds", "100000")
    moving = signed(plant)
    staged = {name for name in NODES if name != "node-a" and position(moving.rollout, name) < moving.threshold}
    until("the stage", lambda: all(served(plant, name) == "1.2.0" for name in staged))
    until("the gate", lambda: "the gate holds" in plant.cli("rollout", "status", "diabetes")[1]["reason"])
    during = {name: served(plant, name) for name in NODES}
    half_way = plant.cli("rollout", "start", "diabetes@1.0.0", code=3)
    plant.cli("rollout", "back", "diabetes")
    until("the way back", lambda: {name: served(plant, name) for name in NODES} == before)

    assert "none of the 3 known nodes" in refused["error"]["reason"]
    assert len(staged) == 1, "34 % of the two nodes for which the default deployment decides"
    assert during == {**before, **dict.fromkeys(staged, "1.2.0")}
    assert "still being rolled out, at 34 % of its nodes" in half_way["error"]["reason"]
    rows = plant.cli("rollout", "status", "diabetes")
    assert [(row["deployment"], row["version"], row["fallback"], row["state"]) for row in rows] == [
        ("ring-canary", "1.1.0", "1.0.0", "done"),
        ("default", "1.2.0", "1.0.0", "rolled_back"),
    ]


def signed(plant: Plant) -> Deployment:
    """The default deployment, as the hub has signed it."""
    found = deployment_statements.read(Repository(plant.fleet / "trust"), "diabetes")
    assert found is not None
    return found.deployments.deployments[-1]
