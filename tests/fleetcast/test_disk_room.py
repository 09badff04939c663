import errno
import os
from pathlib import Path

import pytest

from fleetcast import disk_room, durable
from hub.signing.metadata_files import MetadataFolder, write
from node.storage.artifacts import Artifacts
from schemas.errors import Code, Refused
from tests.small_disk import small_disk

KB = 1024


def test_writing_to_a_full_disk_is_refused_with_the_sentence_and_the_cause(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        full = r"no room for the model: (No space|File too large)"
        with pytest.raises(Refused, match=full) as refused, disk_room.refusing("no room for the model"):
            (disk / "file").write_bytes(bytes(1024 * KB))

        assert refused.value.code is Code.DISK_FULL


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_room.refusing("no room"):
        (tmp_path / "absent" / "file").write_bytes(b"")


def test_a_read_only_disk_is_no_full_one_unless_asked_for() -> None:
    read_only = OSError(errno.EROFS, "Read-only file system")
    with pytest.raises(OSError, match="Read-only"), disk_room.refusing("no room"):
        raise read_only
    with pytest.raises(Refused, match="no room: Read-only"), disk_room.refusing("no room", errnos=disk_room.FULL_OR_READ_ONLY):
        raise read_only


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_is_refused_and_not_a_bug(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(durable, "sync", refused)
    for make in (lambda: Artifacts(tmp_path / "artifacts"), lambda: _in_a_repository(tmp_path)):
        with pytest.raises(Refused, match=os.strerror(number)) as refusal:
            make()
        assert refusal.value.code is Code.DISK_FULL


def _in_a_repository(folder: Path) -> None:
    with MetadataFolder(folder).locked():
        write(folder / "documents" / "new" / "one", b"")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, Code.DISK_FULL),
        (errno.EDQUOT, Code.DISK_FULL),
        (errno.EFBIG, Code.DISK_FULL),
        (errno.EACCES, Code.KEY_UNREADABLE),
        (errno.EROFS, Code.KEY_UNREADABLE),
    ],
)
def test_the_code_is_disk_full_only_where_the_error_says_so(number: int, code: Code) -> None:
    assert disk_room.code_of(OSError(number, ""), Code.KEY_UNREADABLE) is code


def test_room_is_what_the_disk_has_free(tmp_path: Path) -> None:
    assert disk_room.has_room(tmp_path, 1)
    assert not disk_room.has_room(tmp_path, 2**62)
