"""An apply that begins where the fleet's folder has no room."""

import resource
from pathlib import Path

import pytest

from hub.operations.blueprint_lock import alone_in_folder
from schemas.errors import Code, Refused


def test_an_apply_without_room_names_the_folder_and_that_nothing_was_changed(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(Refused) as refusal, alone_in_folder(tmp_path, actor="jane", what="fleet.yaml"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with alone_in_folder(tmp_path, actor="jane", what="fleet.yaml"):
        pass

    assert refusal.value.code is Code.DISK_FULL
    assert f"no room in {tmp_path}, so that nothing was changed: make room there, and apply again" in refusal.value.reason
