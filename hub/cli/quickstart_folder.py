"""The folder of `fleetcast quickstart`: a fleet as `fleetcast init` makes it, and beside it what an example needs, in `quickstart/`.

It is made whole or not at all, and one process has it at a time: a lock on the folder itself, which leaves no file behind.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleetcast import disk_room, durable
from hub.cli.errors import Ended, Exit
from hub.settings import SETTINGS_NAME, load
from schemas.errors import Code, Refused

NAME: Final = "quickstart"
HOST: Final = "127.0.0.1"
NODES: Final = ("node-1", "node-2")
MODEL, VERSION = "delay", "1.0.0"
ROOM_BYTES: Final = 64 * 1024 * 1024  # what a run leaves behind, logs and databases, several times over
COHORT_NODES_MIN: Final = 2  # so that the two nodes' windows are shown: their rows are the operator's own
_PARTIAL: Final = ".partial"
HUB_LOCK, NODE_LOCK = "hub.lock", "running.lock"  # hub/service/loop.py and node/host/pidfile.py hold them
EARLIER_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Folder:
    """Name the files of a quickstart."""

    fleet: Path

    @property
    def own(self) -> Path:
        """Return the folder of what the fleet itself does not need."""
        return self.fleet / NAME

    @property
    def passphrase(self) -> Path:
        """Return the file with the passphrase of the fleet's keys."""
        return self.own / "passphrase"

    @property
    def model(self) -> Path:
        """Return the model file."""
        return self.own / "model.onnx"

    @property
    def reference(self) -> Path:
        """Return the reference data."""
        return self.own / "reference.parquet"

    def settings_of(self, node: str) -> Path:
        """Return the settings file of a node."""
        return self.own / f"{node}.toml"

    def log_of(self, name: str) -> Path:
        """Return the log of the hub or of a node."""
        return self.own / f"{name}.log"


@contextmanager
def made(directory: Path, fleet: str) -> Iterator[tuple[Folder, bool]]:
    """Yield the folder, locked, and whether it was made now.

    Raises:
        Ended: CONFLICT: it holds something else, or another quickstart runs in it.
        Refused: the disk has no room.
    """
    found = Folder(directory)
    with ExitStack() as stack:
        with _locked(_nearest(directory.resolve().parent), waits=True):  # The second of two that begin at once finds what the first made.
            is_new = not directory.exists() or all(one.name == _PARTIAL for one in directory.iterdir())
            if is_new:
                _make(found, fleet)
            else:
                _check_ours(found)
            stack.enter_context(_locked(directory, waits=False))
        yield found, is_new


def _nearest(path: Path) -> Path:
    return path if path.is_dir() else _nearest(path.parent)


@contextmanager
def _locked(directory: Path, *, waits: bool) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Ended(Exit.CONFLICT, f"another quickstart runs in {directory}: use it, or end it with Ctrl-C first") from None
        yield
    finally:
        os.close(lock)


def _check_ours(found: Folder) -> None:
    """Check that a quickstart made the folder, and that it has the broker that it had then.

    Raises:
        Ended: CONFLICT.
    """
    where = found.fleet
    if not found.passphrase.is_file():
        is_fleet = (where / SETTINGS_NAME).is_file()
        mend = f"it is another fleet's, which `fleetcast hub {where}` runs; give a new folder" if is_fleet else "give a new folder"
        raise Ended(Exit.CONFLICT, f"{where} is not empty, and no quickstart made it: {mend}")
    if url := load(where).broker_url:
        raise Ended(Exit.CONFLICT, f"the fleet in {where} has the broker {url} by now: run `fleetcast hub {where}` and its nodes yourself")


def _make(found: Folder, fleet: str) -> None:
    from hub.cli.init import make, whole  # noqa: PLC0415  # slow to import, and needed for new folders only
    from hub.publish.example_release import model, write_reference  # noqa: PLC0415

    parent = _nearest(found.fleet.resolve())
    if not disk_room.has_room(parent, ROOM_BYTES):
        free = shutil.disk_usage(parent).free
        raise Refused(Code.DISK_FULL, f"a quickstart needs {ROOM_BYTES} bytes in {parent}, and {free} are free")
    secret = secrets.token_urlsafe(24)
    settings = [f'fleet = "{fleet}"', f"cohort_nodes_min = {COHORT_NODES_MIN}"]
    with whole(found.fleet.resolve()) as partial:
        make(partial, fleet, 3, 2, (MODEL,), settings, secret.encode(), None)
        mine = Folder(partial)
        mine.own.mkdir(mode=0o700)
        mine.model.write_bytes(model(bias=0.0))
        write_reference(mine.reference)
        durable.create(mine.passphrase, f"{secret}\n".encode())


