"""What a report, a receipt and an hour of ten thousand nodes cost a hub that keeps a month: in its intake, over a real database on disk.

Messages are handed to the intake as the loop hands them on, in batches of what one look takes; the broker's part is not in it. Time is a
clock that the bench sets, so that an hour takes as long as its messages do.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.figures import Figure
from fleetcast.mqtt_connection import Message
from hub.core.enrol.enrolment import Roll
from hub.database.hearing import Hearing
from hub.database.rows import WindowRow
from hub.database.store import Store
from hub.publish.block_store import BlockStore
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import ReceiptArrived, StateArrived
from hub.service.loop import AT_ONCE
from hub.service.rollouts.listening import ListeningClock
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.ingest import Ingest
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.names import sha256
from schemas.receipt import Evidence, Receipt, SealedReceipt
from schemas.state import REPORT_SECONDS, State
from tools import seed_fleet
from tools.seed_fleet import Plan

NODES, DAYS, COHORTS, SIGNALS, BINS = 10_000, 30, 20, 20, 9
HOUR, HOURS_A_DAY = 3600, 24
RELEASE = sha256(b"a release")
T = TypeVar("T")


def measure() -> list[Figure]:
    """Seed a month of history, then take reports, receipts and windows."""
    with tempfile.TemporaryDirectory() as folder:
        hub = _Hub(Path(folder))
        try:
            states = hub.states()
            same = hub.cost(lambda: hub.take_states(states)) / NODES * 1000
            changed = [one.model_copy(update={"timestamp_version": 9}) for one in states]
            state = hub.cost(lambda: hub.take_states(changed)) / NODES * 1000
            receipts = hub.receipts()
            began = time.monotonic()
            receipt = hub.cost(lambda: hub.take_receipts(receipts)) / NODES * 1000
            wave = time.monotonic() - began
            written = hub.written(hub.hour) * HOURS_A_DAY / 1e9
        finally:
            hub.close()
    return [
        Figure(
            "hub.state_ms", state, "ms of CPU for a state that says something new", "<= 0.4", "one that says only that it is there", same
        ),
        Figure("hub.receipt_ms", receipt, "ms of CPU for a receipt, verified and durable", "<= 0.4", "", None),
        Figure("hub.receipts_wave_s.10000", wave, "s for receipts of 10,000 nodes at once", "<= 10", "", None),
        Figure("hub.bytes_written_day.10000", written, "GB on the disk for a day of reports and hourly windows", "<= 2", "", None),
    ]


class _Hub:
    """The intake of a hub over a seeded database."""

    def __init__(self, folder: Path) -> None:
        self.now = float(int(time.time()))
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        path = folder / "hub.sqlite"
        seed_fleet.seed(
            path, [], Plan(nodes=NODES, days=DAYS, cohorts=COHORTS), now=int(self.now), key=self._key.public_key().public_bytes(*public)
        )
        self._store = Store(f"sqlite:///{path}", clock=lambda: self.now)
        self._store.create()
        self._listening = ListeningClock(Hearing(self._store.database), monotonic=lambda: self.now)
        self._listening.connected(1)
        self._listening.subscribed(denied=False)
        self._ingest = Ingest(
            store=self._store,
            notes=Notes(self._store, publish=lambda alert: None, clock=lambda: self.now),
            roll=Roll(required=False),
            look=lambda: None,
            releases=Releases(Repository(folder / "trust"), BlockStore(folder / "blocks")),
            silent_seconds=HOUR,
            topic_of=lambda node: node,
            window_rows_max=1_000_000,
            window_age_days_max=32,
            set_cohorts=list,
            random_bytes=os.urandom,
            clock=lambda: self.now,
            listening=self._listening,
        )

    def close(self) -> None:
        self._store.close()

    def states(self) -> list[State]:
        return [node.state for node in self._ingest.nodes.values()]

    def receipts(self) -> list[SealedReceipt]:
        """Signed by the one key that all devices of this bench have."""
        evidence, at, found = Evidence(latency_ms=3.0), int(self.now), list[SealedReceipt]()
        for name in self._ingest.nodes:
            receipt = Receipt(
                node=name, sequence=10**6, at=at, outcome="serving", model="m", version="2.0.0", digest=RELEASE, since=at, evidence=evidence
            )
            body = codec.encode(receipt)
            found.append(SealedReceipt(body=body, signature=self._key.sign(body, ec.ECDSA(hashes.SHA256()))))
        return found

    def take_states(self, states: Sequence[State]) -> None:
        for some in _batched(states, AT_ONCE["state"]):
            self._ingest.states([StateArrived(one.model_copy(update={"at": int(self.now)}), _message(one.node)) for one in some])

    def take_receipts(self, receipts: Sequence[SealedReceipt]) -> None:
        for some in _batched(list(zip(self._ingest.nodes, receipts, strict=True)), AT_ONCE["receipt"]):
            self._ingest.receipts([ReceiptArrived(node, one, _message(node)) for node, one in some])

    def hour(self) -> None:
        """Every node reports every five minutes, at a moment of its own, and sends its window within moments of the full hour."""
        states = self.states()
        for second in range(HOUR):
            self._pass_second()
            mine = states[second % REPORT_SECONDS :: REPORT_SECONDS]
            for one in mine:  # Alone, since nothing else comes in the same moment.
                self._ingest.states([StateArrived(one.model_copy(update={"at": int(self.now)}), _message(one.node))])
        windows = [_window(number, int(self.now) // HOUR * HOUR - HOUR) for number in range(NODES)]
        for some in _batched(windows, AT_ONCE["telemetry"]):
            self._store.add_windows(some)

    def _pass_second(self) -> None:
        self.now += 1
        self._listening.took(1, waited=0.0, full=False)
        self._listening.tick()
        self._ingest.tick()

    @staticmethod
    def cost(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    @staticmethod
    def written(work: Callable[[], object]) -> float:
        """Return the bytes that this process gave to the disk."""
        before = _write_bytes()
        work()
        return _write_bytes() - before


def _batched(found: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (found[at : at + size] for at in range(0, len(found), size))


def _write_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def _message(node: str) -> Message:
    return Message(node, b"", retained=False, mid=1, qos=1, epoch=1)


def _window(number: int, start: int) -> WindowRow:
    counts = np.full(SIGNALS * BINS, 5, np.int64)
    return WindowRow(
        os.urandom(16), sha256(b"m@1.0.0"), "m", f"site-{number % COHORTS:03}", start, HOUR, counts, rows=100, group=number % 256
    )
