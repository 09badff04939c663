"""A parcel is checked before it is visible, and never half there."""

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.storage.sideload import PARCELS_MAX, Sideload
from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle
from schemas.bundle_file import MAGIC, Parcel, read_frames, write_frame
from schemas.deployments import Envelope
from schemas.errors import Code, Refused
from schemas.limits import PAYLOAD_BYTES_MAX
from schemas.names import sha256
from tests.small_disk import small_disk
from tools.examples import EXAMPLES

TRUST = next(one for one in EXAMPLES if isinstance(one, TrustBundle))
MODEL = next(one for one in EXAMPLES if isinstance(one, ModelBundle))
STATEMENT = next(one for one in EXAMPLES if isinstance(one, Envelope))
BLOCKS = [b"first block", b"second, longer block"]


def parcel(*, fleet: str = "plant", blocks: int = 2, size: int = 31, release: bytes = sha256(b"release")) -> Parcel:
    return Parcel(fleet=fleet, model="delay", version="1.2.0", release=release, at=1, blocks=blocks, bytes=size)


def frames(said: Parcel, blocks: list[bytes] = BLOCKS) -> bytes:
    out = io.BytesIO()
    out.write(MAGIC)
    write_frame(out, "parcel", codec.encode(said))
    write_frame(out, "trust", codec.encode(TRUST))
    write_frame(out, "model", codec.encode(MODEL))
    for block in blocks:
        write_frame(out, "block", block)
    write_frame(out, "end")
    return out.getvalue()


def unpack(data: bytes, folder: Path) -> Parcel:
    path = folder / "stick.parcel"
    path.write_bytes(data)
    return Sideload(folder / "carried").unpack(path, fleet="plant")


def test_what_was_packed_is_there_and_goes_when_it_is_needed_no_more(tmp_path: Path) -> None:
    found = unpack(frames(parcel()), tmp_path)

    carried = Sideload(tmp_path / "carried")
    assert set(carried.releases()) == {found.release}
    assert [carried.read(sha256(block)) for block in BLOCKS] == BLOCKS
    assert carried.read(sha256(b"another")) is None
    unpacked = carried.documents(found.release)
    assert (unpacked.parcel, unpacked.trust, unpacked.model) == (found, TRUST, MODEL)
    carried.remove(found.release)
    assert carried.releases() == {}
    assert carried.read(sha256(BLOCKS[0])) is None


def test_deployments_travel_as_a_first_block_that_devices_of_before_only_keep(tmp_path: Path) -> None:
    statement = codec.encode(STATEMENT)
    found = unpack(frames(parcel(blocks=3, size=31 + len(statement)), [statement, *BLOCKS]), tmp_path)
    carried = Sideload(tmp_path / "carried")

    assert carried.documents(found.release).deployments == STATEMENT
    assert [carried.read(sha256(block)) for block in (statement, *BLOCKS)] == [statement, *BLOCKS]
    later = unpack(frames(parcel(blocks=3, size=31 + len(statement), release=sha256(b"later")), [*BLOCKS, statement]), tmp_path)
    assert carried.documents(later.release).deployments is None, "only the first block can be a statement"


