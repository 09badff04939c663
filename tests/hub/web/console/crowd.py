"""Many consoles at one time, over real sockets, on the real `fleetcast hub`: some read, some never do, some come and go."""

import contextlib
import json
import os
import re
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from bench.process_group import process_group
from hub.core.rollouts import commands
from hub.operations import api_tokens
from hub.operations.opened_fleet import OpenedFleet
from schemas import codec
from schemas.manifest import Manifest
from schemas.topics import Topics
from tests.hub.cli.fleets import BIN, Made, make
from tests.hub.hubs import Device, until
from tests.hub.web.fleets import opened
from tools import seed_fleet
from tools.seed_fleet import Plan

ROLLOUT = "/models/m/deployments/default/rollouts"
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
PAGES = ("/", "/models", "/nodes", "/drift", "/bytes", "/alerts", "/audit", "/nodes/watched", "/models/m")
SMALL_BUFFER = 4096
LEFT_SECONDS = 1.0  # In which a hub notices that somebody has left.
SPARE_DESCRIPTORS = 8  # Connections to the database, and those of requests that were answered a moment ago.
NODE = "watched"


def regions_of(page: str) -> str:
    """The regions that a page has, as its script names them."""
    return ",".join(re.findall(r'data-live="(\w+)"', page))


@dataclass(eq=False)
class Viewer:
    """One page that is open."""

    address: str
    sock: socket.socket
    head: bytes = b""
    taken: int = 0
    is_ended: bool = False

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1]) if self.head.count(b" ") >= 2 else 0


class Crowd:
    """Open pages of one hub. One thread reads for all that read."""

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        self._place = (at.hostname or "", at.port or 0)
        self._selector, self._stop = selectors.DefaultSelector(), threading.Event()
        self.viewers: list[Viewer] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def open(self, address: str, cookie: str, regions: str, *, reads: bool = True) -> Viewer:
        """Follow a page; a client that does not read has a small buffer, as one that is stopped."""
        sock = socket.socket()
        if not reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        sock.settimeout(60)
        sock.connect(self._place)
        query = f"regions={quote(regions)}&page={quote(address, safe='')}"
        sock.sendall(f"GET /live?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode())
        found = Viewer(address, sock)
        self.viewers.append(found)
        if reads:
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, found)
        return found

    def leave(self, viewer: Viewer) -> None:
        """Close one of them."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(viewer.sock)
        viewer.sock.close()
        viewer.is_ended = True

    def close(self) -> None:
        """Close all."""
        self._stop.set()
        self._thread.join(10)
        for one in self.viewers:
            one.sock.close()
        self._selector.close()

    def reading(self) -> list[Viewer]:
        """Those that read, and follow a page."""
        return [one for one in self.viewers if not one.is_ended and one.status == 200]

    def _read(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                viewer: Viewer = key.data
                try:
                    part = viewer.sock.recv(1 << 18)
                except BlockingIOError:
                    continue
                except OSError:
                    part = b""
                if len(viewer.head) < 4096:
                    viewer.head += part[:4096]
                viewer.taken += len(part)
                if not part:
                    viewer.is_ended = True
                    with contextlib.suppress(KeyError, ValueError, OSError):
                        self._selector.unregister(viewer.sock)

    def status_of(self, address: str, cookie: str) -> int:
        """How one more page is answered."""
        viewer = self.open(address, cookie, "head")
        until("an answer", lambda: viewer.status or viewer.is_ended, seconds=60)
        self.leave(viewer)
        return viewer.status


@dataclass
class Watcher:
    """Somebody who reads a page, and when something came."""

    sock: socket.socket
    came: list[tuple[float, bytes]] = field(default_factory=list)

    @classmethod
    def of(cls, crowd: Crowd, address: str, cookie: str, regions: str) -> "Watcher":
        viewer = crowd.open(address, cookie, regions, reads=False)
        viewer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        found = cls(viewer.sock)
        threading.Thread(target=found._read, daemon=True).start()
        until("the page to be followed", lambda: found.came, seconds=60)
        assert b" 200 " in found.came[0][1][:20], found.came[0][1][:400]
        return found

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while part := self.sock.recv(1 << 18):
                self.came.append((time.monotonic(), part))

    def event_s(self, act: Callable[[], object], word: bytes) -> float:
        """How long it takes from an act to a region that says so."""
        began, at = time.monotonic(), len(self.came)
        act()
        until("the page to say so", lambda: word in b"".join(part for _, part in self.came[at:]), seconds=60)
        return time.monotonic() - began


@dataclass
class Hub:
    """A real hub, and what a watcher of the machine knows of its process."""

    made: Made
    opened: OpenedFleet
    pid: int
    broker_pid: int
    url: str
    broker_url: str
    log: Path
    cookies: list[str] = field(default_factory=list)
    token: str = ""

    def sign_in(self, people: int) -> None:
        """Let people sign in, each by a token of their own."""
        for number in range(people):
            token = self.token = api_tokens.make(self.opened, name=f"p{number}", role="operator", days=1)[1]
            answer = httpx.post(f"{self.url}/login", data={"token": token, "next": "/"}, headers=SAME_ORIGIN, timeout=60)
            assert answer.status_code == 303, answer.text
            self.cookies.append(answer.headers["set-cookie"].partition(";")[0])

    def get(self, address: str) -> httpx.Response:
        return httpx.get(f"{self.url}{address}", headers={"cookie": self.cookies[0]}, timeout=60)

    def rss_mib(self, name: str = "VmRSS") -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(rf"^{name}:\s+(\d+)", text, re.MULTILINE)[0]) / 1024

    def cpu_seconds(self) -> float:
        parts = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def answer_s(self) -> float:
        """After how many seconds the hub's loop obeys a command, the slower of two."""
        took = []
        for kind in ("halt", "resume"):
            began = time.monotonic()
            number = self.opened.store.add_command("m", commands.read(kind, "{}"))
            until("an answer", lambda number=number: self.opened.store.command(number).state != "open", seconds=120)  # type: ignore[misc]
            row = self.opened.store.command(number)
            assert row is not None
            assert row.state == "done", row.text
            took.append(time.monotonic() - began)
        return max(took)

    def manifest(self, version: str) -> Manifest:
        return codec.decode(Manifest, self.opened.repository.manifest("m", version))

    def device(self, name: str = NODE) -> Device:
        """A node that signs receipts by hand."""
        broker: Any = SimpleNamespace(url=lambda _: self.broker_url, tls=lambda _: None)
        fleet: Any = SimpleNamespace(topics=Topics("f"))
        return Device.connect(name, broker, fleet)


