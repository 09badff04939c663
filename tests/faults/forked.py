"""Run the product's commands, and its enrolment endpoint, in forks of a process that has shim.c, on a folder that breaks.

A fork has everything imported, so that a run costs little; arguments, streams, exit codes and the end of the process are the command's own.
"""

import contextlib
import errno
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from tests.faults.disk import NAMES, Disk, changes
from tests.faults.shim import FAIL, KILL, Shim

How = Literal["none", "kill", "lost", "torn", "full", "io", "readonly"]
Program = Literal["fleetcast", "fleetcast-node"]
ERRORS: dict[str, int] = {"full": errno.ENOSPC, "io": errno.EIO, "readonly": errno.EROFS}
PASSPHRASE = "test"  # These fleets live for a second.
SECONDS_MAX = 60  # A command may take so long.
HUNG = -signal.SIGALRM


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, or the signal that ended it as a negative one, what it said, and whether the fault struck."""

    code: int
    out: str
    err: str
    struck: bool


@dataclass(slots=True)
class Fault:
    """A fault that begins at a change of the files below a folder; `length` changes are refused, all that follow by default."""

    folder: Path
    how: How
    at: int
    length: int = -1


class Broken:
    """A folder on a disk that breaks: arms a fork for it, and leaves in its place what a kill or a power cut leaves."""

    def __init__(self, fault: Fault, scratch: Path) -> None:
        self._fault, self._journal = fault, scratch / "journal"
        self._journal.unlink(missing_ok=True)
        self._keeps = fault.how in ("lost", "torn", "none")
        self._disk = Disk(fault.folder) if self._keeps else None

    def arm(self) -> Shim:
        """Break the disk of this process from now on."""
        fault, shim = self._fault, Shim()
        shim.watch(fault.folder, self._journal if self._keeps else None)
        if fault.how != "none":
            shim.arm(fault.at, FAIL if fault.how in ERRORS else KILL, ERRORS.get(fault.how, 0), fault.length)
        return shim

    @property
    def kinds(self) -> list[str]:
        """Every change that was made."""
        return [f"{NAMES[one.kind]} {one.first}" for one in changes(self._journal)]

    def leave(self, chances: Random) -> None:
        """Put what is left of the folder in its place, once the process is dead."""
        if self._disk is None:
            return
        self._disk.replay(changes(self._journal))
        self._disk.leave(self._fault.folder, None if self._fault.how == "lost" else chances)


def command(program: Program, *words: str, scratch: Path, broken: Broken | None = None, environment: dict[str, str] | None = None) -> Ended:
    """Run a command to its end in a fork, on a disk that may break."""
    out, err, fired = scratch / "out", scratch / "err", scratch / "fired"
    fired.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _be(program, words, out, err, fired, broken, environment or {})
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    struck = code == -signal.SIGKILL or fired.exists()
    return Ended(code, out.read_text(), err.read_text(), struck)


def _be(program: Program, words: tuple[str, ...], out: Path, err: Path, fired: Path, broken: Broken | None, more: dict[str, str]) -> None:
    """Be the installed program, and end."""
    code = 70
    try:
        signal.alarm(SECONDS_MAX)
        for number, path in enumerate((Path(os.devnull), out, err)):
            opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        os.environ.update(more)
        sys.argv = [program, *words]
        import hub.__main__
        import node.__main__

        shim = broken.arm() if broken is not None else None
        try:
            (hub if program == "fleetcast" else node).__main__.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        sys.stdout.flush()
        if shim is not None and shim.fired:
            shim.disarm()
            fired.touch()
    except BaseException:
        import traceback

        with contextlib.suppress(Exception):
            traceback.print_exc()
            sys.stderr.flush()
    os._exit(code)


class Office:
    """The hub's endpoint, as its service runs it, in a fork that can be killed: at a change of its files, or at rest."""

    def __init__(self, fleet: Path, scratch: Path, url: str) -> None:
        self._fleet, self._scratch, self.url = fleet, scratch, url
        self._child = 0

    def start(self, broken: Broken | None = None) -> bool:
        """Start it; return whether it listens. One whose disk breaks may end before."""
        ready, told = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(ready)
            self._be(told, broken)
        os.close(told)
        with os.fdopen(ready, "rb") as file:
            return file.read(1) == b"."

    @property
    def fired(self) -> bool:
        """Return whether a disk that answers with errors has done so."""
        return (self._scratch / "office-fired").exists()

    def stop(self) -> bool:
        """End it at once, if it lives; return whether the shim had killed it."""
        if not self._child:
            return False
        done, status = os.waitpid(self._child, os.WNOHANG)
        if not done:
            os.kill(self._child, signal.SIGTERM)  # which nobody handles: its end is as sudden
            _, status = os.waitpid(self._child, 0)
        self._child = 0
        return os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    def _be(self, told: int, broken: Broken | None) -> None:
        signal.alarm(4 * SECONDS_MAX)
        (self._scratch / "office-fired").unlink(missing_ok=True)
        with (self._scratch / "office-log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        try:
            shim = broken.arm() if broken is not None else None
            self._run(told, shim)
        except BaseException:
            import traceback

            traceback.print_exc()
            if shim is not None and shim.fired:
                (self._scratch / "office-fired").touch()
        os._exit(3)

    def _run(self, told: int, shim: Shim | None) -> None:
        from hub.database.store import Store
        from hub.operations.opening import database_url
        from hub.service.alerts.event_log import Notes
        from hub.service.enrol.enrolment_service import Enrolling
        from hub.settings import load
        from hub.signing.certificate_issuer import open_authority

        settings = load(self._fleet).model_copy(update={"enrolment_listen": self.url.removeprefix("https://"), "enrolment_url": self.url})
        store = Store(database_url(self._fleet, settings))
        store.create()
        enrolling = Enrolling(
            self._fleet,
            settings,
            authority=open_authority(self._fleet, PASSPHRASE.encode, fleet=settings.fleet),
            store=store,
            notes=Notes(store, publish=lambda alert: None, clock=time.time),
            broker_url=settings.broker_url,
            revoked=lambda node: None,
            wall=time.time,
            monotonic=time.monotonic,
        )
        enrolling.start()
        os.write(told, b".")
        os.close(told)
        while True:
            if shim is not None and shim.fired:
                (self._scratch / "office-fired").touch()
            with contextlib.suppress(Exception):  # as the hub's loop does, which logs it
                enrolling.tick()
            time.sleep(0.02)


def copy(source: Path, target: Path) -> None:
    """Copy a folder as it lies there, modes and all."""
    shutil.copytree(source, target, symlinks=True)
