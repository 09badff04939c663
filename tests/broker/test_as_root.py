"""mosquitto started by root, with the files that `fleetcast init` and `fleetcast ca` made: what broker-config/README.md says of it."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.brokers import CONFIG, free_port
from tests.docs.pages import BIN, CHECKOUT

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fleet's folder for the broker, as two commands make it; the folders above it let everybody through."""
    if os.getuid() != 0 or MOSQUITTO is None or "mosquitto" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("only root can start mosquitto as root, where Debian has made its user")
    (tmp_path / "secret").write_text("a long passphrase\n")
    environment = {**os.environ, "FLEETCAST_PASSPHRASE_FILE": str(tmp_path / "secret")}
    plant = tmp_path / "plant"
    for line in (
        ["init", plant, "--fleet", "plant", "--broker", "mqtts://localhost:8883", "--hub-url", "https://localhost:8443"],
        ["ca", "issue-server", "localhost", "--dir", plant],
    ):
        subprocess.run([BIN / "fleetcast", *line], env=environment, check=True, capture_output=True)
    for above in tmp_path.parents:
        if above.stat().st_uid == os.getuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    return plant / "broker"


def started(folder: Path) -> tuple[int | None, str]:
    """Start mosquitto until it answers or ends: its exit code, None while it runs, and what it logged."""
    port, other = free_port(), free_port()
    text = (CONFIG / "mosquitto.conf").read_text().replace("listener 8883\n", f"listener {port} 127.0.0.1\n")
    (folder / "mosquitto.conf").write_text(text.replace("listener 8884\n", f"listener {other} 127.0.0.1\n"))
    with (folder.parent / "log").open("wb") as log:
        process = subprocess.Popen([str(MOSQUITTO), "-c", "mosquitto.conf"], cwd=folder, stderr=log)
    try:
        while process.poll() is None and not _answers(port):
            time.sleep(0.05)
        code = process.poll()
    finally:
        process.kill()
        process.wait()
    return code, (folder.parent / "log").read_text()


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_root_is_refused_the_lists_until_the_folder_is_mosquittos(folder: Path) -> None:
    code, log = started(folder)
    assert code not in (None, 0)
    assert 'Unable to open acl_file "acl"' in log

    (mend,) = set(re.findall(r"`(chown -R mosquitto) plant/broker`", (CHECKOUT / "broker-config" / "README.md").read_text()))
    subprocess.run([*mend.split(), folder], check=True)

    assert started(folder)[0] is None
