"""A release and a model that are removed while a real node serves them, by the real commands and processes."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fleetcast.mqtt_connection import Message
from schemas.topics import Topics
from tests.broker.client import Client
from tests.brokers import CONSUMER, FLEET, running
from tests.e2e.test_path import Plant, until
from tests.e2e.test_stages import WAITS, served

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with running("embedded", tmp_path / "broker") as broker:
        made = Plant(tmp_path, broker)
        try:
            made.node_settings = ("state_seconds = 5",)
            made.start()
            yield made
        finally:
            made.stop()


def remove(plant: Plant, *words: str, code: int = 0) -> dict[str, object]:
    return dict(plant.cli(*words, "--yes", "--passphrase-file", str(plant.directory / "secret"), code=code) or {})


def models_of(plant: Plant) -> list[str]:
    return [model["model"] for node in plant.cli("nodes") for model in node["models"]]


def restart(plant: Plant, name: str) -> None:
    plant.nodes[name][0].kill()
    plant.nodes[name][0].wait()
    plant.start_node(name)


def status(plant: Plant) -> int | None:
    try:
        return httpx.get(f"http://127.0.0.1:{plant.nodes['node-a'][1]}/v2/models/diabetes").status_code
    except httpx.HTTPError:
        return None


def test_nodes_keep_a_removed_release_and_stop_serving_a_removed_model(plant: Plant) -> None:
    plant.start_node("node-a")
    first = plant.publish("1.0.0", 1.0)
    until("the node", lambda: len(plant.cli("nodes")) == 1)
    plant.cli("rollout", "start", "diabetes@1.0.0", *WAITS)

    assert "nodes serve it by the model's rollout" in str(remove(plant, "releases", "remove", "diabetes@1.0.0", code=3))
    freed = remove(plant, "releases", "remove", "diabetes@1.0.0", "--force")
    restart(plant, "node-a")
    until("the node again", lambda: status(plant) == 200)
    kept = served(plant, "node-a")

    assert kept == "1.0.0"
    assert freed["nodes_serving"] == 1
    assert freed["freed_bytes"] == first["bytes_stored"]

    stopped = remove(plant, "models", "remove", "diabetes", "--force")
    until("the end of it", lambda: status(plant) == 404)
    data = plant.directory / "node-a" / "data"
    until("the disk", lambda: [path for path in (data / "artifacts").iterdir() if path.is_dir()] == [])
    until("the hub to see it", lambda: models_of(plant) == [])
    restart(plant, "node-a")
    until("the node once more", lambda: status(plant) is not None)

    assert stopped["nodes_serving"] == 1
    assert status(plant) == 404
    assert list((data / "current").iterdir()) == []
    assert plant.cli("rollout", "status") == []
    assert not plant.cli("models")
    assert _retained(plant) == b""

    plant.publish("2.0.0", 2.0)
    plant.cli("rollout", "start", "diabetes@2.0.0", *WAITS)
    assert served(plant, "node-a") == "2.0.0"
    assert plant.cli("rollout", "status", "diabetes")[0]["serial"] > 1  # nodes that were away remember the serials of before


def _retained(plant: Plant) -> bytes:
    """What a new subscriber gets for the model, before what is published for it."""
    client = Client.of(plant.broker, CONSUMER)
    client.open()
    client.subscribe(Topics(FLEET).model("diabetes"), Topics(FLEET).trust)
    while (message := client.next(Message)).topic != Topics(FLEET).trust:
        if message.payload:
            return bytes(message.payload)
    client.link.close()
    return b""
