"""A named stage, an approval and a deadline, by the real commands and processes: which node moves when, and what its line says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import running
from tests.e2e.test_path import Plant, until

pytestmark = pytest.mark.timeout(400)
NODES = {"node-a": 'labels = {ring = "canary"}', "node-b": 'labels = {ring = "main"}'}


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with running("embedded", tmp_path / "broker") as broker:
        made = Plant(tmp_path, broker)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def lines(plant: Plant, *where: str) -> dict[str, tuple[str, str]]:
    found = plant.cli("rollout", "status", "diabetes", "--nodes", *where)
    return {one["node"]: (one["class"], one["serves"]) for one in found}


def test_a_stage_by_selector_moves_its_nodes_and_the_next_waits_for_approval(plant: Plant) -> None:
    for name, labels in NODES.items():
        plant.node_settings = (labels, "state_seconds = 5")
        plant.start_node(name)
    for number in range(2):
        plant.publish(f"1.{number}.0", 1.0 + number)
    until("the nodes", lambda: len(plant.cli("nodes")) == len(NODES))
    plant.cli("rollout", "start", "diabetes@1.0.0", "--wait", "--timeout-seconds", "200")
    typo = plant.cli("rollout", "start", "diabetes@1.1.0", "--stages", "canary: rign=canary; 100", code=3)
    late = plant.cli("rollout", "start", "diabetes@1.1.0", "--deadline", "2020-01-01", code=3)

    stages = ("--stages", "canary: ring=canary; 100", "--approve", "100", "--deadline", "2h", "--latency-ratio-max", "1000")
    plant.cli("rollout", "start", "diabetes@1.1.0", *stages, "--nodes-min", "1", "--retries", "1")
    until("the approval", lambda: "needs approval" in plant.cli("rollout", "status", "diabetes")[0]["reason"])
    (row,) = plant.cli("rollout", "status", "diabetes")
    before = lines(plant)
    waiting = lines(plant, "--where", "state=waiting")
    gates = {one["gate"]: one["outcome"] for one in plant.cli("rollout", "status", "diabetes", "--gates")}
    plant.cli("rollout", "approve", "diabetes")
    until("the end", lambda: plant.cli("rollout", "status", "diabetes")[0]["state"] == "done")
    after = lines(plant)

    assert "No node has a label rign. Did you mean ring?" in typo["error"]["reason"]
    assert "the deadline 2020-01-01 00:00 UTC has passed" in late["error"]["reason"]
    assert before == {"node-a": ("serving", "1.1.0"), "node-b": ("waiting", "1.0.0")}
    assert list(waiting) == ["node-b"]
    assert {name: count for name, count in row["classes"].items() if count} == {"serving": 1, "waiting": 1}
    assert gates["latency"] == "holds", "each node has measured both releases"
    assert (gates["receipts"], gates["sample"], gates["approval"]) == ("holds", "holds", "waits")
    assert after == {"node-a": ("serving", "1.1.0"), "node-b": ("serving", "1.1.0")}
