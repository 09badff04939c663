"""Agents that are started on a store or a disk that is damaged, full or read-only, as real processes without a broker: they serve."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.enrol.identity import Identity
from node.trust.tuf_client import Trust
from tests import brokers
from tests.node.agent.activation.test_activation import affine, ask, releasing, settle
from tests.node.agent.sites import Site
from tests.trust_fleet import Fleet

NODE = Path(sys.executable).parent / "fleetcast-node"
SECONDS_MAX = 90.0
NOBODY = 65534


@dataclass
class Device:
    """A data folder that a real agent is started on."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def settings(self) -> Path:
        return self.folder / "node.toml"

    def start(self, *, user: int | None = None) -> None:
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user is not None else []
        command = [*as_user, str(NODE), "run", "--settings", str(self.settings)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, "HOME": str(self.folder)})

    def version(self) -> str | None:
        body = {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]},
                {"name": "shift", "datatype": "FP32", "shape": [1], "data": [0.0]},
            ]
        }
        with suppress(httpx.HTTPError, KeyError):
            return str(httpx.post(f"http://127.0.0.1:{self.port}/v2/models/m/infer", json=body, timeout=20).json()["model_version"])
        return None

    def serves(self) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while self.version() != "1.0.0":
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def run(self, *arguments: str) -> Any:
        done = subprocess.run(
            [NODE, *arguments, "--settings", str(self.settings), "--json"], capture_output=True, check=False, timeout=SECONDS_MAX
        )
        return json.loads(done.stdout)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS_MAX)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a device that serves a release, and has ended."""
    folder = tmp_path_factory.mktemp("served")
    contents: dict[bytes, bytes] = {}
    site = Site(folder / "data", contents)
    site.start()
    settle(site, releasing(contents)("1.0.0", affine(2.0)))
    assert ask(site).status_code == 200
    site.server.stop()
    site.store.close()
    Identity.load_or_create(folder / "data" / "device.pem")
    fleet = Fleet.make(folder / "fleet")
    (folder / "root.json").write_bytes(fleet.repository.root())
    Trust(folder / "data" / "trust", fleet.repository.root()).accept(fleet.refresh(), now=fleet.now)
    return folder


@pytest.fixture
def device(served: Path) -> Iterator[Device]:
    """A copy of it, where another user may read it."""
    outer = Path(tempfile.mkdtemp(prefix="device-"))
    outer.chmod(0o755)
    folder = outer / "device"
    shutil.copytree(served, folder, symlinks=True)
    folder.chmod(0o755)
    made = Device(folder, brokers.free_port())
    made.settings.write_text(
        f'id = "n"\nfleet = "plant"\nbroker = "mqtt://127.0.0.1:{brokers.free_port()}"\n'
        f'data = "{made.data}"\nroot = "{folder / "root.json"}"\nport = {made.port}\nisolation = "inline"\n'
    )
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait(30)
        shutil.rmtree(outer, ignore_errors=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A mount that takes no write."""
    mounted = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("may not mount here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def overwrite(store: Path) -> None:
    store.write_bytes(b"\xff" * 16 + store.read_bytes()[16:])


def make_a_folder(store: Path) -> None:
    store.unlink()
    (store / "inside").mkdir(parents=True)


def cut(store: Path) -> None:
    os.truncate(store, 5000)


@pytest.mark.parametrize("damage", [overwrite, make_a_folder, cut])
def test_a_node_whose_store_is_damaged_serves_what_is_on_its_disk(device: Device, damage: Callable[[Path], None]) -> None:
    damage(device.data / "node.sqlite")

    device.start()

    device.serves()
    assert (device.data / "node.sqlite.damaged").exists()
    assert device.end() == 0


def test_a_node_on_a_read_only_disk_serves_and_says_so(device: Device) -> None:
    with read_only(device.data):
        device.start()
        device.serves()

        assert "disk.full" in device.log()
        assert device.end() == 0
    assert "bug" not in device.log()


def test_a_node_whose_data_belong_to_another_user_serves_and_says_so(device: Device) -> None:
    if os.getuid() != 0:
        pytest.skip("needs another user")
    for path in device.folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    os.chown(device.data / "device.pem", NOBODY, NOBODY)
    (device.data / "device.pem").chmod(0o400)
    device.start(user=NOBODY)

    device.serves()
    assert "disk.full" in device.log()
    assert device.end() == 0
    assert "bug" not in device.log()
