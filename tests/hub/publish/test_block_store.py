"""What is put is there, whole and for good; what is not whole was never there."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.publish.block_store import BlockStore
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import PAYLOAD_BYTES_MAX
from schemas.names import sha256
from tests.small_disk import BYTES, small_disk


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@settings(deadline=None)  # a disk has no deadline
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_what_is_put_is_read_again_by_another_store(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    for payload in payloads:
        BlockStore(folder).put(sha256(payload), payload)
    again = BlockStore(folder)

    assert [again.read(sha256(payload)) for payload in payloads] == payloads
    assert set(again.digests()) == {sha256(payload) for payload in payloads}
    assert all(again.has(sha256(payload)) for payload in payloads)


def test_the_same_payload_twice_is_nothing(store: BlockStore) -> None:
    store.put(sha256(b"weights"), b"weights")
    before = store.path(sha256(b"weights")).stat()
    store.put(sha256(b"weights"), b"weights")

    assert store.path(sha256(b"weights")).stat() == before


def test_bytes_that_the_digest_does_not_name_are_not_stored(store: BlockStore) -> None:
    with pytest.raises(Refused) as caught:
        store.put(sha256(b"weights"), b"other")

    assert caught.value.code == Code.BLOCK_DIGEST
    assert files_in(store.directory) == []


def test_a_payload_that_no_broker_would_carry_is_not_stored(store: BlockStore) -> None:
    data = bytes(PAYLOAD_BYTES_MAX + 1)
    with pytest.raises(Refused) as caught:
        store.put(sha256(data), data)

    assert caught.value.code == Code.BLOCK_TOO_LARGE


def test_what_is_not_there_is_refused_by_name(store: BlockStore) -> None:
    with pytest.raises(Refused, match=sha256(b"weights").hex()) as caught:
        store.read(sha256(b"weights"))

    assert caught.value.code == Code.RELEASE_UNKNOWN
    assert not store.has(sha256(b"weights"))


def test_what_the_disk_has_changed_is_refused_and_mended_by_the_next_put(store: BlockStore) -> None:
    digest = sha256(b"weights")
    store.put(digest, b"weights")
    store.path(digest).write_bytes(b"weighty")
    with pytest.raises(Refused) as caught:
        store.read(digest)
    store.put(digest, b"weights")

    assert caught.value.code == Code.BLOCK_DIGEST
    assert store.read(digest) == b"weights"


def test_a_batch_that_fails_leaves_nothing(store: BlockStore) -> None:
    store.put(sha256(b"before"), b"before")
    with pytest.raises(Refused), store.batch() as batch:  # noqa: PT012  # the first put succeeds, which is the point
        batch.put(sha256(b"weights"), b"weights")
        batch.put(sha256(b"weights"), b"other")

    assert files_in(store.directory) == [store.path(sha256(b"before"))]
    assert not list(store.directory.glob(".*"))


def test_a_batch_is_seen_when_it_is_whole_and_not_before(store: BlockStore) -> None:
    payloads = [b"one", b"two", b"three"]
    with store.batch() as batch:
        for payload in (*payloads, *payloads):
            batch.put(sha256(payload), payload)
        seen = [store.has(sha256(payload)) for payload in payloads]

    assert seen == [False] * 3
    assert set(store.digests()) == {sha256(payload) for payload in payloads}
    assert batch.added_bytes == sum(len(payload) for payload in payloads)


def test_a_batch_counts_only_what_the_store_did_not_have(store: BlockStore) -> None:
    store.put(sha256(b"weights"), b"weights")
    with store.batch() as batch:
        batch.put(sha256(b"weights"), b"weights")

    assert batch.added_bytes == 0


def test_a_full_disk_is_refused_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = BlockStore(disk)
        kept = os.urandom(1000)
        store.put(sha256(kept), kept)
        with pytest.raises(Refused) as caught, store.batch() as batch:  # noqa: PT012  # which put fails is the disk's to say
            for _ in range(2 * BYTES // PAYLOAD_BYTES_MAX + 1):
                data = os.urandom(PAYLOAD_BYTES_MAX)
                batch.put(sha256(data), data)

        assert caught.value.code == Code.DISK_FULL
        assert str(disk) in caught.value.reason
        assert os.strerror(errno.ENOSPC) in caught.value.reason or os.strerror(errno.EFBIG) in caught.value.reason
        assert files_in(disk) == [store.path(sha256(kept))]
        store.put(sha256(b"small"), b"small")
        assert store.read(sha256(b"small")) == b"small"


def test_a_folder_that_cannot_be_written_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unreachable, match="file"):
        BlockStore(tmp_path / "file" / "blocks").put(sha256(b"weights"), b"weights")


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_holds_is_not(store: BlockStore) -> None:
    program = (
        "import sys, signal; from pathlib import Path; from hub.publish.block_store import BlockStore; from schemas.names import sha256\n"
        "with BlockStore(Path(sys.argv[1])).batch() as batch:\n"
        "    batch.put(sha256(b'half'), b'half'); print('staged', flush=True); signal.pause()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, store.directory], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"staged\n"
        store.put(sha256(b"weights"), b"weights")
        held = len(list(store.directory.glob(".batch-*")))
        child.send_signal(signal.SIGKILL)
        child.wait()
    finally:
        child.kill()
        child.communicate()
    store.put(sha256(b"more"), b"more")

    assert held == 1
    assert list(store.directory.glob(".batch-*")) == []
    assert set(store.digests()) == {sha256(b"weights"), sha256(b"more")}


def test_many_may_put_the_same_payloads_at_once(store: BlockStore) -> None:
    payloads = [os.urandom(500) for _ in range(10)]
    failures: list[BaseException] = []

    def put_all() -> None:
        try:
            for payload in payloads:
                store.put(sha256(payload), payload)
        except BaseException as error:  # a thread's error is shown by the test
            failures.append(error)

    threads = [threading.Thread(target=put_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert sorted(store.read(digest) for digest in store.digests()) == sorted(payloads)
