"""A real agent ends within ten seconds of SIGTERM, whatever it is busy with, and goes on turning while a broker floods it."""

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import paho.mqtt.client as paho
import pytest
import zstandard
from paho.mqtt.enums import CallbackAPIVersion

from schemas.limits import MIB
from schemas.topics import Topics
from tests import brokers
from tests.node.agent.devices import Device, copied, serve_once

ENDED_SECONDS_MAX, RSS_MIB_MAX = 10.0, 400
BOMB = zstandard.ZstdCompressor(level=19).compress(b"\xdd" + struct.pack(">I", 8 * MIB - 5) + b"\x80" * (8 * MIB - 5))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serve_once(tmp_path_factory.mktemp("served"))


@pytest.fixture
def device(served: Path) -> Iterator[Device]:
    with copied(served) as made:
        yield made


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port whose backlog is full: a connection to it is neither taken nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(listener.getsockname())
        yield int(listener.getsockname()[1])
        for one in waiting:
            one.close()


def test_it_ends_while_the_broker_does_not_answer(device: Device, deaf: int) -> None:
    device.configure(broker=f"mqtt://127.0.0.1:{deaf}")
    device.start()
    device.serves()

    code, seconds = device.end()

    assert (code, seconds < ENDED_SECONDS_MAX) == (0, True), device.log()


def test_it_ends_while_a_model_is_being_loaded(device: Device) -> None:
    device.configure(isolation="process")
    device.start()
    assert device.process is not None
    tasks = Path(f"/proc/{device.process.pid}/task")

    def workers() -> list[int]:
        with suppress(FileNotFoundError):  # a thread that has ended
            children = [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
            # Before it runs the worker's program, its parent waits for it as the system call does: nothing of ours can end that.
            return [child for child in children if b"worker_bootstrap" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return []

    device.until("the port", lambda: "serving.started" in device.log())  # Runtimes were tried before, in processes of their own.
    device.until("a worker", workers)
    os.kill(workers()[0], signal.SIGSTOP)  # it never comes to the end of loading

    code, seconds = device.end()

    assert (code, seconds < ENDED_SECONDS_MAX) == (0, True), device.log()


def test_it_turns_and_ends_while_the_broker_floods_it_with_bombs(device: Device, tmp_path: Path) -> None:
    topics, stop = Topics(brokers.FLEET), threading.Event()
    with brokers.running("embedded", tmp_path / "broker") as broker:
        device.configure(broker=broker.url("n"))
        device.start()
        device.serves()
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.connect("127.0.0.1", int(broker.url("hub").rpartition(":")[2]))
        client.loop_start()

        def flood() -> None:
            while not stop.is_set():
                for topic in (topics.deployed, topics.trust, topics.trust_time):
                    client.publish(topic, BOMB)
                time.sleep(0.001)

        flooding = threading.Thread(target=flood)
        device.until("a connection", lambda: device.status()["online"])
        flooding.start()
        try:
            device.until("a bomb that was refused", lambda: "schema.malformed" in device.log())
            written = device.status()["written_at"]
            device.until("another turn", lambda: device.status()["written_at"] > written)
            assert device.process is not None
            status = Path(f"/proc/{device.process.pid}/status").read_text()
            peak_mib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) // 1024
            code, seconds = device.end()
        finally:
            stop.set()
            flooding.join()
            client.loop_stop()

    assert (code, seconds < ENDED_SECONDS_MAX) == (0, True), device.log()
    assert peak_mib < RSS_MIB_MAX
