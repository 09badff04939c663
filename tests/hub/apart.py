"""A fleet whose hub is several processes over one PostgreSQL and one mosquitto: in threads, or real processes with a folder each."""

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from securesystemslib.signer import CryptoSigner

from hub.database.connection import Database
from hub.database.leadership import Leadership
from hub.database.store import Store
from hub.service.delivery.online_keys import LoadKey
from hub.service.loop import Service, ready_name
from hub.settings import HubSettings
from hub.signing.keys import create_key, load_signer
from hub.signing.metadata_database import move_to_database
from schemas.topics import access_list
from tests.brokers import FLEET, Broker, Mosquitto
from tests.databases import postgresql_url
from tests.hub.hubs import Fleet, until
from tests.warm import BIN

SECRET = b"a passphrase"
ONLINE = ("snapshot", "timestamp", "rollouts")


NAMES = [
    "ingest-1-of-1",
    "ingest-1-of-2",
    "ingest-2-of-2",
    "blocks-1",
    "one",
    "two",
    "a",
    "b",
    "c",
    "receiver-1",
    "receiver-2",
    "blocks",
    "web",
]  # Of processes beside the leader.


def let_in(broker: Broker) -> None:
    """Give further processes of the hub a certificate each, beside that of the hub, and a place in the broker's list."""
    names = [f"hub-{name}" for name in NAMES]
    for name in names:
        broker.tls(name)
    if isinstance(broker, Mosquitto):
        broker.write("acl", access_list(FLEET, processes=names))
        broker.restart()


def made(directory: Path, name: str) -> CryptoSigner:
    """A key in a file, as the hub reads it."""
    path = directory / "online" / f"{name}.pem"
    path.parent.mkdir(parents=True, exist_ok=True)
    create_key(path, SECRET)
    return cast(CryptoSigner, load_signer(path, SECRET))


@dataclass(slots=True)
class SharedFleet(Fleet):
    """A fleet whose metadata and history are in PostgreSQL."""

    broker: Broker | None = None
    url: str = ""
    more: dict[str, Any] = field(default_factory=dict)  # Settings of all processes.
    _store: Store | None = None

    @classmethod
    def make(cls, directory: Path, broker: Broker, *, url: str = "", **more: Any) -> "SharedFleet":
        """A new one; `url` is of an empty database."""
        found = cls(
            directory,
            online=[made(directory, name) for name in ONLINE],
            broker=broker,
            url=url or postgresql_url(directory / "hub"),
            more={"web_listen": "", **more},
        )
        move_to_database(directory / "trust", found.url)
        let_in(broker)
        (directory / "passphrase").write_bytes(SECRET + b"\n")
        (directory / "passphrase").chmod(0o600)
        fields = found.settings(broker).model_dump(exclude_defaults=True)
        (directory / "fleet.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()))
        return found

    @property
    def store(self) -> Store:
        """Its database."""
        if self._store is None:
            self._store = Store(self.url)
            self._store.create()
        return self._store

    def settings(self, broker: Broker | None, **changes: Any) -> HubSettings:
        """Those of one process."""
        return Fleet.settings(self, broker, **{"database_url": self.url, **self.more, **changes})

    @contextlib.contextmanager
    def running(self, *roles: str, directory: Path | None = None, load_key: LoadKey | None = None, **changes: Any) -> Iterator[Service]:
        """A process's part of the hub, in a thread; one that has the role `controller` leads. `directory` is another machine's folder."""
        folder = directory or self.directory
        settings = self.settings(self.broker, roles=roles, **changes)
        leadership = None
        if "controller" in roles:
            leadership = Leadership(Database(self.url), holder=settings.process_name)
            until("the lead", leadership.try_to_lead)
        stop, raised = threading.Event(), list[BaseException]()
        service = Service(folder, settings, signers=self.signers if leadership else None, leadership=leadership, load_key=load_key)

        def run() -> None:
            try:
                service.run(stop)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            until(f"the process {settings.process_name}", lambda: raised or (folder / ready_name(settings)).exists())
            yield service
        finally:
            stop.set()
            thread.join(60)
            if leadership is not None:
                leadership.resign()
        if raised:
            raise raised[0]

    def copy(self, directory: Path) -> Path:
        """The folder of another machine: keys, settings and payloads, and nothing that changes."""
        shutil.copytree(self.directory, directory, ignore=shutil.ignore_patterns("*.ready", "*.lock", "moved-to-database"))
        return directory

    def start(self, directory: Path, *arguments: str) -> "Process":
        """A real process of the hub, in a folder of its own."""
        return Process(directory, arguments)


class Process:
    """A real process of a hub."""

    def __init__(self, directory: Path, arguments: tuple[str, ...]) -> None:
        self.directory = directory
        self._before = set(directory.glob("*.ready"))
        command = [BIN / "fleetcast", "hub", directory, "--passphrase-file", directory / "passphrase", "--json-logs", "--wait-broker"]
        with (directory / f"log-{time.monotonic_ns()}").open("wb") as log:
            self.log = Path(log.name)
            self.process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, start_new_session=True)

    @property
    def pid(self) -> int:
        """Its id."""
        return self.process.pid

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log about one event."""
        lines = (line for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [found for found in map(json.loads, lines) if found.get("event") == event]

    def wait_for(self, event: str, *, seconds: float = 100.0) -> dict[str, Any]:
        """The first line about an event."""

        def probe() -> list[dict[str, Any]]:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return self.logged(event)

        return until(f"{event} of {self.log}", probe, seconds=seconds)[0]

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.kill(self.pid, 9)
        return self.process.wait(20)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait(20)
