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
