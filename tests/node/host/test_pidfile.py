"""One folder is one node: the second agent is refused, and whoever died left nothing in the way."""

import subprocess
import sys
from pathlib import Path

import pytest

from node.core.doctor.agent_health import AgentStatus, Verdict, WorkerProcess, judge
from node.host.pidfile import STATUS_NAME, alone, is_locked, read_status, supersede_status, write_status
from schemas.errors import Code, Refused
from schemas.state import Slot
from tests.small_disk import read_only

HOLD = """
import sys, time
from pathlib import Path
from node.host.pidfile import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
STATUS = AgentStatus(
    node="gw-1", fleet="f", pid=7, software="x", started_at=1, written_at=2, listen="127.0.0.1:8080", online=False, since=1, answered_at=2
)


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_one_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    first = holder(tmp_path)
    try:
        with pytest.raises(Refused) as told, alone(tmp_path):
            pass

        assert (told.value.code, str(first.pid) in told.value.reason, is_locked(tmp_path)) == (Code.NODE_RUNNING, True, True)
    finally:
        first.kill()
        first.wait()


def test_one_that_was_killed_leaves_the_folder_free(tmp_path: Path) -> None:
    first = holder(tmp_path)
    first.kill()
    first.wait()

    assert not is_locked(tmp_path)
    with alone(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_folder_that_is_not_there_is_not_held(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Refused, match="data folder") as told, alone(tmp_path / "file" / "data"):
        pass

    assert told.value.code is Code.SETTINGS_INVALID


def test_a_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_status(tmp_path, STATUS)

    assert read_status(tmp_path) == STATUS


@pytest.mark.parametrize("content", ["", "{", "[]", '{"node": "gw-1"}', "\0" * 100])
def test_a_status_that_is_none_of_ours_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / STATUS_NAME).write_text(content)

    assert read_status(tmp_path) is None


def test_what_a_killed_agent_left_is_not_taken_for_its_successors_status(tmp_path: Path) -> None:
    served = Slot(model="m", state="active", serving=bytes(32), serving_version="1.0.0")
    worker = WorkerProcess(digest=bytes(32), pid=8)
    write_status(tmp_path, STATUS.model_copy(update={"online": True, "slots": (served,), "workers": (worker,)}))

    supersede_status(tmp_path)

    left = read_status(tmp_path)
    assert left is not None
    assert (left.online, left.workers, left.slots, left.ended_at) == (False, (), (served,), None)
    assert judge(left, running=True, now=2) is Verdict.IDLE
    assert judge(left, running=False, now=2) is Verdict.NOT_RUNNING


def test_where_no_status_was_left_none_is_made(tmp_path: Path) -> None:
    supersede_status(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_status_that_the_disk_does_not_take_is_found_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_status(folder, STATUS)
    with read_only(folder):
        write_status(folder, STATUS.model_copy(update={"pid": 8, "written_at": 3, "read_only": "Read-only file system"}))
        found = read_status(folder)
        assert found is not None
        assert (found.pid, found.read_only) == (8, "Read-only file system")

    write_status(folder, STATUS.model_copy(update={"pid": 9, "written_at": 3}))
    found = read_status(folder)
    assert found is not None
    assert found.pid == 9
