"""Whether a hub halts a rollout and serves a fresh node while one enrolled node floods it: by the real programs, over both brokers."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.figures import Figure
from bench.process_group import process_group
from fleetcast.mqtt_connection import TlsFiles
from hub.cli.options import database_url
from hub.core.rollouts import commands
from hub.database.store import Store
from hub.settings import load
from schemas.topics import Topics
from tests.brokers import KINDS, Kind, Mosquitto, free_port
from tests.hub.flooding import Flood, many_states, publish_packet, signed_receipts

BIN = Path(sys.executable).parent
FLEET, FLOODER, FRESH = "plant", "n1", "n2"
STATES, STATES_SECONDS = 100_000, 30.0  # of 15 KB, at QoS 0
RECEIPTS = 15_000  # at QoS 1, as fast as the broker takes them
MODEL_BYTES = 1_000_000
WAIT_SECONDS = 120.0
FLOOD_SECONDS_MAX = 150.0
What = Literal["states", "receipts"]


@dataclass(slots=True)
class Seen:
    """What a flood did to the hub."""

    kind: Kind
    what: What
    quiet_answer_s: float = 0.0
    quiet_halt_s: float = 0.0
    quiet_fetch_s: float = 0.0
    idle_rss_mib: float = 0.0
    sent: int = 0
    sent_seconds: float = 0.0
    answers_s: list[float] = field(default_factory=list)  # of the hub, to a command that is queued
    halts_s: list[float] = field(default_factory=list)  # of the whole command, with the start of its process
    fetch_s: float = 0.0
    rss_mib: float = 0.0
    broker_rss_mib: float = 0.0
    alerts: int = 0
    after_s: float = 0.0  # from the flood's end to the last receipt that the hub took in

    def __str__(self) -> str:
        answers, halts = (", ".join(f"{one:.2f}" for one in those) for those in (self.answers_s, self.halts_s))
        return (
            f"{self.kind} {self.what}: {self.sent} in {self.sent_seconds:.0f} s, answers {answers} s (quiet {self.quiet_answer_s:.2f}),"
            f" commands {halts} s (quiet {self.quiet_halt_s:.2f}), fetch {self.fetch_s:.1f} s (quiet {self.quiet_fetch_s:.1f}),"
            f" hub {self.rss_mib:.0f} MiB (idle {self.idle_rss_mib:.0f}), broker {self.broker_rss_mib:.0f} MiB,"
            f" {self.alerts} alerts, done after {self.after_s:.1f} s"
        )


def measure() -> list[Figure]:
    """Flood each broker's hub with states, and with receipts."""
    found = []
    for kind in KINDS:
        for what in ("states", "receipts"):
            found.append(flooded(kind, what))
            print(found[-1], file=sys.stderr, flush=True)
    worst, slow = max(found, key=lambda one: max(one.answers_s)), max(found, key=lambda one: max(one.halts_s, default=0.0))
    largest = max(found, key=lambda one: one.rss_mib)
    slowest = max(found, key=lambda one: one.fetch_s)
    sent = f"{STATES} states of 15 KB, {RECEIPTS} signed receipts; mosquitto and embedded"
    return [
        Figure(
            "flood.halt_answer_s",
            round(max(worst.answers_s), 2),
            f"s until a queued `rollout halt` is obeyed, worst of {sum(len(one.answers_s) for one in found)} under {sent}",
            "<= 2",
            "without a flood, s",
            round(worst.quiet_answer_s, 2),
        ),
        Figure(
            "flood.halt_command_s",
            round(max(slow.halts_s), 2),
            f"s for the whole command, most of it is its start, worst of {sum(len(one.halts_s) for one in found)} under the same",
            "",
            "without a flood, s",
            round(slow.quiet_halt_s, 2),
        ),
        Figure(
            "flood.hub_rss_mib",
            round(largest.rss_mib),
            f"MiB at most under the same ({largest.kind}, {largest.what})",
            "",
            "idle, MiB",
            round(largest.idle_rss_mib),
        ),
        Figure(
            "flood.fetch_s",
            round(slowest.fetch_s, 1),
            f"s from the start of a fresh node to a release of 1 MB on its disk, worst under the same ({slowest.kind}, {slowest.what})",
            "",
            "without a flood, s",
            round(slowest.quiet_fetch_s, 1),
        ),
    ]