@dataclass
class Seen:
    """What a crowd did to a hub."""

    opened: int = 0
    refused: int = 0
    event_s: float = 0.0
    answer_s: float = 0.0
    page_s: float = 0.0
    cpu_ratio: float = 0.0  # Of a processor, while nothing happens.
    cpu_s: float = 0.0  # For a receipt.
    idle_mib: float = 0.0
    rss_mib: float = 0.0
    after_mib: float = 0.0
    more_descriptors: int = 0  # That are open when all have left.

    def __str__(self) -> str:
        return (
            f"{self.opened} pages followed, {self.refused} refused, a receipt after {self.event_s:.2f} s and for {self.cpu_s:.2f} s of CPU,"
            f" a command after {self.answer_s:.2f} s, a page after {self.page_s:.2f} s, {self.cpu_ratio:.2f} of a processor at rest,"
            f" {self.rss_mib:.0f} MiB (idle {self.idle_mib:.0f}, afterwards {self.after_mib:.0f})"
        )


def crowded(hub: Hub, *, pages: int, different: int, never_read: int, come_and_go: int, quiet_seconds: float = 3.0) -> Seen:
    """Open pages of a hub at one time, have something happen, and let all leave."""
    seen, store = Seen(), hub.opened.store
    hub.sign_in(10)
    done = hub.made.run("rollout", "start", "m@1.1.0", "--stages", "100", "--soak-seconds", "86400")
    assert done.returncode == 0, done.stderr
    device, slow = hub.device(), hub.device("slow")
    crowd = Crowd(hub.url)
    try:
        until("the nodes", lambda: store.node(NODE) and store.node("slow"))
        addresses = [ROLLOUT, *PAGES]
        regions = {one: regions_of(hub.get(one).text) for one in addresses}
        addresses += [f"/nodes?where=site%3Dsite-{number:03}" for number in range(different - len(addresses))]
        seen.idle_mib, before = hub.rss_mib(), hub.descriptors()
        watcher = Watcher.of(crowd, ROLLOUT, hub.cookies[0], regions[ROLLOUT])
        for number in range(1, pages):
            address = addresses[number % len(addresses)]
            crowd.open(address, hub.cookies[number % 10], regions.get(address, regions["/nodes"]), reads=number > never_read)
        until("all to be answered", lambda: all(one.status or one.is_ended for one in crowd.viewers[never_read + 1 :]), seconds=120)
        for one in crowd.viewers[never_read + 1 :][:come_and_go]:
            crowd.leave(one)
        time.sleep(LEFT_SECONDS)
        for number in range(come_and_go):
            crowd.open(addresses[number % len(addresses)], hub.cookies[number % 10], "head")
        until("those who came again", lambda: all(one.status or one.is_ended for one in crowd.viewers[never_read + 1 :]), seconds=120)
        seen.opened = len(crowd.reading()) + never_read + 1
        seen.refused = sum(one.status == 429 for one in crowd.viewers)
        cpu, at = hub.cpu_seconds(), time.monotonic()
        time.sleep(quiet_seconds)
        seen.cpu_ratio = (hub.cpu_seconds() - cpu) / (time.monotonic() - at)
        seen.answer_s = hub.answer_s()
        seen.page_s = hub.get("/nodes").elapsed.total_seconds()
        manifest, cpu = hub.manifest("1.1.0"), hub.cpu_seconds()
        for outcome, code, word in (("serving", "", b""), ("rolled_back", "probation.failed", b"probation.failed")):
            time.sleep(2.3)  # What came before has been shown.
            cpu = hub.cpu_seconds()
            act = lambda outcome=outcome, code=code: device.sign(outcome, manifest, model="m", code=code)  # noqa: E731
            seen.event_s = max(seen.event_s, watcher.event_s(act, word or b"event: region"))
            seen.cpu_s = max(seen.cpu_s, hub.cpu_seconds() - cpu)
        seen.rss_mib = hub.rss_mib("VmHWM")
        for one in list(crowd.viewers):
            crowd.leave(one)
        until("all to have left", lambda: hub.descriptors() <= before + SPARE_DESCRIPTORS, seconds=90)
        seen.more_descriptors, seen.after_mib = hub.descriptors() - before, hub.rss_mib()
        assert crowd.status_of("/", hub.cookies[0]) == 200
    finally:
        crowd.close()
        device.client.link.close()
        slow.client.link.close()
    return seen


