"""Two agents from one copied folder, over real brokers: they cost nearly nothing, and each of them can tell."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

from node.agent.loop import Agent
from node.host.pidfile import read_status
from node.settings import NodeSettings
from schemas.errors import Code
from tests import brokers
from tests.node.agent.test_loop import running, until
from tests.trust_fleet import Fleet

SECONDS = 8.0  # Before, each connected more than ten times in it.


def clones(folder: Path, url: str, **changes: Any) -> list[Agent]:
    """Two agents of one name, with one key."""
    fleet, made = Fleet.make(folder / "fleet"), list[Agent]()
    for number in range(2):
        data = folder / f"data-{number}"
        if number:
            shutil.copytree(folder / "data-0", data)
        settings = NodeSettings(
            id="n1", fleet=brokers.FLEET, broker=url, data=data, root=folder / "root.json", port=0, isolation="inline", **changes
        )
        made.append(Agent(settings, pinned_root=fleet.repository.root(), wall=time.time, monotonic=time.monotonic, rng=Random(number)))
    return made


@brokers.mainly("mosquitto")
def test_two_devices_from_one_folder_connect_rarely_and_say_so(broker: brokers.Broker, tmp_path: Path) -> None:
    tls = broker.tls("n1")
    keys = {"tls_ca": tls.ca, "tls_certificate": tls.certificate, "tls_key": tls.key} if tls else {}
    made = clones(tmp_path, broker.url("n1"), **keys)
    began = [agent._store.fact("session") for agent in made]
    with ExitStack() as both:
        for agent in made:
            both.enter_context(running(agent))
        until(lambda: max(agent._connecting.again.short_in_a_row for agent in made) >= 4)
        time.sleep(SECONDS)
        counts = [agent._store.fact("session") - before for agent, before in zip(made, began, strict=True)]
        reasons = [status.reason for agent in made if (status := read_status(agent._settings.data)) is not None]

    assert max(counts) <= 10  # it was more than one in a second
    assert any("another device connects as 'n1'" in reason for reason in reasons)


@contextmanager
def taking_over() -> Iterator[tuple[int, list[float]]]:
    """A listener that accepts every CONNECT and says at once that the session was taken over, as newer brokers do; yields when."""
    connected, stop = list[float](), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(4096)
                    connected.append(time.monotonic())
                    connection.sendall(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00")
                    time.sleep(0.2)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], connected
        finally:
            stop.set()
            thread.join()


def test_a_node_that_is_taken_over_pauses_and_signs_for_it(tmp_path: Path) -> None:
    with taking_over() as (port, connected):
        agent = clones(tmp_path, f"mqtt://127.0.0.1:{port}")[0]
        with running(agent):
            until(lambda: bool(connected))
            until(lambda: agent._store.count_waiting("receipt") == 1)
            pause = agent._connecting.again.due_at - time.monotonic()
            until(lambda: (status := read_status(agent._settings.data)) is not None and "another device" in status.reason)

    assert len(connected) == 1
    assert pause > 4
    assert Code.NODE_DUPLICATE in agent._status_writer._error


def test_a_node_without_a_rival_is_back_at_once_after_a_long_connection(tmp_path: Path) -> None:
    with brokers.running("embedded", tmp_path / "broker") as broker:
        agent = clones(tmp_path, broker.url("n1"))[0]
        with running(agent):
            until(lambda: agent._online)
            assert agent._connecting.again._accepted_at is not None
            agent._connecting.again._accepted_at -= 3600.0  # as if it had lasted
            agent._link._link.drop()
            until(lambda: not agent._online)
            assert agent._connecting.again.due_at - time.monotonic() < 0.5
            until(lambda: agent._online)
