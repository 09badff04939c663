"""Kill a broker of three in the middle of a rollout, as `make test-cluster` does: `python -m tests.cluster [--write] [--stand-in]`.

A real hub, two real nodes, 200 light nodes that fetch a release, and windows of telemetry, all with certificates and access lists,
through one balancer. A broker is killed while one node serves the new release and the other waits for its stage: first one that the hub is
not connected to, then, on another cluster, the hub's own. `--stand-in` has one mosquitto in place of the three rmqttd, killed and started
again: it tries the suite itself.
"""

import argparse
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bench.figures import Figure, write
from bench.light import Errand, fetch
from fleetcast.mqtt_connection import CONNACK_SECONDS, Cleared, Connected, Disconnected, Published, TlsFiles, Unreadable
from hub.database.store import Store
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.signing.tuf_repository import Repository
from node.agent.reports.reporter import Reporter
from node.broker.mqtt import NodeLink, ReceiptsAsked, SettingsArrived, WindowsAsked
from node.core.delivery.transfer import pieces
from node.core.trust.clock import MonotonicSeconds, WallSeconds
from node.enrol.identity import Identity
from node.storage.store import NodeStore
from schemas import codec
from schemas.encoding import DECODABLE
from schemas.errors import Unreachable
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.state import Profile, State
from schemas.window import Window, expected_counts, pack_counts
from tests.brokers import FLEET, Mosquitto
from tests.cluster import build
from tests.cluster.balancer import Balancer
from tests.cluster.nodes import Cluster
from tests.e2e.test_path import Plant, until

LIGHT, SPREAD_SECONDS, KILL_AFTER_SECONDS = 200, 30.0, 12.0
SOAK_SECONDS = 20  # Between the stages of the rollout: longer than until the kill.
SENDERS, WINDOWS = 10, 60  # Windows of each sender, over the same time.
BYTES = 2_000_000
WAVE_SECONDS = 600.0
STILL_SECONDS = 120.0  # No window has come for so long: none is on its way, and the hub has asked every sender.
REPORT_SECONDS, COHORT = 10.0, "lab"  # Of a sender's state.
START = 60_000_000  # Of the interval that all windows are of, long before those of the real nodes.
COMMAND = "make test-cluster"
KILLS = ("other", "hub")  # A broker that the hub is not connected to, and the one that it is.


@dataclass
class Brokers:
    """The cluster behind its balancer, as hub and nodes find it."""

    cluster: Any
    tls_of: Any
    balancer: Balancer
    kill: Callable[[int], None]  # With the port of the broker that is to be killed.
    kind: str = "rmqtt"

    def url(self, user: str = "hub") -> str:
        return f"mqtts://127.0.0.1:{self.balancer.port}"

    def tls(self, user: str = "hub") -> TlsFiles:
        found: TlsFiles = self.tls_of(user)
        return found


class Sender(threading.Thread):
    """A node's outbox: its store, its connection and what it answers to the hub, with windows made by hand."""

    def __init__(self, brokers: Brokers, name: str, manifest: Manifest, folder: Path) -> None:
        super().__init__(daemon=True)
        self.acknowledged = set[int]()  # Numbers in the outbox.
        self.again = 0  # Windows that a broker took once more.
        self.ended = threading.Event()  # Set when it is to leave: until then it listens.
        self._brokers, self._name, self._manifest, self._folder = brokers, name, manifest, folder

    @property
    def is_done(self) -> bool:
        return len(self.acknowledged) >= WINDOWS

    def leave(self) -> None:
        self.ended.set()
        self.join(30)

    def run(self) -> None:
        name, inbox = self._name, queue.Queue[Any]()
        store, identity = NodeStore.of_agent(self._folder / "node.sqlite"), Identity.load_or_create(self._folder / "key.pem")
        link = NodeLink(self._brokers.url(name), fleet=FLEET, node=name, inbox=inbox, tls=self._brokers.tls(name))
        reporter = Reporter(
            node=name,
            store=store,
            link=link,
            identity=lambda: identity,
            wall=lambda: WallSeconds(time.time()),
            monotonic=lambda: MonotonicSeconds(time.monotonic()),
            rng=Random(name),
            windows=True,
        )
        topic, made, session, online = link.topics.telemetry(self._manifest.model, COHORT), 0, 0, False
        reported_at = made_at = due_at = float("-inf")
        while not self.ended.is_set():
            if not online and time.monotonic() >= due_at:
                session, due_at = session + 1, time.monotonic() + CONNACK_SECONDS
                try:
                    link.open(session=session, at=int(time.time()))
                except Unreachable:
                    due_at = time.monotonic() + 0.5
            with suppress(queue.Empty):
                event = link.parse(inbox.get(timeout=0.1))
                match event:
                    case Connected():
                        online, reported_at = True, float("-inf")
                        reporter.connected(session_present=event.session_present)
                        link.subscribe_settings(only_if_new=event.session_present)
                    case Disconnected():
                        online, due_at = False, time.monotonic() + 0.5
                    case Published(mid, is_unread):
                        number = reporter._sending.get(mid)
                        reporter.published(mid, is_unread=is_unread)
                        if number is not None and not is_unread:
                            self.again += number in self.acknowledged
                            self.acknowledged.add(number)
                    case WindowsAsked():
                        reporter.send_windows_again(event.request)
                        link.ack(event.message)
                    case ReceiptsAsked() | SettingsArrived() | Unreadable() | Cleared():
                        link.ack(event.message)
                    case _:
                        pass
            now = time.monotonic()
            if online and now - reported_at >= REPORT_SECONDS:
                reported_at = now
                state = State(
                    node=name,
                    session=session,
                    status="online",
                    at=int(time.time()),
                    public_key=identity.public_key,
                    cohort=COHORT,
                    profile=Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"role": "sender"}),
                )
                link.publish_state(state)
            if online and made < WINDOWS and now - made_at >= SPREAD_SECONDS / WINDOWS:
                made, made_at = made + 1, now
                store.enqueue("window", topic, window(self._manifest))
            if online:
                reporter.send()
        link.close()
        store.close()