def flooded(kind: Kind, what: What, *, states: int = STATES, receipts: int = RECEIPTS) -> Seen:
    """Flood one hub."""
    with tempfile.TemporaryDirectory() as folder, _Plant(Path(folder), kind).running() as plant:
        seen = Seen(kind, what)
        plant.publish()
        seen.quiet_answer_s, seen.quiet_halt_s = plant.answer(), plant.halt()
        plant.resume()
        seen.quiet_fetch_s = plant.fetch("quiet")
        plant.speak_once()
        seen.idle_rss_mib = _mib(plant.hub.pid, "VmRSS")
        topics = Topics(FLEET)
        topic = topics.state(FLOODER) if what == "states" else topics.receipt(FLOODER)
        payloads = many_states(FLOODER, plant.key) if what == "states" else signed_receipts(FLOODER, plant.key, receipts)
        context = get_context("spawn")
        sent = context.Value("l", 0, lock=False)
        count = states if what == "states" else receipts
        rate = STATES / STATES_SECONDS if what == "states" else 0.0
        process = context.Process(target=_flood, args=(plant.broker_url, plant.tls, topic, payloads, rate, count, sent), daemon=True)
        began = time.monotonic()
        process.start()
        try:
            _wait("the flood", lambda: sent.value > count / 20)
            with plant.fresh(FRESH) as fetched:
                fetch_began = time.monotonic()
                while process.is_alive() and time.monotonic() - began < FLOOD_SECONDS_MAX:
                    seen.halts_s.append(plant.halt())
                    plant.resume()
                    seen.answers_s.append(plant.answer())
                    seen.fetch_s = seen.fetch_s or (time.monotonic() - fetch_began if fetched() else 0.0)
                seen.sent, seen.sent_seconds = sent.value, time.monotonic() - began
                seen.answers_s.append(plant.answer())  # what waits at the broker comes after the flood
                _wait("the fresh node", lambda: seen.fetch_s or fetched())
                seen.fetch_s = seen.fetch_s or time.monotonic() - fetch_began
        finally:
            process.kill()
            process.join(60)
        ended, newest = time.monotonic(), -1
        while what == "receipts" and newest != (newest := plant.newest_receipt()):
            seen.after_s = time.monotonic() - ended
            time.sleep(1.0)
        seen.answers_s.append(plant.answer())
        seen.rss_mib = _mib(plant.hub.pid, "VmHWM")
        seen.broker_rss_mib = _mib(plant.broker_pid, "VmHWM")
        seen.alerts = sum(alert.code == "inbox.flooded" for alert in plant.store.alerts_of("refused"))
        return seen


