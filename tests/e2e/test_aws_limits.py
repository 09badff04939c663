"""A whole rollout through a broker as strict as AWS IoT Core, with the settings of docs/brokers.md; and that it is strict."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.broker import served
from tests.e2e.test_path import Plant, until
from tests.strict_broker import PACKET_BYTES_MAX, StrictProxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
PAGE = Path(__file__).parents[2] / "docs" / "brokers.md"


def profile(name: str) -> tuple[str, ...]:
    """The settings that the page gives for this file."""
    found = re.search(rf"```toml\n# {re.escape(name)}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, f"docs/brokers.md has no settings for {name}"
    return tuple(line for line in found[1].splitlines() if line)


class Strict:
    """mosquitto behind the strict proxy."""

    kind = "mosquitto"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.broker = served.PlainMosquitto(folder)
        with (folder / "mosquitto.conf").open("a") as file:
            file.write(f"max_packet_size {PACKET_BYTES_MAX}\n")
        self.broker.start()
        self.proxy = StrictProxy(self.broker.port)

    def url(self, user: str = "hub") -> str:
        return f"mqtt://127.0.0.1:{self.proxy.port}"

    def tls(self, user: str = "hub") -> None:
        return None

    def stop(self) -> None:
        self.proxy.close()
        self.broker.stop()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Strict]:
    made = Strict(tmp_path / "broker")
    yield made
    made.stop()


def test_a_rollout_keeps_to_the_limits_with_the_pages_settings(strict: Strict, tmp_path: Path) -> None:
    plant = Plant(tmp_path, strict, hub_settings=profile("fleet.toml"), node_settings=profile("node.toml"))  # type: ignore[arg-type]
    try:
        plant.start()
        (tmp_path / "data.bin").write_bytes(np.random.default_rng(1).bytes(4_000_000))
        for name in ("node-a", "node-b"):
            plant.start_node(name)
        until("both nodes", lambda: len(plant.cli("nodes")) == 2)
        said = ("--name", "diabetes", "--version", "1.0.0", "--runtime", "files", "--passphrase-file", str(tmp_path / "secret"))
        plant.cli("publish", str(tmp_path / "data.bin"), *said)
        plant.cli("rollout", "start", "diabetes@1.0.0", "--wait", "--timeout-seconds", "200")
    finally:
        plant.stop()
        assert strict.proxy.broken == []

    most = max(client.most_filters for client in strict.proxy.clients)
    assert 20 < most <= 50, f"{most} subscriptions: the window was never full"
    assert {client.name for client in strict.proxy.clients} == {"hub", "node-a", "node-b"}