def window(manifest: Manifest) -> bytes:
    """A window as the reference would have it."""
    assert manifest.baseline is not None
    expected = expected_counts(manifest.baseline, 100)
    release = sha256(codec.encode(manifest))[:8]
    packed = pack_counts(expected, expected)
    return codec.encode(Window(id=np.random.default_rng().bytes(16), release=release, start=START, seconds=60, rows=100, counts=packed))


@dataclass(frozen=True)
class Result:
    """What came of it."""

    not_done: int
    acknowledged: int
    counted: int
    again: int  # Windows that were sent once more.
    seconds: float

    @property
    def lost(self) -> int:
        return self.not_done + max(0, self.acknowledged - self.counted)


def run(brokers: Brokers, folder: Path) -> Result:
    """The whole of it.

    Raises:
        AssertionError: the rollout has not ended as it should.
    """
    os.environ["FLEETCAST_SETTLE_SECONDS"] = "3600"  # all windows are of one interval, which stays open
    plant, senders = Plant(folder, brokers), list[Sender]()  # type: ignore[arg-type]
    names = [f"light-{number}" for number in range(LIGHT)] + [f"sender-{number}" for number in range(SENDERS)]
    for name in names:
        tls = brokers.tls(name)
    try:
        plant.start()
        hubs = brokers.balancer.last
        for name in ("node-a", "node-b"):
            plant.start_node(name)
        plant.publish("1.0.0", 1.0)
        plant.cli("rollout", "start", "diabetes@1.0.0", "--wait", "--timeout-seconds", "200")
        # Senders report themselves, and have no model: the rollout does not wait for them.
        plant.cli("deploy", "set", "diabetes", "senders", "--where", "role=sender", "--release", "1.0.0", "--allow-empty")
        repository = Repository(plant.fleet / "trust")
        manifest = codec.decode(Manifest, repository.manifest("diabetes", "1.0.0"))
        errand = published(plant, brokers.balancer.port, tls)

        for number in range(SENDERS):
            (folder / f"sender-{number}").mkdir()
            senders.append(Sender(brokers, f"sender-{number}", manifest, folder / f"sender-{number}"))
            senders[-1].start()
        began = time.monotonic()
        with ThreadPoolExecutor(1) as beside:
            wave = beside.submit(fetch, errand, LIGHT, spread_seconds=SPREAD_SECONDS, timeout_seconds=WAVE_SECONDS)
            plant.publish("1.1.0", 10.0)
            plant.cli("rollout", "start", "diabetes@1.1.0", "--stages", "50,100", "--soak-seconds", str(SOAK_SECONDS))
            until("node serves the first stage", lambda: serving(plant, "1.1.0") == 1)
            time.sleep(max(0.0, began + KILL_AFTER_SECONDS - time.monotonic()))
            assert serving(plant, "1.1.0") == 1, "the rollout is no longer under way: too late for the kill"
            brokers.kill(hubs)
            try:
                fetched = wave.result()
                done, seconds = fetched.nodes, fetched.seconds
            except TimeoutError:
                done, seconds = 0, WAVE_SECONDS
        acknowledged = acknowledged_in_the_end(senders)
        plant.cli("rollout", "resume", "diabetes", code={0, 1, 2, 3, 4, 5})
        deadline = time.monotonic() + 200
        while not (ended := [row for row in plant.cli("rollout", "status") if row["version"] == "1.1.0" and row["state"] == "done"]):
            assert time.monotonic() < deadline, plant.cli("rollout", "status")
            time.sleep(1)
        assert ended
        counted, changed = -1, time.monotonic()
        while counted < acknowledged and time.monotonic() - changed < STILL_SECONDS:
            before, counted = counted, windows(plant)
            changed = changed if counted == before else time.monotonic()
            time.sleep(0.5)
    finally:
        for sender in senders:
            sender.leave()
        plant.stop()
    return Result(LIGHT - done, acknowledged, counted, sum(sender.again for sender in senders), seconds)


