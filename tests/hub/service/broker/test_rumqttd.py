"""The broker that comes with the hub: a child process that ends with its owner and starts again empty."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetcast.mqtt_connection import Message, Published
from hub.service.broker.rumqttd import EmbeddedBroker
from schemas.errors import Code, Refused, Unreachable
from tests.broker.client import Client
from tests.brokers import Embedded, answers, free_port
from tests.hub.hubs import until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """Not yet started."""
    made = EmbeddedBroker(free_port(), tmp_path / "broker")
    yield made
    made.stop()


def test_it_answers_once_ready_and_no_more_once_stopped(broker: EmbeddedBroker) -> None:
    broker.start()
    broker.wait_ready()

    assert answers(broker.port)
    broker.stop()
    assert not answers(broker.port)
    assert broker.pid is None


def test_it_listens_on_loopback_only(broker: EmbeddedBroker) -> None:
    broker.start()
    broker.wait_ready()

    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {line.split()[1].split(":")[0] for line in listening if line.split()[1].endswith(f":{broker.port:04X}") and " 0A " in line}
    assert addresses == {"0100007F"}


def test_a_port_in_use_is_refused_and_nothing_is_left_running(broker: EmbeddedBroker) -> None:
    with socket.create_server(("127.0.0.1", broker.port)), pytest.raises(Refused, match=str(broker.port)) as refusal:
        broker.start()

    assert refusal.value.code == Code.PORT_IN_USE
    assert broker.pid is None


def test_its_death_is_seen_and_it_starts_again_on_the_same_port(broker: EmbeddedBroker) -> None:
    broker.start()
    broker.wait_ready()
    assert broker.poll() is None
    os.kill(broker.pid or 0, signal.SIGKILL)
    died = until("its death", broker.poll)

    broker.start()
    broker.wait_ready()

    assert died == -signal.SIGKILL
    assert answers(broker.port)


def test_starting_it_twice_is_starting_it_once(broker: EmbeddedBroker) -> None:
    broker.start()
    first = broker.pid

    broker.start()

    assert broker.pid == first


def test_one_that_ends_before_it_answers_is_unreachable_and_says_so(broker: EmbeddedBroker) -> None:
    broker.start()
    os.kill(broker.pid or 0, signal.SIGKILL)

    with pytest.raises(Unreachable, match="-9"):
        broker.wait_ready()


def test_it_ends_with_an_owner_that_was_killed(tmp_path: Path) -> None:
    port = free_port()
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from hub.service.broker.rumqttd import EmbeddedBroker\n"
            "b = EmbeddedBroker(int(sys.argv[1]), Path(sys.argv[2])); b.start(); b.wait_ready(); print(b.pid, flush=True); time.sleep(600)",
            str(port),
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        owner.kill()

    until("its end", lambda: not answers(port) and not alive(child))


def test_it_forgets_everything_when_it_is_restarted(tmp_path: Path) -> None:
    broker = Embedded(tmp_path)
    broker.start()
    hub = Client.of(broker)
    hub.open()
    hub.link.publish("fleetcast/v1/main/trust", b"retained", retain=True)
    hub.next(Published)
    hub.link.close()

    broker.restart()

    node = Client.of(broker, "node-a")
    node.open()
    node.subscribe("fleetcast/v1/main/trust")
    assert [event for event in node.messages(seconds=0.5) if isinstance(event, Message)] == []
    node.link.close()
    broker.stop()


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