WHOLE = frames(parcel())


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", Code.SCHEMA_UNSUPPORTED, "not a fleetcast bundle file"),
        (b"PK\x03\x04" + bytes(100), Code.SCHEMA_UNSUPPORTED, "not a fleetcast bundle file"),
        (WHOLE[:-5], Code.SCHEMA_MALFORMED, "cut short"),
        (WHOLE[:-9], Code.SCHEMA_MALFORMED, "cut short"),
        (WHOLE[: len(MAGIC)], Code.SCHEMA_MALFORMED, "cut short"),
        (frames(parcel(fleet="other")), Code.TRUST_MISMATCH, "expected plant, found other"),
        (frames(parcel(blocks=3)), Code.SCHEMA_MALFORMED, "expected 3 blocks"),
        (frames(parcel(size=30)), Code.SCHEMA_MALFORMED, "of 30 bytes"),
        (MAGIC + b"B" + struct.pack(">I", 3) + b"abc", Code.SCHEMA_MALFORMED, "expected a parcel"),
        (WHOLE[:-5] + b"B" + struct.pack(">I", PAYLOAD_BYTES_MAX + 1), Code.SCHEMA_TOO_LARGE, f"at most {PAYLOAD_BYTES_MAX}"),
        (WHOLE[:-5] + b"Z" + struct.pack(">I", 1) + b"z", Code.SCHEMA_MALFORMED, "expected a block"),
        (MAGIC + b"P" + struct.pack(">I", 3) + b"abc", Code.SCHEMA_MALFORMED, "parcel"),
    ],
)
def test_a_file_that_is_no_whole_parcel_of_this_fleet_is_refused_and_leaves_nothing(
    tmp_path: Path, data: bytes, code: Code, says: str
) -> None:
    with pytest.raises(Refused, match=says) as refused:
        unpack(data, tmp_path)

    assert refused.value.code is code
    assert list((tmp_path / "carried").iterdir()) == []


@given(st.binary(max_size=400), st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_no_bytes_raise_anything_but_a_refusal(noise: bytes, at: int, value: int) -> None:
    for data in (MAGIC + noise, WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :]):
        try:
            for _, part in read_frames(io.BytesIO(data)):
                assert len(part) <= len(data)
        except Refused:
            pass


def test_a_parcel_that_is_unpacked_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    unpack(frames(parcel()), tmp_path)

    unpack(frames(parcel()), tmp_path)

    assert len(Sideload(tmp_path / "carried").releases()) == 1


def test_the_oldest_parcels_go_when_there_are_too_many(tmp_path: Path) -> None:
    for number in range(PARCELS_MAX + 2):
        unpack(frames(parcel(release=sha256(b"%d" % number))), tmp_path)

    assert len(Sideload(tmp_path / "carried").releases()) == PARCELS_MAX


def test_a_full_disk_and_a_missing_stick_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "stick.parcel"
    with pytest.raises(Refused, match="No such file") as refused:
        Sideload(tmp_path / "carried").unpack(path, fleet="plant")
    assert refused.value.code is Code.SETTINGS_INVALID
    path.write_bytes(frames(parcel(size=100_020), blocks=[bytes(100_000), BLOCKS[1]]))
    with small_disk(tmp_path / "disk") as disk:
        for number in range(4):
            (disk / f"filler-{number}").write_bytes(bytes(50_000))
        with pytest.raises(Refused, match="no room") as refused:
            Sideload(disk / "carried").unpack(path, fleet="plant")
        assert refused.value.code is Code.DISK_FULL
        assert Sideload(disk / "carried").releases() == {}


def test_what_another_process_is_just_unpacking_is_not_cleared_away(tmp_path: Path) -> None:
    carried = Sideload(tmp_path / "carried")
    carried.directory.mkdir()
    (carried.directory / ".unpacking-left").mkdir()

    with carried._partial() as writing:
        (writing / "a block").write_bytes(b"half")
        found = unpack(frames(parcel()), tmp_path)

        assert (writing / "a block").read_bytes() == b"half"
        assert not (carried.directory / ".unpacking-left").exists()

    assert set(carried.releases()) == {found.release}
    assert not list(carried.directory.glob(".unpacking-*"))


def test_a_parcel_with_more_than_releases_may_take_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "stick.parcel"
    path.write_bytes(frames(parcel(blocks=3, size=31 + 100_000), [*BLOCKS, bytes(100_000)]))
    carried = Sideload(tmp_path / "carried")

    with pytest.raises(Refused) as refusal:
        carried.unpack(path, fleet="plant", bytes_max=50_000)

    assert refusal.value.code is Code.DISK_QUOTA
    assert "disk_bytes_max" in refusal.value.reason
    assert not list(carried.directory.iterdir())
    carried.unpack(path, fleet="plant", bytes_max=200_000)
