"""Payloads in a real S3 server: by their digest, verified when read, and in front of it a folder that may be emptied."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hub.publish import object_store
from hub.publish.block_store import BlockStore
from hub.publish.object_store import ObjectStore, bucket_of
from hub.publish.shared_blocks import SharedBlocks
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import PAYLOAD_BYTES_MAX
from schemas.names import sha256
from tests.objects import Bucket

DATA = [bytes([number]) * 1000 for number in range(6)]
ONE = sha256(DATA[0])


def key(digest: bytes) -> str:
    return f"releases/main/blocks/{digest.hex()[:2]}/{digest.hex()}"


@pytest.fixture
def objects(bucket: Bucket) -> ObjectStore:
    return ObjectStore(bucket.url, "main", endpoint_url=bucket.endpoint_url)


@pytest.fixture
def shared(objects: ObjectStore, tmp_path: Path) -> SharedBlocks:
    return SharedBlocks(tmp_path / "blocks", objects)


def test_a_payload_is_found_by_its_digest_and_by_no_other(objects: ObjectStore) -> None:
    objects.put(ONE, DATA[0])

    assert objects.has(ONE)
    assert objects.read(ONE) == DATA[0]
    assert list(objects.digests()) == [ONE]
    assert objects.sizes == {ONE: 1000}
    other = sha256(b"other")
    assert not objects.has(other)
    with pytest.raises(Refused, match="is not in s3://") as caught:
        objects.read(other)
    assert caught.value.code == Code.RELEASE_UNKNOWN
    objects.remove(ONE)
    objects.remove(ONE)
    assert not objects.has(ONE)


def test_bytes_that_are_not_the_digests_are_neither_stored_nor_read(objects: ObjectStore, bucket: Bucket) -> None:
    with pytest.raises(Refused) as caught:
        objects.put(ONE, DATA[1])
    assert caught.value.code == Code.BLOCK_DIGEST
    for wrong in (DATA[1], b"", bytes(PAYLOAD_BYTES_MAX + 1)):
        bucket.write(key(ONE), wrong)
        with pytest.raises(Refused) as caught:
            objects.read(ONE)
        assert caught.value.code == Code.BLOCK_DIGEST
        assert bucket.url in str(caught.value)


def test_what_is_wrong_with_the_store_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match="no such bucket: create it first"):
        ObjectStore("s3://no-such-bucket", "main", endpoint_url=bucket.endpoint_url).check()
    away = ObjectStore(bucket.url, "main", endpoint_url="http://127.0.0.1:1")
    for call in (away.check, lambda: away.has(ONE), lambda: away.read(ONE), lambda: away.put(ONE, DATA[0]), lambda: list(away.digests())):
        with pytest.raises(Unreachable, match=r"object store s3://bucket-\d+/releases: .* it does not answer"):
            call()
    monkeypatch.setattr(object_store, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(object_store, "RETRIES_MAX", 0)
    slow = ObjectStore(bucket.url, "main", endpoint_url=bucket.endpoint_url)
    bucket.road.fall_silent()
    with pytest.raises(Unreachable, match="it does not answer"):
        slow.read(ONE)


@pytest.mark.parametrize(
    "url", ["http://bucket", "s3://", "s3://UPPER", "s3://b?x=1", "s3://bucket/a b", "bucket", "s3://[", "s3://me:secret@b"]
)
def test_no_other_url_is_taken_for_a_bucket(url: str) -> None:
    with pytest.raises(Refused, match="must look like s3://bucket") as caught:
        bucket_of(url)
    assert caught.value.code == Code.SETTINGS_INVALID


def test_a_hub_without_obstore_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['obstore'] = None\nfrom hub.publish.object_store import ObjectStore\nObjectStore('s3://bucket', 'main')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=os.environ, check=False)

    assert "fleetcast[hub,objects]" in done.stderr


def test_a_batch_is_in_the_object_store_before_it_is_visible(objects: ObjectStore, tmp_path: Path) -> None:
    seen: list[list[bytes]] = []
    shared = SharedBlocks(tmp_path / "blocks", objects, committing=lambda: seen.append(sorted(objects.digests())))
    with shared.batch() as batch:
        for data in DATA:
            batch.put(sha256(data), data)

    assert seen == [sorted(map(sha256, DATA))]
    assert sorted(BlockStore(tmp_path / "blocks").digests()) == seen[0]


def test_a_batch_leaves_nothing_where_the_object_store_is_away(shared: SharedBlocks, bucket: Bucket) -> None:
    bucket.go()
    with pytest.raises(Unreachable, match=bucket.url), shared.batch() as batch:
        batch.put(ONE, DATA[0])

    assert list(BlockStore(shared.directory).digests()) == []
    bucket.come_back()
    shared.put(ONE, DATA[0])  # as soon as it is back
    assert shared.objects.has(ONE)


def test_a_batch_brings_along_what_only_the_folder_had(shared: SharedBlocks) -> None:
    BlockStore(shared.directory).put(ONE, DATA[0])  # before there was an object store
    shared.put(ONE, DATA[0])

    assert shared.objects.read(ONE) == DATA[0]


def test_what_the_folder_lacks_or_has_damaged_comes_from_the_object_store(shared: SharedBlocks) -> None:
    shared.put(ONE, DATA[0])
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(b"damaged")):
        spoil(shared.path(ONE))
        assert shared.has(ONE)
        assert shared.read(ONE) == DATA[0]
        assert shared.path(ONE).read_bytes() == DATA[0]


def test_a_full_folder_drops_what_was_not_used_for_longest(shared: SharedBlocks) -> None:
    for number, data in enumerate(DATA):
        BlockStore(shared.directory).put(sha256(data), data)
        os.utime(shared.path(sha256(data)), (number, number))
    shared.read(ONE)

    assert shared.trim(6000) == 0
    assert shared.trim(4000) == 3000
    assert [shared.is_local(sha256(data)) for data in DATA] == [True, False, False, False, True, True]
    assert all(shared.read(sha256(data)) == data for data in DATA)  # the object store was given them before they were dropped


def test_what_a_fleet_had_in_its_folder_is_shared(shared: SharedBlocks) -> None:
    folder = BlockStore(shared.directory)
    for data in DATA:
        folder.put(sha256(data), data)
    folder.path(ONE).write_bytes(b"damaged")

    assert shared.share() == len(DATA) - 1
    assert sorted(shared.digests()) == sorted(sha256(data) for data in DATA[1:])
    assert shared.share() == 0


def test_a_removed_payload_is_gone_from_both(shared: SharedBlocks) -> None:
    shared.put(ONE, DATA[0])
    shared.path(ONE).unlink()

    assert shared.remove(ONE) == 1000
    assert not shared.has(ONE)


def test_only_open_blocks_opens_a_fleets_folder_of_blocks() -> None:
    """A command that opened it by itself would look for blocks in the folder alone, where a fleet has an object store."""
    checkout = Path(__file__).parents[3]
    modules = [path for folder in ("hub", "simulation", "fleetcast") for path in (checkout / folder).rglob("*.py")]
    found = [path.name for path in modules if re.search(r'BlockStore\([^)]*/ "blocks"', path.read_text())]
    assert found == ["blocks.py"]