class _Plant:
    """A fleet, its broker and its hub, made by the commands alone."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder, self.kind, self.fleet = folder, kind, folder / "fleet"
        self.hub_url = f"https://127.0.0.1:{free_port()}"
        secret = folder / "secret"
        secret.write_text("bench\n")
        secret.chmod(0o600)
        self.env = {**os.environ, "FLEETCAST_DIR": str(self.fleet), "FLEETCAST_PASSPHRASE_FILE": str(secret), "FLEETCAST_NODE_PORT": "0"}
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.tls: TlsFiles | None = None

    @contextmanager
    def running(self) -> Iterator["_Plant"]:
        mosquitto = self._begin()
        try:
            command = [str(BIN / "fleetcast"), "hub", str(self.fleet), "--json-logs"]
            with (self.folder / "hub.log").open("wb") as log, process_group(command, env=self.env, stdout=log, stderr=log) as self.hub:
                _wait("the hub", (self.fleet / "hub.ready").exists)
                facts = json.loads((self.fleet / "hub.ready").read_text())
                self.broker_url = facts["broker_url"]
                self.broker_pid = facts["broker_pid"] or mosquitto._process.pid  # type: ignore[union-attr]
                self.store = Store(database_url(self.fleet, load(self.fleet)))
                if self.kind == "mosquitto":
                    self._enrol_flooder()
                yield self
        finally:
            if mosquitto is not None:
                mosquitto.stop()

    def _begin(self) -> Mosquitto | None:
        more = ["--broker", "mqtts://127.0.0.1:1", "--hub-url", self.hub_url] if self.kind == "mosquitto" else []
        self.cli("init", str(self.fleet), "--fleet", FLEET, "--model", "m", *more)
        if self.kind == "embedded":
            return None
        self.cli("ca", "issue-server", "localhost", "--ip", "127.0.0.1")
        broker = Mosquitto(self.fleet / "broker", FLEET, ready=True)
        broker.start()
        settings = self.fleet / "fleet.toml"
        settings.write_text(settings.read_text().replace("mqtts://127.0.0.1:1", broker.url()) + 'enrolment = "required"\n')
        return broker

    def _enrol_flooder(self) -> None:
        data = self._enrol(FLOODER).parent / "data"
        self.key = serialization.load_pem_private_key((data / "device.pem").read_bytes(), None)  # type: ignore[assignment]
        there = next(data.rglob("node.crt")).parent
        self.tls = TlsFiles(str(there / "ca.crt"), str(there / "node.crt"), str(data / "device.pem"))

    def _enrol(self, name: str) -> Path:
        settings = self.folder / name / "node.toml"
        settings.parent.mkdir()
        if self.kind == "mosquitto":
            token = self.cli("enroll", "token", "--node", name)["token"]
            said = ["enroll", "--hub", self.hub_url, "--token", "-", "--settings", str(settings)]
            subprocess.run(
                [str(BIN / "fleetcast-node"), *said], input=f"{token}\n".encode(), check=True, env=self.env, stdout=subprocess.DEVNULL
            )
        else:
            settings.write_text(
                f'id = "{name}"\nfleet = "{FLEET}"\nbroker = "{self.broker_url}"\ndata = "data"\nroot = "../fleet/root.json"\nport = 0\n'
            )
        return settings

    def publish(self) -> None:
        """A release that everybody is to have."""
        path = self.folder / "m.bin"
        path.write_bytes(np.random.default_rng(1).bytes(MODEL_BYTES))
        self.cli("publish", str(path), "--name", "m", "--version", "1.0.0")
        self.cli("rollout", "start", "m@1.0.0", "--stages", "100")

    def answer(self) -> float:
        """How long the hub takes to obey, from the moment the command is queued; the rollout goes on afterwards."""
        took = []
        for kind in ("halt", "resume"):
            began = time.monotonic()
            number = self.store.add_command("m", commands.read(kind, "{}"))
            _wait("an answer", lambda number=number: (row := self.store.command(number)) and row.state != "open", every=0.01)
            row = self.store.command(number)
            assert row is not None
            assert row.state == "done", row.text
            took.append(time.monotonic() - began)
        return max(took)

    def halt(self) -> float:
        """How long the command takes, from its start to its end."""
        began = time.monotonic()
        self.cli("rollout", "halt", "m")
        return time.monotonic() - began

    def resume(self) -> None:
        """Go on with it."""
        self.cli("rollout", "resume", "m")

    def speak_once(self) -> None:
        """Say what the flooder's key is, as its agent does before its first receipt."""
        flood = Flood(self.broker_url, self.tls, FLOODER)
        (state,) = many_states(FLOODER, self.key, 1)
        flood.send(publish_packet(Topics(FLEET).state(FLOODER), state))
        _wait("the flooder", lambda: self.store.node(FLOODER))
        flood.close()

    def newest_receipt(self) -> int:
        """The highest number of the flooder's that the hub has taken in."""
        return max((one.sequence for one in self.store.receipts(node=FLOODER)), default=0)

    def fetch(self, name: str) -> float:
        """How long a fresh node takes to have the release on its disk."""
        began = time.monotonic()
        with self.fresh(name) as fetched:
            _wait("a fetch", fetched)
            return time.monotonic() - began

    @contextmanager
    def fresh(self, name: str) -> Iterator[Callable[[], bool]]:
        """A fresh node, and whether it has the release."""
        settings = self._enrol(name)
        log = settings.parent / "log"
        with log.open("wb") as target:
            node = subprocess.Popen([str(BIN / "fleetcast-node"), "run", "--settings", str(settings)], stderr=target, env=self.env)
        try:
            yield lambda: b"fetch.completed" in log.read_bytes()
        finally:
            node.terminate()
            node.wait(60)

    def cli(self, *arguments: str) -> Any:
        """Run one of its commands."""
        done = subprocess.run(
            [str(BIN / "fleetcast"), *arguments, "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.env
        )
        return json.loads(done.stdout) if done.stdout.startswith((b"{", b"[")) else None


def _flood(url: str, tls: TlsFiles | None, topic: str, payloads: list[bytes], rate: float, count: int, sent: Any) -> None:
    flood = Flood(url, tls, FLOODER)
    if rate:
        flood.repeat([publish_packet(topic, one) for one in payloads], rate=rate, seconds=FLOOD_SECONDS_MAX, sent=sent, count=count)
    else:
        flood.send_all(topic, payloads, sent=sent)


def _mib(pid: int, name: str) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _wait(what: str, probe: Callable[[], object], seconds: float = WAIT_SECONDS, *, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(every)
