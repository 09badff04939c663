"""`fleetcast-node import` of a file that is not there: the file is named, no broker and no database."""

import subprocess
import sys
from pathlib import Path

from node.cli.errors import Exit


def test_a_parcel_that_is_not_there_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    settings = tmp_path / "node.toml"
    settings.write_text('id = "n1"\nfleet = "plant"\nbroker = "mqtt://127.0.0.1:1"\ndata = "data"\nroot = "root.json"\n')
    command = [str(Path(sys.executable).parent / "fleetcast-node"), "import", str(tmp_path / "nosuch.parcel"), "--settings", str(settings)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == Exit.REFUSED, done.stderr
    assert "nosuch.parcel cannot be read: No such file" in done.stderr
    assert "unreachable" not in done.stderr
    assert not (tmp_path / "data" / "carried").exists()
