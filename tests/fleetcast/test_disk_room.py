import errno
from pathlib import Path

import pytest

from fleetcast import disk_room
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
