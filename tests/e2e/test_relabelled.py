"""A canary that is given other labels while it serves the canary's release, by the real commands and processes."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.brokers import running
from tests.e2e.test_path import Plant, until
from tests.e2e.test_stages import WAITS, served

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with running("embedded", tmp_path / "broker") as broker:
        made = Plant(tmp_path, broker)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def test_a_node_that_was_relabelled_belongs_to_where_it_now_is(plant: Plant) -> None:
    for name, ring in {"a1": "canary", "a2": "canary", "b1": "main"}.items():
        plant.node_settings = (f'labels = {{ring = "{ring}"}}', "state_seconds = 5")
        plant.start_node(name)
    for number in range(2):
        plant.publish(f"1.{number}.0", 1.0 + number)
    until("the nodes", lambda: len(plant.cli("nodes")) == 3)
    plant.cli("rollout", "start", "diabetes@1.0.0", *WAITS)
    plant.cli("rollout", "start", "diabetes@1.1.0", "--label", "ring=canary", *WAITS)

    plant.nodes["a2"][0].terminate()
    plant.nodes["a2"][0].wait(100)
    settings = plant.directory / "a2" / "node.toml"
    settings.write_text(settings.read_text().replace('"canary"', '"main"'))
    plant.start_node("a2")
    until("the hub to see it", lambda: plant.cli("rollout", "status", "diabetes")[0]["nodes"] == 1)
    until("its endpoint", lambda: _answers(plant, "a2") == "1.0.0")
    assert served(plant, "a1") == "1.1.0"
    plant.cli("rollout", "back", "diabetes", "--deployment", "ring-canary")

    until("the way back", lambda: {name: served(plant, name) for name in ("a1", "a2", "b1")} == dict.fromkeys(("a1", "a2", "b1"), "1.0.0"))
    until("the count", lambda: plant.cli("rollout", "status", "diabetes")[0]["serving"] == 0)


def _answers(plant: Plant, name: str) -> str | None:
    try:
        return served(plant, name)
    except (httpx.HTTPError, AssertionError):
        return None


def test_a_running_node_that_the_hub_relabels_moves_without_a_restart(plant: Plant) -> None:
    for name in ("a1", "b1"):
        plant.node_settings = ('labels = {ring = "main"}', "state_seconds = 5")
        plant.start_node(name)
    for number in range(2):
        plant.publish(f"1.{number}.0", 1.0 + number)
    until("the nodes", lambda: len(plant.cli("nodes")) == 2)
    plant.cli("rollout", "start", "diabetes@1.0.0", *WAITS)

    changed = plant.cli("nodes", "label", "--where", "node=a1", "ring=canary", "--yes")
    plant.cli("nodes", "set", "a1", "telemetry=off", "cohort=canaries", "display-name=Gate 1")
    until("the settings in force", lambda: plant.cli("nodes", "settings", "a1")["serial_in_force"] == 2)
    plant.cli("rollout", "start", "diabetes@1.1.0", "--label", "ring=canary", *WAITS)

    assert (changed["state"], changed["nodes"]) == ("done", 1)
    assert {name: served(plant, name) for name in ("a1", "b1")} == {"a1": "1.1.0", "b1": "1.0.0"}
    found = {row["node"]: row for row in plant.cli("nodes")}
    assert (found["a1"]["labels"], found["a1"]["cohort"], found["a1"]["display_name"]) == ({"ring": "canary"}, "canaries", "Gate 1")
    assert (found["a1"]["rho_day_max"], found["b1"]["rho_day_max"] is None) == (None, False)

    plant.cli("nodes", "label", "a1", "ring-")

    until("the label that the site gave", lambda: {row["node"]: row["labels"]["ring"] for row in plant.cli("nodes")}["a1"] == "main")
