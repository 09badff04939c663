"""A device whose data folder is there, and a real agent that is started on it: without a hub, and without a broker unless one is named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from node.enrol.identity import Identity
from node.trust.tuf_client import Trust
from tests import brokers
from tests.node.agent.activation.test_activation import affine, releasing, settle
from tests.node.agent.sites import Site
from tests.trust_fleet import Fleet

NODE = Path(sys.executable).parent / "fleetcast-node"
SECONDS_MAX = 90.0
BODY = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]},
        {"name": "shift", "datatype": "FP32", "shape": [1], "data": [0.0]},
    ]
}


@dataclass
class Device:
    """A data folder, and the agent on it."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def settings(self) -> Path:
        return self.folder / "node.toml"

    def configure(self, **lines: str) -> None:
        known = {
            "id": "n",
            "fleet": brokers.FLEET,
            "broker": f"mqtt://127.0.0.1:{brokers.free_port()}",
            "data": str(self.data),
            "root": str(self.folder / "root.json"),
            "isolation": "inline",
            **lines,
        }
        self.settings.write_text("".join(f'{name} = "{value}"\n' for name, value in known.items()) + f"port = {self.port}\n")

    def start(self, *, user: int | None = None) -> None:
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user is not None else []
        command = [*as_user, str(NODE), "run", "--settings", str(self.settings)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, "HOME": str(self.folder)})

    def version(self) -> str | None:
        with suppress(httpx.HTTPError, KeyError):
            return str(httpx.post(f"http://127.0.0.1:{self.port}/v2/models/m/infer", json=BODY, timeout=20).json()["model_version"])
        return None

    def until(self, what: str, over: Any) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not over():
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.log()}"
            time.sleep(0.05)

    def serves(self) -> None:
        self.until("an answer", lambda: self.version() == "1.0.0")

    def status(self) -> dict[str, Any]:
        """What the agent has left in its data folder."""
        return dict(json.loads((self.data / "status.json").read_text()))

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def end(self) -> tuple[int, float]:
        """The exit code after SIGTERM, and how long it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS_MAX), time.monotonic() - began


def serve_once(folder: Path) -> Path:
    """The folder of a device that has served a release, and has ended."""
    contents: dict[bytes, bytes] = {}
    site = Site(folder / "data", contents)
    site.start()
    settle(site, releasing(contents)("1.0.0", affine(2.0)))
    site.server.stop()
    site.store.close()
    Identity.load_or_create(folder / "data" / "device.pem")
    fleet = Fleet.make(folder / "fleet")
    (folder / "root.json").write_bytes(fleet.repository.root())
    Trust(folder / "data" / "trust", fleet.repository.root()).accept(fleet.refresh(), now=fleet.now)
    return folder


@contextmanager
def copied(served: Path) -> Iterator[Device]:
    """A copy of it, where another user may read it; its agent has not begun."""
    outer = Path(tempfile.mkdtemp(prefix="device-"))
    outer.chmod(0o755)
    made = Device(outer / "device", brokers.free_port())
    shutil.copytree(served, made.folder, symlinks=True)
    made.folder.chmod(0o755)
    made.configure()
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait(30)
        shutil.rmtree(outer, ignore_errors=True)
