"""Open a fleet's folder in the name of an actor, and read what its keys need, for the command line and for Python programs."""

import fcntl
import getpass
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hub.database.place import MARKER, place_of
from schemas.errors import Code, Refused, Unreachable

if TYPE_CHECKING:
    from hub.database.store import Store
    from hub.operations.opened_fleet import OpenedFleet
    from hub.settings import HubSettings

ACTOR_CHARACTERS_MAX = 64
PASSPHRASE_CHARACTERS_MAX = 4096  # more than any key takes, and /dev/zero does not fill the memory
DATABASE_BYTES_MIN = 256 * 1024  # Free bytes below which a failed write of the database means a full disk.


def is_actor(name: str) -> bool:
    """Return whether a name may be an actor's."""
    return bool(name.strip()) and len(name) <= ACTOR_CHARACTERS_MAX and name.isprintable()


def system_user() -> str:
    """Return the name of the user of the system who runs this."""
    try:
        return getpass.getuser()[:ACTOR_CHARACTERS_MAX]
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return f"uid {os.getuid()}"


def open_store(directory: Path, actor: str) -> "Store":
    """Open the fleet's database, for changes in the name of an actor.

    Raises:
        Refused: there is no fleet in this folder, its database is of an earlier version, or the disk has no room.
        Unreachable: the database does not answer.
    """
    from hub.database.store import Store  # noqa: PLC0415  # SQLAlchemy takes a third of a second to import; --help does not need it
    from hub.settings import load  # noqa: PLC0415

    store = Store(database_url(directory, load(directory)))
    store.database.actor = actor
    with room_for_database(directory):
        store.open()
    return store


def open_fleet(directory: Path, actor: str) -> "OpenedFleet":
    """Open the fleet: its database, and its signed metadata.

    Raises:
        Refused: there is no fleet in this folder, its database is of another version, or the disk has no room.
        Unreachable: the database does not answer.
    """
    from hub.operations.opened_fleet import OpenedFleet  # noqa: PLC0415  # with SQLAlchemy and TUF
    from hub.settings import load  # noqa: PLC0415
    from hub.signing.tuf_repository import Repository  # noqa: PLC0415

    return OpenedFleet(directory, load(directory), open_store(directory, actor), Repository(directory / "trust"))


@contextmanager
def room_for_database(directory: Path) -> Iterator[None]:
    """Report a full disk as such: SQLite says "disk I/O error" when there is no room for its scratch files.

    Raises:
        Refused: the disk has no room.
    """
    try:
        yield
    except Unreachable as error:
        if shutil.disk_usage(directory).free < DATABASE_BYTES_MIN:
            raise Refused(Code.DISK_FULL, f"no room for the database in {directory}: {error}") from error
        raise


def database_url(directory: Path, settings: "HubSettings") -> str:
    """Return the URL of a fleet's database.

    Raises:
        Refused: the file with its password cannot be read.
    """
    return place_of(directory, settings.database_url, settings.database_password_file)


def hub_runs(directory: Path) -> bool:
    """Return whether a hub serves this fleet now: on this machine, or, where its processes share a database, on any."""
    if any(is_running(path) for path in directory.glob("*.ready")):
        return True
    return (directory / "trust" / MARKER).exists() and _leads_elsewhere(directory)


def is_running(ready: Path) -> bool:
    """Return whether the process that wrote this file still holds its lock.

    One that was killed leaves the file behind, and its number may be another process's by now: in a container it always is.
    """
    try:
        with ready.with_suffix(".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # It is held, or is another user's.
    return False


def _leads_elsewhere(directory: Path) -> bool:
    from hub.database.members import Members  # noqa: PLC0415  # with SQLAlchemy

    store = open_store(directory, system_user())
    try:
        return any(one.is_live and one.term for one in Members(store.database).all())
    finally:
        store.close()


def read_passphrase(path: Path) -> bytes:
    """Return the passphrase in a file's first line.

    Raises:
        Refused: the file cannot be read, or the line is empty.
    """
    try:
        with path.open() as file:
            first = file.readline(PASSPHRASE_CHARACTERS_MAX).rstrip("\r\n")  # spaces belong to it, as they do where it is typed
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Code.KEY_UNREADABLE, f"passphrase file {path}: {getattr(error, 'strerror', None) or error}") from None
    if not first:
        raise Refused(Code.KEY_PASSPHRASE, "the passphrase is empty")
    return first.encode()
