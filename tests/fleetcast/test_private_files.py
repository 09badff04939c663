"""What other users of the machine may do with a program's files."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fleetcast.private_files import OWNER_ALONE, OWNER_AND_GROUP, close_to_others, make_private_folder

PROGRAM = """
import os, sys
from fleetcast.private_files import keep_new_files_private
os.umask(0o022)
keep_new_files_private({mask})
open(sys.argv[1], "w").close()
"""


@pytest.mark.parametrize(("mask", "mode"), [(OWNER_ALONE, 0o600), (OWNER_AND_GROUP, 0o640)])
def test_new_files_are_closed_to_others(tmp_path: Path, mask: int, mode: int) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM.format(mask=mask), str(tmp_path / "new")], check=True)

    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


def test_files_of_an_earlier_version_are_closed_to_others_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    old, foreign = tmp_path / "data" / "old", tmp_path / "foreign"
    for path in (old, foreign):
        path.touch()
        path.chmod(0o664)
    (tmp_path / "data" / "link").symlink_to(foreign)

    close_to_others((tmp_path / "data").rglob("*"))

    assert [stat.S_IMODE(path.stat().st_mode) for path in (old, foreign)] == [0o660, 0o664]


def test_another_user_who_is_given_a_data_folder_can_get_to_it(tmp_path: Path) -> None:
    before = os.umask(OWNER_ALONE)
    try:
        make_private_folder(tmp_path / "lib" / "fleetcast-node" / "gate-17")
    finally:
        os.umask(before)

    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("lib", "lib/fleetcast-node", "lib/fleetcast-node/gate-17")]
    assert modes == [0o755, 0o755, 0o700]
