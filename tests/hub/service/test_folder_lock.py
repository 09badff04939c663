"""Whether a hub runs: what commands say of a fleet goes by it, also after a hub was killed, and in a container, where each is process 1."""

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from hub.cli.console import url_of
from hub.operations.opening import hub_runs
from hub.service.folder_lock import locked
from schemas.errors import Refused

URL = "http://127.0.0.1:8484"


def ready(directory: Path, name: str = "hub") -> None:
    (directory / f"{name}.ready").write_text(json.dumps({"pid": os.getpid(), "web_url": URL}))


@pytest.mark.parametrize("name", ["hub", "web-2"])
def test_a_hub_runs_while_it_holds_its_lock(tmp_path: Path, name: str) -> None:
    with locked(tmp_path, name):
        ready(tmp_path, name)
        assert hub_runs(tmp_path)
        assert url_of(tmp_path) == URL


def test_a_killed_hubs_file_with_the_number_of_another_process_is_no_hub(tmp_path: Path) -> None:
    locked(tmp_path).close()
    ready(tmp_path)

    assert not hub_runs(tmp_path)
    assert url_of(tmp_path) is None


def test_a_hub_starts_while_a_command_asks_whether_one_runs(tmp_path: Path) -> None:
    locked(tmp_path).close()
    with (tmp_path / "hub.lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        timer = threading.Timer(0.01, fcntl.flock, (asking, fcntl.LOCK_UN))
        timer.start()
        locked(tmp_path).close()
        timer.join()


def test_a_second_hub_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Refused, match=f"process {os.getpid()}"):
        locked(tmp_path)
