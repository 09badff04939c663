"""A fleet moves to another host, by the real programs: its folder is copied, and nodes follow it to another broker by their settings."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from tests import brokers
from tests.e2e.test_path import BIN, Plant, until

pytestmark = pytest.mark.timeout(400)


def test_a_fleet_that_moves_keeps_its_serials_and_nodes_and_a_second_hub_is_noticed(tmp_path: Path) -> None:
    with brokers.running("embedded", tmp_path / "first") as first, brokers.running("embedded", tmp_path / "second") as second:
        plant = Plant(tmp_path, first)
        try:
            plant.start()
            plant.publish("1.0.0", 1.0)
            plant.start_node("n1")
            plant.cli("rollout", "start", "diabetes@1.0.0", "--wait", "--timeout-seconds", "100")
            (before,) = plant.cli("nodes")
            (serial,) = [row["serial"] for row in plant.cli("rollout", "status")]

            _end(plant)
            left = tmp_path / "left"
            plant.fleet.rename(left)
            shutil.copytree(left, plant.fleet)
            _point(plant.fleet / "fleet.toml", "broker_url", second.url("hub"))
            _point(tmp_path / "n1" / "node.toml", "broker", second.url("n1"))
            hub = [str(BIN / "fleetcast"), "hub", str(plant.fleet), "--passphrase-file", str(tmp_path / "secret"), "--json-logs"]
            plant.run("moved", hub)
            plant.start_node("n1")

            until("the node", lambda: (row := plant.cli("nodes")[0])["session"] > before["session"] and row["status"] == "online")
            plant.publish("1.1.0", 2.0)
            plant.cli("rollout", "start", "diabetes@1.1.0", "--wait", "--timeout-seconds", "100")
            (after,) = plant.cli("nodes")
            assert [one["serving_version"] for one in after["models"]] == ["1.1.0"]
            assert [row["serial"] for row in plant.cli("rollout", "status")] > [serial]

            twice = plant.run("twice", hub)
            assert twice.wait(60) != 0  # one folder is one hub's

            _point(left / "fleet.toml", "broker_url", second.url("hub"))
            plant.run("left", [*hub[:2], str(left), *hub[3:]])
            until("the alert", lambda: "hub.duplicate" in (tmp_path / "moved.log").read_text() + (tmp_path / "left.log").read_text())
        finally:
            plant.stop()


def _end(plant: Plant) -> None:
    for process in plant.processes:
        process.send_signal(signal.SIGTERM)
    for process in plant.processes:
        assert process.wait(100) == 0
    plant.processes.clear()


def _point(settings: Path, name: str, url: str) -> None:
    settings.write_text(re.sub(rf'^{name} = ".*"$', f'{name} = "{url}"', settings.read_text(), flags=re.MULTILINE))