def acknowledged_in_the_end(senders: Sequence[Sender]) -> int:
    """How many windows brokers have acknowledged, once all are."""
    deadline = time.monotonic() + WAVE_SECONDS
    while not all(sender.is_done for sender in senders) and time.monotonic() < deadline:
        time.sleep(0.5)
    return sum(len(sender.acknowledged) for sender in senders)


def serving(plant: Plant, version: str) -> int:
    """How many nodes have reported that they serve this release."""
    return sum(row["nodes_serving"] for row in plant.cli("releases") if (row["model"], row["version"]) == ("diabetes", version))


def windows(plant: Plant) -> int:
    """How many windows the hub has counted."""
    store = Store(f"sqlite:///{plant.fleet / 'hub.sqlite'}")
    try:
        return sum(row.windows for row in store.intervals("diabetes") if row.start == START)
    finally:
        store.close()


def published(plant: Plant, port: int, tls: TlsFiles) -> Errand:
    """A release of a file that does not compress, and what a node fetches of it."""
    path = plant.directory / "data.bin"
    path.write_bytes(np.random.default_rng(1).bytes(BYTES))
    said = ("--name", "data", "--version", "1.0.0", "--runtime", "files", "--block-bytes", "20000")
    plant.cli("publish", str(path), *said, "--passphrase-file", str(plant.directory / "secret"))
    repository = Repository(plant.fleet / "trust")
    digest = sha256(repository.manifest("data", "1.0.0"))
    lists = Releases(repository, BlockStore(plant.fleet / "blocks")).lists(digest, "default")
    return Errand(port, FLEET, digest, "default", pieces([lists.blocks], DECODABLE), tls_folder=str(Path(tls.ca).parent))


def main(arguments: list[str]) -> int:
    """Run it, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--kill", choices=KILLS, help="only this one; otherwise both, one after the other")
    chosen = parser.parse_args(arguments)
    if build.program() is None and not chosen.stand_in:
        print("rmqttd is not built: python -m tests.cluster.build", file=sys.stderr)
        return 1
    figures, sent = list[Figure](), LIGHT + SENDERS * WINDOWS
    for kill in (chosen.kill,) if chosen.kill or chosen.stand_in else KILLS:
        result = tried(kill)
        what = "mosquitto in its place" if kill is None else f"rmqttd {build.VERSION}, killed of 3: {kill}"
        print(
            f"{what}: {LIGHT - result.not_done} of {LIGHT} nodes done in {result.seconds:.0f} s, {result.counted} windows counted of"
            f" {result.acknowledged} acknowledged, {result.again} sent again, lost {result.lost}",
            flush=True,
        )
        name = "cluster.hub_kill_lost" if kill == "hub" else "cluster.kill_lost"
        figures.append(Figure(name, result.lost, "nodes and windows", "= 0", "nodes and windows sent", sent, COMMAND))
    if chosen.write and not chosen.stand_in:
        write(figures)
    return 1 if any(figure.value for figure in figures) else 0


def tried(kill: str | None) -> Result:
    """Run it on a cluster of its own; None: on one mosquitto, killed and started again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plant").mkdir()
        if kill is None:
            (folder / "broker").mkdir()
            mosquitto = Mosquitto(folder / "broker")
            mosquitto.start()
            brokers = Brokers(mosquitto, mosquitto.tls, Balancer([mosquitto.port]), lambda _port: mosquitto.restart())
        else:
            program = build.program()
            assert program is not None
            cluster = Cluster(folder / "broker", program)
            cluster.start()
            nodes = {node.port: node for node in cluster.nodes}
            others = {port: [node for at, node in nodes.items() if at != port] for port in nodes}
            brokers = Brokers(
                cluster, cluster.tls, Balancer(list(nodes)), lambda port: (nodes[port] if kill == "hub" else others[port][0]).kill()
            )
        try:
            return run(brokers, folder / "plant")
        finally:
            brokers.balancer.close()
            brokers.cluster.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
