"""Run the demonstration's processes: one hub with its embedded broker, and one node per site, all real and by their own commands."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo.link import SlowLink

BIN = Path(sys.executable).parent
LINK_BYTES_PER_SECOND = 400_000  # About 3 Mbit/s, an ordinary LTE-M or DSL uplink.


class CommandFailed(RuntimeError):
    """Report that a fleetcast command ended with an error."""


def until(what: str, probe: Callable[[], Any], *, seconds: float) -> Any:
    """Wait until a condition holds, and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.1)
    raise CommandFailed(f"waited {seconds:.0f} s in vain for {what}")


@dataclass(slots=True)
class Site:
    """Hold one node, the socket that its local programs use, and its link to the broker."""

    name: str
    airport: str
    directory: Path
    listener: socket.socket
    link: SlowLink
    process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Return the port at which local programs find the model."""
        return int(self.listener.getsockname()[1])

    def bytes_of(self, release: str) -> dict[str, int]:
        """Return the node's own byte usage of a release, read from its disk."""
        with contextlib.closing(sqlite3.connect(f"file:{self.directory / 'data' / 'node.sqlite'}?mode=ro", uri=True)) as db:
            row = db.execute(
                "SELECT planned, received, reused, wasted FROM transfer WHERE release = ?", (bytes.fromhex(release),)
            ).fetchone()
        return dict(zip(("planned", "received", "reused", "wasted"), row or (0, 0, 0, 0), strict=True))


@dataclass(slots=True)
class Fleet:
    """Manage the hub's folder and its sites."""

    directory: Path
    passphrase: Path
    sites: list[Site] = field(default_factory=list)
    hub: subprocess.Popen[bytes] | None = None

    def cli(self, *arguments: str, check: bool = True) -> Any:
        """Run `fleetcast ... --json` and return its output."""
        done = subprocess.run(
            [str(BIN / "fleetcast"), *arguments, "--json"],
            capture_output=True,
            text=True,
            env={**os.environ, "FLEETCAST_DIR": str(self.directory)},
            check=False,
        )
        if check and done.returncode != 0:
            raise CommandFailed(f"fleetcast {' '.join(arguments)}: exit {done.returncode}: {done.stderr or done.stdout}")
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(done.stdout)
        return [json.loads(line) for line in lines if line.startswith(("{", "["))]

    def start_hub(self) -> dict[str, Any]:
        """Start the hub and wait until it reports its broker's address."""
        log = (self.directory.parent / "hub.log").open("ab")
        self.hub = subprocess.Popen(
            [str(BIN / "fleetcast"), "hub", str(self.directory), "--passphrase-file", str(self.passphrase), "--json-logs"],
            stdout=log,
            stderr=log,
        )
        ready = self.directory / "hub.ready"
        until("the hub", lambda: ready.exists() and ready.stat().st_size, seconds=30)
        found: dict[str, Any] = json.loads(ready.read_text())
        return found

    def watched_at(self) -> str:
        """Return a link that signs in to the console once, within a quarter of an hour."""
        return str(self.cli("console", "--role", "operator")["sign_in"])

    def add_site(self, name: str, airport: str, broker_port: int) -> Site:
        """Make a node's folder; its program is started by `start_site`."""
        directory = self.directory.parent / "nodes" / name
        directory.mkdir(parents=True)
        site = Site(
            name,
            airport,
            directory,
            socket.create_server(("127.0.0.1", 0), backlog=512),
            SlowLink(broker_port, bytes_per_second=LINK_BYTES_PER_SECOND),
        )
        (directory / "root.json").write_bytes((self.directory / "root.json").read_bytes())
        (directory / "node.toml").write_text(
            f'id = "{name}"\nfleet = "flights"\nbroker = "mqtt://127.0.0.1:{site.link.port}"\ndata = "data"\nroot = "root.json"\n'
            f'cohort = "nyc"\nwindow_bytes = 500000\nidle_seconds = 2\nlabels = {{ airport = "{airport}" }}\n'
        )
        self.sites.append(site)
        return site

    def start_site(self, site: Site) -> None:
        """Start a node's program on the socket that is held open for it."""
        log = (site.directory / "node.log").open("ab")
        settings = str(site.directory / "node.toml")
        hold = [sys.executable, str(Path(__file__).parent / "hold.py"), str(site.listener.fileno())]
        site.process = subprocess.Popen(
            [*hold, str(BIN / "fleetcast-node"), "run", "--settings", settings], pass_fds=(site.listener.fileno(),), stdout=log, stderr=log
        )

    def nodes(self) -> list[dict[str, Any]]:
        """Return what the hub knows of its nodes."""
        found = self.cli("nodes")
        return list(found)

    def stop(self) -> None:
        """End every process that was started."""
        for process in [site.process for site in self.sites] + [self.hub]:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in [site.process for site in self.sites] + [self.hub]:
            if process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                if process.poll() is None:
                    process.kill()
        for site in self.sites:
            site.link.close()
            site.listener.close()
