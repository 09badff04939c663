"""The service manager hears what its protocol says, on a real socket, and an agent without a manager, or with a bad one, loses nothing."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fleetcast.backoff import ENDED_SECONDS
from node.agent.reports.agent_status import StatusWriter
from node.agent.reports.standing_findings import StandingFindings
from node.core.delivery.byte_quota import Policy
from node.core.doctor.agent_health import Verdict, judge
from node.core.settings.effective_settings import EffectiveSettings
from node.host.pidfile import read_status
from node.host.service_manager import Notify
from node.settings import NodeSettings
from schemas.state import State
from tests.node.conftest import Running


@contextmanager
def manager(address: str | Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(address))
        yield sock


def heard(sock: socket.socket) -> list[str]:
    found = []
    sock.setblocking(False)
    try:
        while True:
            found.append(sock.recv(4096).decode())
    except BlockingIOError:
        return found


def test_every_message_is_one_datagram(tmp_path: Path) -> None:
    with manager(tmp_path / "notify") as sock:
        notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        notify.ready()
        notify.status("two\nlines")
        notify.watchdog()
        notify.stopping()

        assert heard(sock) == ["READY=1", "STATUS=two lines", "WATCHDOG=1", "STOPPING=1"]


def test_an_abstract_address_is_understood() -> None:
    name = f"fleetcast-test-{os.getpid()}-{time.monotonic_ns()}"
    with manager(f"\0{name}") as sock:
        Notify({"NOTIFY_SOCKET": f"@{name}"}).ready()

        assert heard(sock) == ["READY=1"]


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1234", "relative"])
def test_without_a_manager_that_listens_nothing_happens(address: str) -> None:
    Notify({"NOTIFY_SOCKET": address} if address else {}).ready()


def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with manager(tmp_path / "notify"):
        notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        began = time.monotonic()
        for _ in range(5000):
            notify.watchdog()

        assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_only_when_it_was_meant_for_us(variables: dict[str, str], seconds: float | None) -> None:
    assert Notify({"NOTIFY_SOCKET": "/run/x", **variables}, pid=7).watchdog_seconds == seconds


def test_a_loop_that_turns_feeds_the_watchdog_four_times_in_its_time(tmp_path: Path) -> None:
    with manager(tmp_path / "notify") as sock:
        notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})
        for second in range(61):
            notify.turned(float(second))

        assert heard(sock) == ["WATCHDOG=1"] * 5


class Loop:
    """The agent's part: its clock is ours, its serving thread is real."""

    def __init__(self, folder: Path, running: Running, notify: Notify) -> None:
        self.now = 1_800_000_000.0
        settings = NodeSettings(id="gw-1", fleet="f", broker="mqtt://127.0.0.1:1", data=folder, root=folder / "root.json")
        self.server = running.server
        self.status_writer = StatusWriter(
            settings,
            server=running.server,
            listen="127.0.0.1:8080",
            inherited=True,
            state=lambda: State(node="gw-1", session=1, status="online", at=int(self.now)),
            view=lambda: None,
            in_force=lambda: EffectiveSettings({}, "default", True, {}),
            policy=Policy,
            findings=StandingFindings(),
            wall=lambda: self.now,
            monotonic=lambda: self.now,
            notify=notify,
        )

    def turn(self, seconds: float, *, hangs: bool = False) -> None:
        """Time passes, the serving thread answers unless it hangs, and the loop turns."""
        self.now += seconds
        answered = threading.Event()
        self.server.ask_loaded(lambda _: answered.set())
        assert answered.wait(0.01 if hangs else 60) is not hangs
        self.status_writer.tick()


@pytest.fixture
def supervised(tmp_path: Path, running: Running) -> Iterator[tuple[Loop, Callable[[], list[str]]]]:
    with manager(tmp_path / "notify") as sock:
        notify = Notify({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "8000000"})
        yield Loop(tmp_path, running, notify), lambda: heard(sock)


def test_connections_that_end_again_and_again_are_in_the_status_for_half_an_hour(
    supervised: tuple[Loop, Callable[[], list[str]]], tmp_path: Path
) -> None:
    loop, _ = supervised
    loop.status_writer.began()
    for _ in range(4):  # Each had lasted, so that none of them was short.
        loop.status_writer.connected()
        loop.turn(120.0)
        loop.status_writer.disconnected("Unspecified error")
        loop.status_writer.disconnected("Unspecified error")  # An attempt that fails is no connection.
    loop.status_writer.connected()
    loop.turn(3.0)
    assert (status := read_status(tmp_path)) is not None
    assert (status.short_connections, status.ended_connections) == (0, 4)

    loop.turn(float(ENDED_SECONDS))

    assert (later := read_status(tmp_path)) is not None
    assert later.ended_connections == 0


def test_an_agent_that_is_well_is_ready_and_feeds_its_watchdog(supervised: tuple[Loop, Callable[[], list[str]]], tmp_path: Path) -> None:
    loop, said = supervised
    loop.status_writer.began()
    for _ in range(8):
        loop.turn(1.0)

    told = said()
    assert told[0] == "READY=1"
    assert told.count("WATCHDOG=1") >= 4
    assert "STATUS=nothing to serve yet; not connected: not connected yet" in told

    loop.status_writer.connected()
    loop.turn(0.0)
    loop.status_writer.left()
    status = read_status(tmp_path)
    assert said()[-2:] == ["STATUS=nothing to serve yet; connected", "STOPPING=1"]
    assert status is not None
    assert (status.pid, status.ended_at, status.supervised, status.watchdog_seconds) == (os.getpid(), int(loop.now), True, 8.0)


def test_a_serving_thread_that_hangs_starves_the_watchdog_while_the_loop_goes_on(
    supervised: tuple[Loop, Callable[[], list[str]]], tmp_path: Path
) -> None:
    loop, said = supervised
    loop.status_writer.began()
    loop.turn(3.0)
    release = threading.Event()
    stuck: Any = loop.server._running()
    stuck.call_soon_threadsafe(release.wait, 240)
    loop.turn(3.0, hangs=True)  # the last answer before it hung is still good for one
    said()

    for _ in range(50):
        loop.turn(3.0, hangs=True)
    starved = said()
    status = read_status(tmp_path)
    release.set()

    assert "WATCHDOG=1" not in starved
    assert status is not None
    assert status.written_at - status.answered_at > 120
    loop.turn(3.0)
    loop.turn(3.0)
    assert "WATCHDOG=1" in said()


def test_a_status_that_says_nothing_new_is_written_seldom(supervised: tuple[Loop, Callable[[], list[str]]], tmp_path: Path) -> None:
    loop, _ = supervised
    loop.status_writer.began()
    loop.turn(5.0)
    first = (tmp_path / "status.json").stat().st_mtime_ns
    loop.turn(5.0)
    again = (tmp_path / "status.json").stat().st_mtime_ns
    loop.turn(20.0)
    later = (tmp_path / "status.json").stat().st_mtime_ns
    status = read_status(tmp_path)

    assert first == again < later
    assert status is not None
    assert judge(status, running=True, now=int(loop.now)) is Verdict.IDLE
