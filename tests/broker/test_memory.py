"""What mosquitto holds, with our configuration, of a flood to a hub that does not read; the flooding client loses its connection."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.limits import MIB
from schemas.topics import Topics
from tests.brokers import CONFIG, FLEET, Mosquitto
from tests.hub.flooding import Flood, publish_packet

PAYLOAD = bytes(15_000)
MESSAGES = 12_000  # 172 MiB
TOPICS = Topics(FLEET)


def number(option: str) -> int:
    (found,) = re.findall(rf"^{option} (\d+)$", (CONFIG / "mosquitto.conf").read_text(), re.MULTILINE)
    return int(found)


def resident_bytes(broker: Mosquitto) -> int:
    assert broker._process is not None
    (line,) = [one for one in Path(f"/proc/{broker._process.pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.stop()


def hub_that_does_not_read(broker: Mosquitto, qos: int) -> Flood:
    hub = Flood(broker.url("hub"), broker.tls("hub"), "hub")
    hub.subscribe(TOPICS.filter("state"), qos=qos)
    return hub


def test_what_waits_for_one_client_is_bounded_in_bytes(mosquitto: Mosquitto) -> None:
    mosquitto.start()
    hub = hub_that_does_not_read(mosquitto, qos=1)
    node = Flood(mosquitto.url("n1"), mosquitto.tls("n1"), "n1")
    for mid in range(MESSAGES):
        node.send(publish_packet(TOPICS.state("n1"), PAYLOAD, mid=mid + 1))
    node.ping()

    assert resident_bytes(mosquitto) < number("max_queued_bytes") + 32 * MIB
    hub.ping()


def test_a_flood_past_the_memory_limit_ends_the_flooding_clients_connection(mosquitto: Mosquitto) -> None:
    limit = 64 * MIB
    assert limit < number("memory_limit") < 1024 * MIB  # as much as the container has
    mosquitto.configure(f"memory_limit {limit}")
    mosquitto.start()
    hub = hub_that_does_not_read(mosquitto, qos=0)
    node = Flood(mosquitto.url("n1"), mosquitto.tls("n1"), "n1")
    packet = publish_packet(TOPICS.state("n1"), PAYLOAD)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        node.send(packet * (2 * limit // len(packet)))

    assert resident_bytes(mosquitto) < limit + 32 * MIB
    hub.ping()
