"""Databases for tests: SQLite in a file, or a real PostgreSQL, which is started on a socket in a scratch folder. No mocks.

`FLEETCAST_TEST_DATABASE=postgresql` has the suites of the store and the service run on PostgreSQL (`make test-postgres`).
"""

import atexit
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

ON_POSTGRESQL = os.environ.get("FLEETCAST_TEST_DATABASE") == "postgresql"
KINDS = ("sqlite", "postgresql")
NOBODY = "65534"
START_SECONDS = 120.0


@cache
def programs() -> Path | None:
    """The folder of PostgreSQL's programs; None where it is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name), reverse=True)
    for name in ("postgres", "initdb"):
        found = shutil.which(name)
        if found is not None:
            debian.append(Path(found).resolve().parent)
    return next((one for one in debian if (one / "postgres").exists() and (one / "initdb").exists()), None)


needs_postgresql = pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed")
only_sqlite = pytest.mark.skipif(ON_POSTGRESQL, reason="it looks into SQLite's file")


class Server:
    """One PostgreSQL, as a user who is not root: it refuses to run as root."""

    def __init__(self, folder: Path, *options: str) -> None:
        bin_folder = programs()
        assert bin_folder is not None, "PostgreSQL is not installed"
        self.folder, self._bin, self._options = folder, bin_folder, options
        self._process: subprocess.Popen[bytes] | None = None
        arguments = ("-A", "trust", "-U", "fleetcast", "-E", "UTF8", "--locale=C", "--no-sync")
        subprocess.run(
            self._command("initdb", "-D", str(folder / "data"), *arguments),
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=START_SECONDS,
        )

    def _command(self, program: str, *arguments: str) -> Sequence[str]:
        # As root, in a namespace of users in which root's files are nobody's and root is nobody.
        other = () if os.geteuid() else ("unshare", "--user", f"--map-user={NOBODY}")
        return [*other, str(self._bin / program), *arguments]

    def start(self) -> "Server":
        """Start it, and wait until it answers."""
        settings = ("listen_addresses=", "shared_buffers=16MB", "max_connections=400", *self._options)
        options = [part for setting in settings for part in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(self.folder / "data"), "-k", str(self.folder), *options),
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.05)
        return self

    def answers(self) -> bool:
        """Whether it takes connections."""
        return subprocess.run([self._bin / "pg_isready", "-q", "-h", self.folder], check=False, timeout=START_SECONDS).returncode == 0

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT drops all connections, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)
            self._process = None

    def url(self, name: str = "postgres") -> str:
        """Where a database is."""
        return f"postgresql://fleetcast@/{name}?host={self.folder}"

    def make(self, name: str) -> str:
        """A new database; return where it is."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)


def scratch() -> Path:
    """A folder with a name that is short enough for a socket in it."""
    return Path(tempfile.mkdtemp(prefix="fleetcast-pg-"))


_started: list[tuple[int, Server]] = []  # By the process that started it: a fork of it ends nothing.


@cache
def _shared() -> Server:
    """The server of this process's tests, which does not wait for the disk."""
    server = Server(scratch(), "fsync=off", "full_page_writes=off").start()
    _started.append((os.getpid(), server))
    atexit.register(end_shared)
    return server


def end_shared() -> None:
    """End the server of this process's tests: pytest calls it, for a worker of several may be ended before it comes to `atexit`."""
    while _started:
        pid, server = _started.pop()
        if os.getpid() == pid:
            server.stop()
            shutil.rmtree(server.folder, ignore_errors=True)


_made: dict[str, str] = {}


def _name_of(path: Path) -> str:
    return "t" + hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:30]


def postgresql_url(path: Path) -> str:
    """Where the PostgreSQL database is that belongs to a path; it is made at first."""
    name = _name_of(path)
    if name not in _made:
        _made[name] = _shared().make(name)
    return _made[name]


def copy_of(source: Path, target: Path) -> None:
    """Make the database that belongs to `target` a copy of that of `source`; SQLite's are copied with their folder."""
    if not ON_POSTGRESQL:
        return
    import psycopg

    postgresql_url(source)
    names = [_name_of(path) for path in (target, source)]
    with psycopg.connect(_shared().url(), autocommit=True) as db:  # A template has no connections; pools make theirs anew.
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (names[1],))
        db.execute(f'CREATE DATABASE "{names[0]}" TEMPLATE "{names[1]}"'.encode())
    _made[names[0]] = _shared().url(names[0])


def url_of(path: Path) -> str:
    """Where the database is that belongs to a path: the SQLite file there, or a database of PostgreSQL's."""
    return postgresql_url(path) if ON_POSTGRESQL else f"sqlite:///{path}"


if sys.platform != "linux":
    needs_postgresql = pytest.mark.skip(reason="its user is changed by Linux's namespaces")


def settings_of(path: Path) -> str:
    """The line of `fleet.toml` by which commands find the database that belongs to a path; empty for SQLite's default place."""
    return f'database_url = "{url_of(path)}"\n' if ON_POSTGRESQL else ""
