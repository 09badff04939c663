import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fleetcast import durable
from tests.small_disk import small_disk

KB = 1024


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_write_replaces_the_whole_content_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write(path, b"a long first content")
    durable.write(path, b"second")

    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_within_the_block_leaves_the_old_content_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write(path, b"old")

    with pytest.raises(TypeError), durable.replacing(path) as file:
        file.writelines([b"half of the n", "no bytes"])  # type: ignore[list-item]

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_content_and_no_trace(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "file"
        durable.write(path, b"old")
        with pytest.raises(OSError, match=r"No space|too large"):
            durable.write(path, bytes(1024 * KB))

        assert path.read_bytes() == b"old"
        assert list(disk.iterdir()) == [path]


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o600, 0o600), (0o644, 0o644)])
def test_a_mode_is_exact_and_without_one_the_umask_decides(tmp_path: Path, mode: int | None, expected: int) -> None:
    before = os.umask(0o027)
    try:
        durable.write(tmp_path / "file", b"", mode=mode)
    finally:
        os.umask(before)

    assert mode_of(tmp_path / "file") == expected


def test_a_link_planted_under_the_partial_name_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"another's")
    (tmp_path / f".file.{os.getpid()}.partial").symlink_to(other)
    durable.write(tmp_path / "file", b"ours")

    assert other.read_bytes() == b"another's"
    assert (tmp_path / "file").read_bytes() == b"ours"


KILLED = """
import os, signal, sys
from pathlib import Path
from fleetcast import durable

left, real = int(sys.argv[2]), os.fsync
def fsync(descriptor):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
durable.write(Path(sys.argv[1]), b"new content")
"""


@pytest.mark.parametrize(("syncs", "content"), [(0, b"old"), (1, b"new content"), (2, b"new content")])
def test_a_kill_at_any_sync_leaves_the_old_or_the_new_content(tmp_path: Path, syncs: int, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    subprocess.run([sys.executable, "-c", KILLED, str(path), str(syncs)], check=False, timeout=60)

    assert path.read_bytes() == content


def test_create_is_for_the_owner_only_and_never_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    durable.create(path, b"first")
    with pytest.raises(FileExistsError):
        durable.create(path, b"second")

    assert (path.read_bytes(), mode_of(path)) == (b"first", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_that_create_one_file_exactly_one_does(tmp_path: Path) -> None:
    made: list[int] = []

    def create(number: int) -> None:
        try:
            durable.create(tmp_path / "key", str(number).encode())
        except FileExistsError:
            return
        made.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [str(number) for number in made] == [(tmp_path / "key").read_text()]


def test_rename_moves_a_folder_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "file").write_bytes(b"content")
    durable.rename(tmp_path / "from", tmp_path / "to")

    assert (tmp_path / "to" / "file").read_bytes() == b"content"
    assert not (tmp_path / "from").exists()


def test_a_file_that_cannot_be_synced_is_no_error() -> None:
    durable.sync(Path("/dev/null"))  # EINVAL, as a folder has on some file systems


def test_a_new_folder_is_durable_by_the_folders_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync", synced.append)

    durable.make_folder(tmp_path / "a" / "b", mode=0o700, parents=True)
    durable.make_folder(tmp_path / "a" / "b", parents=True)  # is there

    assert synced == [tmp_path, tmp_path / "a"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileNotFoundError):
        durable.make_folder(tmp_path / "gone" / "b")


HELD = """
import os, signal, sys
from pathlib import Path
from fleetcast import durable
path, what = Path(sys.argv[1]), sys.argv[2]
end = lambda *_: (print("there", flush=True), sys.stdin.read(), os.kill(os.getpid(), signal.SIGKILL))
if what == "create":
    os.link = end
else:
    Path.replace = end
getattr(durable, what)(path, b"a secret")
"""


@pytest.mark.parametrize("what", ["create", "write"])
def test_a_part_of_a_key_is_cleared_once_its_writer_is_dead(tmp_path: Path, what: str) -> None:
    (tmp_path / ".mine.pem").write_text("a hidden file of somebody's")
    writer = subprocess.Popen(
        [sys.executable, "-c", HELD, tmp_path / "targets.next.pem", what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "there\n"
    durable.clear_parts(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # it is being written

    writer.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    durable.clear_parts(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [".mine.pem"]


def test_files_that_are_written_while_parts_are_cleared_are_all_there(tmp_path: Path) -> None:
    done = threading.Event()

    def clear() -> None:
        while not done.is_set():
            durable.clear_parts(tmp_path)

    clearing = threading.Thread(target=clear)
    clearing.start()
    try:
        for number in range(100):
            durable.create(tmp_path / f"{number}.pem", b"a")
            durable.write(tmp_path / "same.pub", b"b")
    finally:
        done.set()
        clearing.join()

    assert len(list(tmp_path.iterdir())) == 101
