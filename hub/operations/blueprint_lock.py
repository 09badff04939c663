"""Let one apply of a blueprint run at a time in a fleet's folder. A process that is killed holds nothing."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hub.operations.moments import written
from schemas.errors import Code, Refused

LOCK_NAME = "blueprint.lock"
WRITES_SECONDS = 2.0  # How long the other one may take to write who it is.
TEXT_CHARACTERS_MAX = 1000


@contextmanager
def alone(directory: Path, *, actor: str, what: str) -> Iterator[None]:
    """Apply alone; `what` names what is applied.

    Raises:
        Refused: BLUEPRINT_BUSY, naming both; or the folder cannot be written.
    """
    try:
        file = (directory / LOCK_NAME).open("a+")
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{directory / LOCK_NAME} cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(
                Code.BLUEPRINT_BUSY,
                f"{_holder(file)} now: {what} of {actor} was not begun. Wait until it is done, and look at the difference",
            ) from None
        file.truncate(0)
        file.write(json.dumps({"actor": actor, "what": what, "pid": os.getpid(), "at": int(time.time())}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


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