def wait_for_earlier(found: Folder) -> None:
    """Wait until the hub and the nodes of a quickstart that was killed have ended: they do so by themselves.

    Raises:
        Ended: CONFLICT: one has not; somebody has started it.
    """
    locks = {"hub": found.fleet / HUB_LOCK, **{node: found.own / node / NODE_LOCK for node in NODES}}
    deadline = time.monotonic() + EARLIER_SECONDS
    while running := [name for name, path in locks.items() if _is_locked(path)]:
        if time.monotonic() >= deadline:
            names = f"{' and '.join(running)} of {found.fleet} run{'s' if len(running) == 1 else ''} already"
            raise Ended(Exit.CONFLICT, f"{names}: end what was started by itself, and try again")
        time.sleep(LOOK_SECONDS)


def _is_locked(path: Path) -> bool:
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Ports:
    """Hold the TCP ports of the fleet, all on loopback."""

    broker: int
    nodes: Sequence[int]

    @property
    def broker_url(self) -> str:
        """Return the broker's URL."""
        return f"mqtt://{HOST}:{self.broker}"


def check_ports(broker: int | None, first: int | None) -> None:
    """Check that the ports that are asked for are free.

    Raises:
        Refused: PORT_IN_USE.
    """
    for port, option in zip(_asked(broker, first), ("--broker-port", "--port", "--port"), strict=True):
        if port is not None and not _is_free(port):
            raise Refused(Code.PORT_IN_USE, f"port {port} on {HOST} is in use: end what uses it, or choose another with {option}")


def _asked(broker: int | None, first: int | None) -> list[int | None]:
    return [broker, *(first and first + number for number in range(len(NODES)))]


def choose_ports(found: Folder, broker: int | None, first: int | None) -> Ports:
    """Return the ports that are asked for; else those of the last time where they are free; else free ones.

    Raises:
        Refused: PORT_IN_USE: the one in the fleet's settings is taken.
    """
    from hub.service.broker.embedded import PORT_NAME  # noqa: PLC0415  # slow to import; --help does not need it

    settings, kept = load(found.fleet), found.fleet / "broker" / PORT_NAME
    if settings.broker_port and not broker:
        check_ports(settings.broker_port, None)
    asked = _asked(broker or settings.broker_port or None, first)
    before = [_number(kept), *(_port_of(found.settings_of(node)) for node in NODES)]
    with ExitStack() as stack:
        chosen: list[int] = []
        for wanted, last in zip(asked, before, strict=True):
            port = wanted or (last if last and last not in chosen and _is_free(last) else 0)
            if not port:
                probe = stack.enter_context(closing(socket.socket()))
                probe.bind((HOST, 0))
                port = int(probe.getsockname()[1])
            chosen.append(port)
    if not settings.broker_port or broker:
        durable.write(kept, f"{chosen[0]}\n".encode())
    return Ports(chosen[0], chosen[1:])


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended do not count
        with suppress(OSError):
            probe.bind((HOST, port))
            return True
    return False


def _number(path: Path) -> int:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


def _port_of(path: Path) -> int:
    with suppress(OSError, ValueError):  # TOMLDecodeError is a ValueError
        port = tomllib.loads(path.read_text()).get("port")
        return port if isinstance(port, int) else 0
    return 0


def write_node_settings(found: Folder, fleet: str, ports: Ports) -> None:
    """Write the settings of each node; of those that are there already only the ports are changed."""
    for node, port in zip(NODES, ports.nodes, strict=True):
        path, broker = found.settings_of(node), f"broker = {json.dumps(ports.broker_url)}"
        if path.exists():
            text = re.sub(r"(?m)^broker = .*$", broker, re.sub(r"(?m)^port = .*$", f"port = {port}", path.read_text(encoding="utf-8")))
        else:
            own = {"id": node, "fleet": fleet, "data": node, "root": "../root.json"}
            text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in own.items()) + f"{broker}\nport = {port}\n"
        durable.write(path, text.encode())
