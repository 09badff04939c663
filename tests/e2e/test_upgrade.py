"""A fleet is never upgraded at once: a hub with nodes of the version before, and nodes with a hub of the version before, go on working."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
from sklearn.datasets import load_diabetes

from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.manifest import Manifest
from tests import brokers, warm
from tests.e2e.test_path import BIN, Plant, until
from tests.earlier_version import BEFORE_DEPLOYMENTS, programs

pytestmark = pytest.mark.timeout(400)


@dataclass
class Mixed(Plant):
    """A plant whose hub and nodes are of different versions."""

    hub_bin: Path = BIN
    node_bin: Path = BIN

    def age_settings(self) -> list[str]:
        return super().age_settings() if self.hub_bin == BIN else []  # An earlier hub knows no such setting.

    def cli(self, *arguments: str, code: int = 0) -> Any:
        if self.hub_bin == BIN:
            return super().cli(*arguments, code=code)
        env = {**os.environ, "FLEETCAST_DIR": str(self.fleet)}
        command = [str(self.hub_bin / "fleetcast"), *arguments, "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else None

    def run(self, name: str, command: list[str]) -> warm.Running:
        program = Path(command[0]).name
        return super().run(name, [str((self.hub_bin if program == "fleetcast" else self.node_bin) / program), *command[1:]])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[brokers.Broker]:
    with brokers.running("embedded", tmp_path / "broker") as running:
        yield running


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return programs(BEFORE_DEPLOYMENTS, tmp_path / "earlier")


def follows(plant: Mixed, then: Callable[[Mixed], None] = lambda plant: None) -> None:
    """Publish, roll out, roll a second release out, and go back: every step is served and signed."""
    try:
        plant.start()
        plant.start_node("node-a")
        until("the node", lambda: len(plant.cli("nodes")) == 1)
        for version, alpha in (("1.0.0", 1.0), ("1.1.0", 50.0)):
            plant.publish(version, alpha)
            plant.cli("rollout", "start", f"diabetes@{version}", "--wait", "--timeout-seconds", "200")
            serves(plant, version)
        plant.cli("rollout", "back", "diabetes")
        serves(plant, "1.0.0")
        for name in ("hub", "node-a"):
            log = (plant.directory / f"{name}.log").read_text()
            assert not [line for line in log.splitlines() if "refused" in line or "bug." in line or "Traceback" in line]
        then(plant)
    finally:
        plant.stop()


def serves(plant: Mixed, version: str) -> None:
    row = load_diabetes().data[:1].astype("float32")
    until(f"{version} at the endpoint", lambda: plant.infer("node-a", row)["model_version"] == version)
    until(f"the receipt for {version}", lambda: [one["serving_version"] for one in plant.cli("nodes")[0]["models"]] == [version])


def refuses_a_newer_manifest(plant: Mixed) -> None:
    """Publish a release with an optional section that no older node takes: the rollout says which node, and why."""
    repository = Repository(plant.fleet / "trust")
    newer = {
        **msgpack.unpackb(repository.manifest("diabetes", "1.1.0")),
        "@.": Manifest.schema_minor + 1,
        "version": "1.2.0",
        "why": "shap",
    }
    team = load_signer(plant.fleet / "keys" / "team.pem", b"test")
    repository.add_release("diabetes", "1.2.0", msgpack.packb(codec._canonical(newer)), team=team, now=datetime.now(UTC))
    plant.cli("rollout", "start", "diabetes@1.2.0")

    def status() -> Any:
        return plant.cli("rollout", "status")[0]

    until("the halt", lambda: status()["state"] == "halted")
    assert (status()["failed"], [one["node"] for one in status()["refused"]]) == (1, ["node-a"])
    assert [(one["kind"], one["model"], one["code"]) for one in plant.cli("nodes")[0]["findings"]] == [
        ("model", "diabetes", "schema.malformed")
    ]
    serves(plant, "1.0.0")


def test_an_older_node_follows_a_newer_hub_and_what_it_refuses_is_seen(broker: brokers.Broker, earlier: Path, tmp_path: Path) -> None:
    follows(Mixed(tmp_path, broker, node_bin=earlier), refuses_a_newer_manifest)


def test_a_newer_node_follows_an_older_hub(broker: brokers.Broker, earlier: Path, tmp_path: Path) -> None:
    follows(Mixed(tmp_path, broker, hub_bin=earlier))


def test_the_earlier_programs_run_nothing_of_this_checkout(earlier: Path) -> None:
    ask = (
        "import fleetcast, hub, node, schemas, schemas.codec;"
        "print(*(one.__file__ for one in (fleetcast, hub, node, schemas)), hasattr(schemas.codec, 'MINOR_KEY'))"
    )

    said = subprocess.run([str(earlier / "python"), "-c", ask], capture_output=True, text=True, check=True, cwd="/").stdout.split()

    assert all(path.startswith(str(earlier.parent)) for path in said[:4])
    assert said[4] == "False"
