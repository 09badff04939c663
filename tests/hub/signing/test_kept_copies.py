"""A flipped byte in any file of the hub's repository is found and mended when it is read; without a good copy the file is named."""

from pathlib import Path

import pytest

from schemas.errors import Code, Refused
from tests.small_disk import read_only
from tests.trust_fleet import Fleet, tree


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet.make(tmp_path / "hub")
    made.release("1.0.0")
    made.roll("1.0.0")
    made.deploy("1.0.0")
    made.refresh()
    return made


def said(fleet: Fleet) -> list[object]:
    """All that a hub publishes of its repository."""
    repository = fleet.repository
    return [
        repository.trust_bundle(),
        repository.trust_roles(),
        repository.model_bundle("delay", ["1.0.0"]),
        repository.deployments("delay"),
    ]


def files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.name != "lock")


def test_a_byte_that_flips_in_any_file_is_mended_and_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    before, whole = said(fleet), tree(tmp_path / "hub")

    for path in files(tmp_path):
        for at in (0, path.stat().st_size // 2, path.stat().st_size - 1):
            flip(path, at)
            assert said(fleet) == before, path

    assert tree(tmp_path / "hub") == whole


def test_a_disk_that_takes_no_write_is_read_and_a_change_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    before = said(fleet)

    with read_only(tmp_path):
        assert said(fleet) == before
        with pytest.raises(Refused) as refusal:
            fleet.refresh()

    assert refusal.value.code is Code.DISK_FULL
    fleet.refresh()


def test_a_missing_file_is_brought_back(fleet: Fleet, tmp_path: Path) -> None:
    before = said(fleet)
    newest = max((tmp_path / "hub" / "metadata").glob("*.targets.json"))
    newest.unlink()

    assert said(fleet) == before
    assert newest.exists()


@pytest.mark.parametrize("role", ["snapshot", "targets", "rollouts", "timestamp"])
def test_without_a_good_copy_the_damaged_file_is_named_with_the_mend(fleet: Fleet, tmp_path: Path, role: str) -> None:
    for copy in (tmp_path / "hub" / "copies" / "metadata").glob(f"*.{role}.json"):
        copy.unlink()
    newest = max((tmp_path / "hub" / "metadata").glob(f"*.{role}.json"), key=lambda path: int(path.name.partition(".")[0]))
    newest.write_bytes(b"#" + newest.read_bytes()[1:])

    with pytest.raises(Refused) as refusal:
        fleet.repository.trust_bundle()

    assert refusal.value.code is Code.METADATA_DAMAGED
    assert str(newest) in refusal.value.reason
    assert "restore" in refusal.value.reason


def test_a_repository_of_an_earlier_version_gets_copies_as_it_is_read(fleet: Fleet, tmp_path: Path) -> None:
    before = said(fleet)
    for path in sorted((tmp_path / "hub" / "copies").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()

    assert said(fleet) == before

    newest = max((tmp_path / "hub" / "metadata").glob("*.timestamp.json"))
    flip(newest, newest.stat().st_size // 2)
    assert said(fleet) == before
