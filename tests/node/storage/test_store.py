"""What the node remembers is there after any death, and nothing is counted twice."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from node.core.activation.lifecycle import ModelSlot, Move, Target
from node.core.telemetry import privacy_accountant
from node.core.telemetry.privacy_accountant import Witness
from node.storage.outbox import SENT_KEPT
from node.storage.rows import StoredBlock
from node.storage.store import CLOSED_KEPT_SECONDS, NodeStore
from schemas.errors import Unreachable
from schemas.names import sha256
from schemas.receipt import Evidence

AT = 1_780_000_000


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    return NodeStore(tmp_path / "node.sqlite")


def test_a_slot_is_there_after_a_restart(tmp_path: Path) -> None:
    slot = ModelSlot(model="m", state="fetching", target=Target(version="1.0.0", digest=sha256(b"x"), rollout=bytes(16)))
    first = NodeStore(tmp_path / "node.sqlite")
    move = Move(number=1, at=1, event="wanted", before="idle", after="fetching", target=slot.target)
    with first.transaction():
        first.put_slot(slot, move)
    first.close()

    again = NodeStore(tmp_path / "node.sqlite")
    assert (again.slots(), again.moves("m")) == ({"m": slot}, [move])


def test_counters_only_rise(store: NodeStore) -> None:
    assert [store.next("session"), store.next("session")] == [1, 2]

    store.raise_fact("floor", 10)
    store.raise_fact("floor", 5)

    assert store.fact("floor") == 10


def test_a_transaction_that_fails_leaves_nothing(store: NodeStore) -> None:
    def charge_and_die() -> None:
        with store.transaction():
            store.charge([1], 0.5)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        charge_and_die()

    assert store.spent([1]) == 0.0


def test_the_dearest_day_of_an_interval_counts(store: NodeStore) -> None:
    store.charge([1, 2], 0.1)
    store.charge([2], 0.2)

    assert store.spent([1, 2]) == pytest.approx(0.3)


def test_the_ledger_stays_a_chain_where_a_clock_was_years_behind_for_a_while(store: NodeStore) -> None:
    end = Witness(0, privacy_accountant.START)
    for at in (AT, AT - 2 * CLOSED_KEPT_SECONDS, AT + 60):
        entry = privacy_accountant.following(end, at=at, days=[at // 86_400], rho=0.01, what="window")
        store.add_entry(entry, end.head)
        end = Witness(entry.number, entry.head)

    kept_after, entries = store.ledger()
    privacy_accountant.check(entries, before=kept_after, spent=store.spent_days(), witness=end)
    assert [entry.number for entry in entries] == [1, 2, 3]


def test_a_message_waits_until_it_is_sent_and_is_said_again_to_a_broker_that_forgot(store: NodeStore) -> None:
    number = store.enqueue("receipt", "t", b"1")
    assert [one.payload for one in store.waiting(10)] == [b"1"]

    store.mark_sent([number])
    assert store.waiting(10) == []
    store.resend()

    assert [one.payload for one in store.waiting(10)] == [b"1"]


def test_sent_messages_are_kept_only_so_many(store: NodeStore) -> None:
    numbers = [store.enqueue("window", "t", b"%d" % number) for number in range(SENT_KEPT + 50)]
    store.mark_sent(numbers)

    store.resend()

    assert len(store.waiting(10_000)) <= SENT_KEPT


def test_windows_do_not_crowd_out_the_receipts_that_are_kept(store: NodeStore) -> None:
    receipt = store.enqueue("receipt", "t", b"serving")
    store.mark_sent([receipt, *(store.enqueue("window", "t", b"%d" % number) for number in range(SENT_KEPT + 50))])

    assert [payload for _, _, payload, _ in store.outbox_payloads("receipt", 10)] == [b"serving"]


def test_a_block_is_found_wherever_it_stands_and_forgotten_with_its_folder(store: NodeStore) -> None:
    digest = sha256(b"block")
    store.add_blocks([StoredBlock(digest, "aa/v/f", 0, 5), StoredBlock(digest, "bb/v/f", 5, 5)])

    store.forget_blocks("aa")

    assert store.stored_blocks([digest]) == {digest: [StoredBlock(digest, "bb/v/f", 5, 5)]}


def test_a_resumed_transfer_goes_on_counting(store: NodeStore) -> None:
    store.open_usage(b"r" * 32)
    store.plan_missing(b"r" * 32, 100)
    store.add_bytes(b"r" * 32, received=40, wasted=3)
    store.open_usage(b"r" * 32)
    store.add_bytes(b"r" * 32, reused=10)
    store.plan_missing(b"r" * 32, 50)
    store.add_bytes(b"r" * 32, received=50)

    found = store.usage_of(b"r" * 32)

    assert (found.planned, found.received, found.reused, found.wasted) == (100, 90, 10, 3)
    assert store.usages() == {b"r" * 32: found}


def test_bytes_are_counted_by_day_and_by_what_the_road_costs(store: NodeStore) -> None:
    store.add_day_bytes(10, "metered", 5)
    store.add_day_bytes(10, "metered", 6)
    store.add_day_bytes(10, "free", 7)
    store.add_day_bytes(11, "free", 8)

    assert (store.day_bytes(10, "metered"), store.day_bytes(10, "roaming")) == (11, 0)
    assert store.days() == [(11, "free", 8), (10, "free", 7), (10, "metered", 11)]
    store.add_day_bytes(200, "free", 1)
    assert store.days() == [(200, "free", 1)]


def test_an_interval_that_was_closed_stays_closed_and_its_checkpoint_is_gone(store: NodeStore) -> None:
    store.put_sketch("m", b"r" * 32, {60: [1, 2], 120: [3, 4]})

    store.close_window("m", b"r" * 32, 60, at=1, rows=3, rho=0.1)

    assert store.window_closed("m", b"r" * 32, 60)
    assert store.sketches("m", b"r" * 32) == {120: [3, 4]}


def test_a_reader_beside_the_writer_sees_what_is_committed_and_can_write_nothing(tmp_path: Path, store: NodeStore) -> None:
    reader = NodeStore.reading(tmp_path / "node.sqlite")
    store.raise_fact("floor", 10)
    seen = reader.fact("floor")
    with store.transaction():
        store.raise_fact("floor", 20)
        within = reader.fact("floor")

    assert (seen, within, reader.fact("floor")) == (10, 10, 20)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.raise_fact("floor", 30)


def test_a_reader_leaves_the_file_of_a_writer_that_has_gone_as_it_was(tmp_path: Path) -> None:
    writer = NodeStore(tmp_path / "node.sqlite")
    writer.raise_fact("floor", 10)
    writer.close()
    before = (tmp_path / "node.sqlite").read_bytes()

    reader = NodeStore.reading(tmp_path / "node.sqlite")
    found = reader.fact("floor")
    reader.close()

    assert (found, (tmp_path / "node.sqlite").read_bytes() == before) == (10, True)


def test_a_reader_sees_what_a_writer_that_was_killed_had_committed(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from node.storage.store import NodeStore\n"
    code += "NodeStore(Path(sys.argv[1])).raise_fact('floor', 10); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "node.sqlite")], check=False)

    assert (tmp_path / "node.sqlite-wal").exists()
    assert NodeStore.reading(tmp_path / "node.sqlite").fact("floor") == 10


@pytest.mark.parametrize("content", [b"no database" * 1000, b""])
def test_a_file_that_is_no_store_is_unreachable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node.sqlite").write_bytes(content)

    with pytest.raises(Unreachable, match=r"node\.sqlite"):
        NodeStore.reading(tmp_path / "node.sqlite")


def test_evidence_is_kept_and_one_made_before_it_was_has_none(tmp_path: Path, store: NodeStore) -> None:
    evidence = Evidence(golden_error_max=0.5, golden_rows=3, latency_ms=1.25, memory_bytes=7, variant="int8")
    store.put_evidence(b"r" * 32, Evidence(), at=1)
    store.put_evidence(b"r" * 32, evidence, at=2)
    kept = NodeStore.reading(tmp_path / "node.sqlite").evidence()
    older = sqlite3.connect(tmp_path / "older.sqlite")
    older.execute("CREATE TABLE slot (model TEXT PRIMARY KEY, document TEXT NOT NULL)")
    older.close()

    assert kept == {b"r" * 32: (2, evidence)}
    assert NodeStore.reading(tmp_path / "older.sqlite").evidence() == {}