@contextlib.contextmanager
def running(folder: Path, *, nodes: int = 0, descriptors: int = 0) -> Iterator[Hub]:
    """A hub with two releases and some nodes, under a limit of descriptors."""
    made = make(folder, "m")
    made.publish_as("1.0.0", made.folder / "good.onnx")
    if nodes:  # They serve what there is, so that the next release is news to all of them.
        now = int(datetime.now(UTC).timestamp())
        seed_fleet.seed(made.fleet / "hub.sqlite", seed_fleet.released(made.fleet), Plan(nodes=nodes, days=1), now=now)
    made.publish_as("1.1.0", made.folder / "good.onnx")
    env = {**os.environ, "FLEETCAST_DIR": str(made.fleet), "FLEETCAST_PASSPHRASE_FILE": str(made.secret)}
    log = folder / "hub.log"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    command = [str(BIN / "fleetcast"), "hub", str(made.fleet), "--json-logs"]
    more: dict[str, Any] = {"preexec_fn": limit} if descriptors else {}
    with log.open("wb") as target, process_group(command, env=env, stdout=target, stderr=target, **more) as process:
        until("the hub", lambda: (made.fleet / "hub.ready").exists() or process.poll() is not None, seconds=120)
        assert process.poll() is None, log.read_text()
        facts = json.loads((made.fleet / "hub.ready").read_text())
        yield Hub(made, opened(made), process.pid, int(facts["broker_pid"]), facts["web_url"], facts["broker_url"], log)
