"""The guest's disk keeps what was flushed over a cut, and what was not flushed is kept, torn or lost as the seed says."""

import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.disk import SECTOR_BYTES, DiskServer, VolatileDisk

BLOCK = 4096
OLD, NEW = b"o" * BLOCK, b"n" * BLOCK


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[VolatileDisk]:
    path = tmp_path / "disk.raw"
    path.write_bytes(OLD * 64)
    made = VolatileDisk(path)
    yield made
    made.close()


def blocks(disk: VolatileDisk) -> list[bytes]:
    return [disk.read(number * BLOCK, BLOCK) for number in range(64)]


@pytest.mark.parametrize("seed", range(20))
def test_what_was_flushed_or_forced_survives_every_cut(disk: VolatileDisk, seed: int) -> None:
    for number in range(0, 32):
        disk.write(number * BLOCK, NEW)
    disk.flush()
    for number in range(32, 64):
        disk.write(number * BLOCK, NEW, forced=number % 2 == 0)
    assert blocks(disk) == [NEW] * 64  # as a running guest sees it

    disk.cut(random.Random(seed))

    after = blocks(disk)
    assert after[:32] == [NEW] * 32
    assert {block for number, block in enumerate(after) if number >= 32 and number % 2 == 0} == {NEW}


def test_cuts_lose_keep_and_tear_what_was_not_flushed(disk: VolatileDisk) -> None:
    sums = {"kept": 0, "torn": 0, "lost": 0}
    for seed in range(30):
        for number in range(64):
            disk.write(number * BLOCK, OLD)
        disk.flush()
        for number in range(64):
            disk.write(number * BLOCK, NEW)

        found = disk.cut(random.Random(seed))

        after = blocks(disk)
        torn = [block for block in after if block not in (OLD, NEW)]
        assert (found.writes, found.kept, found.torn) == (64, after.count(NEW), len(torn))
        assert all(block == NEW[:at] + OLD[at:] for block in torn for at in [block.count(b"n")] if at % SECTOR_BYTES == 0)
        assert all(block.count(b"n") % SECTOR_BYTES == 0 for block in torn)
        for name in sums:
            sums[name] += getattr(found, name)
    assert min(sums.values()) > 50, sums


def test_a_lost_write_gives_back_what_was_there_before_it(disk: VolatileDisk) -> None:
    outcomes = set()
    for seed in range(40):
        disk.write(0, OLD)
        disk.flush()
        disk.write(0, b"1" * BLOCK)
        disk.write(0, b"2" * BLOCK)
        disk.cut(random.Random(seed))
        outcomes.add(disk.read(0, 1) + disk.read(BLOCK - 1, 1))
    assert {b"oo", b"11", b"22"} <= outcomes


def test_a_client_reads_writes_and_flushes_by_nbd(disk: VolatileDisk, tmp_path: Path) -> None:
    server = DiskServer(disk, tmp_path / "d.sock")
    server.serve_next()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        client.connect(str(server.path))
        file = client.makefile("rb")
        assert file.read(18)[:16] == b"NBDMAGICIHAVEOPT"
        client.sendall(struct.pack(">I", 3) + struct.pack(">8sII", b"IHAVEOPT", 7, 6) + struct.pack(">IH", 0, 0))
        head = file.read(20)
        assert file.read(struct.unpack(">I", head[16:])[0])[2:10] == struct.pack(">Q", 64 * BLOCK)
        assert file.read(20)[12:16] == struct.pack(">I", 1)

        def request(kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> int:
            client.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, 7, offset, length) + data)
            magic, error, handle = struct.unpack(">IIQ", file.read(16))
            assert (magic, handle) == (0x67446698, 7)
            return int(error)

        assert request(1, BLOCK, BLOCK, NEW) == 0
        assert request(3) == 0
        assert request(1, 0, BLOCK, NEW) == 0
        assert request(0, BLOCK, BLOCK) == 0
        assert file.read(BLOCK) == NEW
        assert request(9) != 0
        file.close()
    server.wait()
    server.close()

    disk.cut(random.Random(1))

    assert disk.read(BLOCK, BLOCK) == NEW
