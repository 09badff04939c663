"""Let one apply of a blueprint run at a time: in a fleet's folder, and over a database that several machines share.

A process that is killed holds nothing.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fleetcast import disk_room
from hub.database.apply_lock import ApplyLock
from hub.database.blueprint_rows import Blueprints
from hub.operations.moments import written
from hub.operations.opened_fleet import OpenedFleet
from schemas.errors import Code, Refused

LOCK_NAME = "blueprint.lock"
WRITES_SECONDS = 2.0  # How long the other one may take to write who it is.
TEXT_CHARACTERS_MAX = 1000


@contextmanager
def alone(fleet: OpenedFleet, *, what: str) -> Iterator[Callable[[], None]]:
    """Apply alone, in the name of the fleet's actor; `what` names what is applied. What is yielded checks that this is still so.

    Raises:
        Refused: BLUEPRINT_BUSY, naming both; or the folder cannot be written, or has no room.
        Unreachable: the database does not answer.
    """
    with alone_in_folder(fleet.directory, actor=fleet.store.database.actor, what=what):
        if not fleet.settings.is_on_server:
            yield lambda: None
            return
        lock = ApplyLock(fleet.store.database)
        try:
            if not lock.take():
                raise _busy(_holder_elsewhere(fleet), fleet.store.database.actor, what)
            yield lock.check
        finally:
            lock.leave()


@contextmanager
def alone_in_folder(directory: Path, *, actor: str, what: str) -> Iterator[None]:
    """Apply alone in a fleet's folder.

    Raises:
        Refused: BLUEPRINT_BUSY, naming both; or the folder cannot be written, or has no room.
    """
    no_room = f"no room in {directory}, so that nothing was changed: make room there, and apply again"
    try:
        with disk_room.refusing(no_room):
            file = (directory / LOCK_NAME).open("a+")
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{directory / LOCK_NAME} cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _busy(_holder(file), actor, what) from None
        holder = json.dumps({"actor": actor, "what": what, "pid": os.getpid(), "at": int(time.time())})
        with disk_room.refusing(no_room):
            file.truncate(0)
            os.write(file.fileno(), holder.encode())  # Past the buffer, which would be written once more, and fail, as the file is closed.
        try:
            yield
        finally:
            file.truncate(0)


def _busy(holder: str, actor: str, what: str) -> Refused:
    mend = "Wait until it is done, and look at the difference"
    return Refused(Code.BLUEPRINT_BUSY, f"{holder} now: {what} of {actor} was not begun. {mend}")


def _holder_elsewhere(fleet: OpenedFleet) -> str:
    """Return who applies on another machine, as far as the database says it: an apply begins its revision after it has the lock."""
    newest = Blueprints(fleet.store.database).newest()
    if newest is None or newest.state != "applying":
        return "another blueprint is being applied on another machine"
    return f"revision {newest.revision} is being applied by {newest.actor} on another machine (since {written(newest.at)} UTC)"


def _holder(file: IO[str]) -> str:
    until = time.monotonic() + WRITES_SECONDS
    while time.monotonic() < until:
        file.seek(0)
        try:
            said = json.loads(file.read(TEXT_CHARACTERS_MAX))
            return f"{said['what']} is being applied by {said['actor']} (since {written(said['at'])} UTC, process {said['pid']})"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.05)
    return "another blueprint is being applied"
