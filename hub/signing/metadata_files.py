"""Store the files of a TUF repository: add versions and drop old ones, one process at a time. Knows no key and no rule of TUF."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fleetcast import disk_room, durable
from hub.signing.kept_copies import KeptCopies
from hub.signing.parsed_metadata import parsed
from schemas.errors import Code, Refused

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)

# A folder's time of change has the steps of the kernel's clock: two changes within one of them leave the same time, as they do for git.
SETTLED_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Listed:
    """Hold which files of metadata there are."""

    names: tuple[tuple[int, str, str], ...]  # Version, role and name of each file.
    newest: Mapping[str, int]


class MetadataFolder:
    """Manage `metadata/<version>.<role>.json` and `metadata/current.json` below `directory`, the `documents` beside them, and a lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.documents = directory / "documents"
        self._metadata = directory / "metadata"
        self.statements = self.documents / "deployments"
        self.settings = self.documents / "settings"
        copies = KeptCopies(directory)
        self.read, self._copies = copies.read, copies
        self._listed: _Listed | None = None  # While the lock is held, and nothing was written since.
        self._is_locked = False
        self._generation: tuple[tuple[int, int], int] | None = None  # It is known for these times of change of both folders.

    def make(self) -> None:
        """Make the folders.

        Raises:
            Refused: the repository exists already.
        """
        try:
            durable.make_folder(self._metadata.parent, parents=True)
            self._metadata.mkdir()
            durable.sync(self._metadata.parent)
        except FileExistsError:
            raise Refused(Code.SETTINGS_INVALID, f"{self.directory} holds a repository already") from None
        durable.make_folder(self.documents)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes and threads out; it is not reentrant.

        Raises:
            Refused: the disk has no room for the files that are written meanwhile.
        """
        sentence = f"no room for the repository in {self.directory}: free some there, and what waits goes on"
        with disk_room.refusing(sentence, errnos=disk_room.TAKES_NOTHING), (self.directory / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._is_locked, self._listed = True, None
            try:
                yield
            finally:
                self._is_locked, self._listed = False, None

    def write(self, path: Path, data: bytes) -> None:
        """Write a file durably, with its copy."""
        self._listed = None
        self._copies.write(path, data)

    def remove(self, path: Path) -> None:
        """Remove a file and its copy."""
        self._listed = None
        self._copies.remove(path)

    def path(self, role: str, version: int) -> Path:
        """Return the path of a version of a role."""
        return self._metadata / f"{version}.{role}.json"

    def version(self, role: str) -> int:
        """Return the newest version of a role; 0 when there is none."""
        return self._list().newest.get(role, 0)

    def versions(self) -> dict[str, int]:
        """Return the newest version of every role."""
        return dict(self._list().newest)

    def older(self, role: str) -> list[int]:
        """Return the versions of a role that are on disk beside the newest, oldest first."""
        found = self._list()
        return sorted(version for version, name, _ in found.names if name == role and version != found.newest[role])

    def newest(self, role: str, kind: type[S]) -> Metadata[S]:
        """Return the newest metadata of a role, whose kind the caller knows. It is shared: nobody changes it."""
        return self.newest_of_any_kind(role)

    def newest_of_any_kind(self, role: str) -> Metadata[Any]:
        """Return the newest metadata of a role. It is shared: nobody changes it."""
        return parsed(self.newest_bytes(role))

    def newest_bytes(self, role: str) -> bytes:
        """Return the newest metadata of a role as it is on disk."""
        return self.read(self.path(role, self.version(role)))

    def draft(self, role: str, kind: type[S]) -> S:
        """Return a copy of the newest metadata of a role, to be changed and signed as the next version."""
        return Metadata[S].from_bytes(self.newest_bytes(role)).signed

    def current(self) -> dict[str, int]:
        """Return the versions that agree with each other, as of the last `set_current`."""
        path = self._metadata / "current.json"
        found: dict[str, int] = json.loads(self.read(path)) if path.exists() else {}
        return found

    def set_current(self, versions: dict[str, int]) -> None:
        """Record the versions that agree with each other, and drop older ones. Roots are never dropped.

        The hourly timestamp would otherwise leave 9,000 files a year.
        """
        self.write(self._metadata / "current.json", json.dumps(versions, sort_keys=True).encode())
        for version, role, name in self._list().names:
            if role != "root" and version < versions.get(role, 0):
                self.remove(self._metadata / name)

    def generation(self, *, thorough: bool = False) -> int:
        """Return a value that changes whenever a file does that trust bundles vouch for; it is cheap to ask for every second.

        Every writer puts a whole file in its place, which changes its folder: where neither folder has changed, the files are looked at
        only if `thorough`.
        """
        folders = _changed_at(self._metadata), _changed_at(self.statements)
        if self._generation is not None and self._generation[0] == folders and not thorough:
            return self._generation[1]
        now, found = time.time_ns(), _sum_of_times(self._metadata) + _sum_of_times(self.statements)
        self._generation = (folders, found) if all(now - one > SETTLED_NS for one in folders) else None
        return found

    def stamps(self) -> dict[str, tuple[int, int, int]]:
        """Return, for each model with deployments, what changes whenever their file does."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.statements) as entries:
            return {one.name: _stamp(one.stat()) for one in entries if not one.name.startswith(".")}
        return {}

    def _list(self) -> _Listed:
        """List the files of metadata: once while the lock is held, for there may be thousands."""
        if self._listed is not None:
            return self._listed
        with os.scandir(self._metadata) as entries:
            files = [entry.name for entry in entries if entry.name.endswith(".json")]
        parts = [(*name.removesuffix(".json").partition("."), name) for name in files]
        names = tuple((int(number), role, name) for number, _, role, name in parts if number.isdigit())
        newest: dict[str, int] = {}
        for version, role, _ in names:
            newest[role] = max(version, newest.get(role, 0))
        found = _Listed(names, newest)
        if self._is_locked:
            self._listed = found
        return found


def _sum_of_times(folder: Path) -> int:
    """Return the sum of the times at which the files of a folder changed."""
    found = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # Another process has dropped it meanwhile.
                found += entry.stat().st_mtime_ns if not entry.name.startswith(".") else 0
    return found


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mtime_ns, found.st_ino, found.st_size


def write(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write a file so that it is durable before it is visible; `mode` overrides the process's default for new files."""
    durable.make_folder(path.parent, parents=True)
    durable.write(path, data, mode=mode)
