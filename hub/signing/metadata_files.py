"""Store the files of a TUF repository: add versions and drop old ones, one process at a time. Knows no key and no rule of TUF.

They are in a folder, or in a database that several hubs share (hub/signing/metadata_database.py).
"""

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fleetcast import disk_room, durable
from hub.database.place import MARKER, place_in
from hub.signing.kept_copies import KeptCopies
from hub.signing.parsed_metadata import parsed
from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from hub.database.document_rows import Fence


S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
Stamp = tuple[int, ...]  # A number that changes whenever its file is written, and says nothing else.

# A folder's time of change has the steps of the kernel's clock: two changes within one of them leave the same time, as they do for git.
SETTLED_NS = 1_000_000_000


class _Listed:
    """Hold which files of metadata there are."""

    def __init__(self, files: Iterable[str]) -> None:
        self.names: dict[str, tuple[int, str]] = {}  # Version and role of each file.
        self.newest: dict[str, int] = {}
        for name in files:
            self.add(name)

    def add(self, name: str) -> None:
        """Take in a file that is there."""
        number, _, role = name.removesuffix(".json").partition(".")
        if name.endswith(".json") and number.isdigit():
            self.names[name] = version, _ = int(number), role
            self.newest[role] = max(version, self.newest.get(role, 0))

    def drop(self, name: str) -> None:
        """Leave out a file that is gone."""
        version, role = self.names.pop(name, (0, ""))
        if self.newest.get(role) == version:
            older = [one for one, other in self.names.values() if other == role]
            self.newest.pop(role)
            if older:
                self.newest[role] = max(older)


class _Held(threading.local):
    """Hold what the thread knows that has the lock. Another one may read meanwhile, and is to keep nothing that it has read."""

    is_locked = False
    listed: _Listed | None = None  # It follows what the thread writes.


class MetadataFiles(ABC):
    """Manage `metadata/<version>.<role>.json` and `metadata/current.json`, and the `documents` beside them, under a lock."""

    documents: Path
    metadata: Path

    def __init__(self) -> None:
        self._held = _Held()

    @property
    def statements(self) -> Path:
        """Return where signed deployments are."""
        return self.documents / "deployments"

    @property
    def settings(self) -> Path:
        """Return where signed settings of nodes are."""
        return self.documents / "settings"

    @abstractmethod
    def make(self) -> None:
        """Begin a new repository.

        Raises:
            Refused: the repository exists already.
        """

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes and threads out; it is not reentrant.

        Raises:
            Refused: the disk has no room for the files that are written meanwhile.
            Unreachable: the database does not answer, or another process leads.
        """
        with self._alone():
            self._held.is_locked, self._held.listed = True, None
            try:
                yield
            finally:
                self._held.is_locked, self._held.listed = False, None

    @abstractmethod
    def read(self, path: Path) -> bytes:
        """Return a file.

        Raises:
            Refused: METADATA_DAMAGED: it is not there.
        """

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, so that it is durable before it counts."""
        with self._listing(path) as listed:
            self._write(path, data)
            listed.add(path.name)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        with self._listing(path) as listed:
            self._remove(path)
            listed.drop(path.name)

    @abstractmethod
    def exists(self, path: Path) -> bool:
        """Return whether a file is there."""

    @abstractmethod
    def matching(self, pattern: str) -> list[Path]:
        """Return the documents whose path below `documents` matches a pattern."""

    @abstractmethod
    def stamps(self, folder: Path) -> dict[str, Stamp]:
        """Return the names of the files in a folder of documents, each with its stamp."""

    @abstractmethod
    def generation(self, *, thorough: bool = False) -> int:
        """Return a value that changes whenever a file does that trust bundles vouch for; it is cheap to ask for every second.

        Only a `thorough` look sees a file that was changed without being written anew.
        """

    @abstractmethod
    def _alone(self) -> AbstractContextManager[None]:
        """Take the lock."""

    @abstractmethod
    def _write(self, path: Path, data: bytes) -> None:
        """Write a file."""

    @abstractmethod
    def _remove(self, path: Path) -> None:
        """Remove a file."""

    @abstractmethod
    def _names(self) -> list[str]:
        """Return the names of the metadata's files."""

    def path(self, role: str, version: int) -> Path:
        """Return the path of a version of a role."""
        return self.metadata / f"{version}.{role}.json"

    def version(self, role: str) -> int:
        """Return the newest version of a role; 0 when there is none."""
        return self._list().newest.get(role, 0)

    def versions(self) -> dict[str, int]:
        """Return the newest version of every role."""
        return dict(self._list().newest)

    def older(self, role: str) -> list[int]:
        """Return the versions of a role that are there beside the newest, oldest first."""
        found = self._list()
        return sorted(version for version, name in found.names.values() if name == role and version != found.newest[role])

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
        path = self.metadata / "current.json"
        found: dict[str, int] = json.loads(self.read(path)) if self.exists(path) else {}
        return found

    def set_current(self, versions: dict[str, int]) -> None:
        """Record the versions that agree with each other, and drop older ones. Roots are never dropped.

        The hourly timestamp would otherwise leave 9,000 files a year.
        """
        self.write(self.metadata / "current.json", json.dumps(versions, sort_keys=True).encode())
        for name, (version, role) in list(self._list().names.items()):
            if role != "root" and version < versions.get(role, 0):
                self.remove(self.metadata / name)

    def _list(self) -> _Listed:
        """List the files of metadata: once while the lock is held, for there may be thousands."""
        if self._held.listed is not None:
            return self._held.listed
        found = _Listed(self._names())
        if self._held.is_locked:
            self._held.listed = found
        return found

    @contextlib.contextmanager
    def _listing(self, path: Path) -> Iterator[_Listed]:
        """Have the list of files follow a change of one; where the change fails, the files are listed anew."""
        listed, self._held.listed = self._held.listed, None
        yield listed if listed is not None and path.parent == self.metadata else _Listed(())
        self._held.listed = listed


class MetadataFolder(MetadataFiles):
    """Manage them as files below `directory`, with a copy of each."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.documents = directory / "documents"
        self.metadata = directory / "metadata"
        self._copies = KeptCopies(directory)
        self._generation: tuple[tuple[int, int], int] | None = None  # It is known for these times of change of both folders.

    def make(self) -> None:
        """Make the folders.

        Raises:
            Refused: the repository exists already.
        """
        try:
            durable.make_folder(self.metadata.parent, parents=True)
            self.metadata.mkdir()
            durable.sync(self.metadata.parent)
        except FileExistsError:
            raise Refused(Code.SETTINGS_INVALID, f"{self.directory} holds a repository already") from None
        durable.make_folder(self.documents)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        sentence = f"no room for the repository in {self.directory}: free some there, and what waits goes on"
        with disk_room.refusing(sentence, errnos=disk_room.TAKES_NOTHING), self._lock_file() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _lock_file(self) -> BinaryIO:
        path = self.directory / "lock"
        try:
            return path.open("ab")
        except OSError as error:
            if error.errno != errno.EROFS or not path.exists():
                raise
            return path.open("rb")  # What is signed can be read from a disk that takes no write.

    def generation(self, *, thorough: bool = False) -> int:
        """Return a value that changes whenever a file does that trust bundles vouch for; it is cheap to ask for every second.

        Every writer puts a whole file in its place, which changes its folder: where neither folder has changed, the files are looked at
        only if `thorough`.
        """
        folders = _changed_at(self.metadata), _changed_at(self.statements)
        known = self._generation
        if known is not None and known[0] == folders and not thorough:
            return known[1]
        now, found = time.time_ns(), _sum_of_times(self.metadata) + _sum_of_times(self.statements)
        self._generation = (folders, found) if all(now - one > SETTLED_NS for one in folders) else None
        return found

    def read(self, path: Path) -> bytes:
        """Return what was written; a damaged or missing file is mended from its copy.

        Raises:
            Refused: METADATA_DAMAGED, naming the file, where there is no good copy of it.
        """
        return self._copies.read(path)

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file durably, and its copy."""
        self._copies.write(path, data)

    def _remove(self, path: Path) -> None:
        """Remove a file and its copy."""
        self._copies.remove(path)

    def exists(self, path: Path) -> bool:
        """Return whether a file is there."""
        return path.is_file()

    def matching(self, pattern: str) -> list[Path]:
        """Return the documents whose path below `documents` matches a pattern."""
        return list(self.documents.glob(pattern))

    def stamps(self, folder: Path) -> dict[str, Stamp]:
        """Return the names of the files in a folder of documents, each with its stamp."""
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            return {one.name: _stamp(one.stat()) for one in entries if not one.name.startswith(".")}
        return {}

    def _names(self) -> list[str]:
        with os.scandir(self.metadata) as entries:
            return [entry.name for entry in entries]


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


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_ino, found.st_size


def files_of(directory: Path, *, fence: "Fence | None" = None) -> MetadataFiles:
    """Return the files of a repository: those in its folder, or in the database where the folder says that they are there.

    Raises:
        Refused: SETTINGS_INVALID: they are in a database, and the fleet's settings name none.
    """
    if not (directory / MARKER).exists():
        return MetadataFolder(directory)
    from hub.signing.metadata_database import files_in  # noqa: PLC0415  # SQLAlchemy, which most fleets' commands do without

    place = place_in(directory.parent)
    if not place:
        text = f"{directory / MARKER} says that the fleet's signed metadata is in its database, and its settings name no database_url"
        raise Refused(Code.SETTINGS_INVALID, f"{text}: give the URL of that database")
    return files_in(place, fence=fence)


def write(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write a file so that it is durable before it is visible; `mode` overrides the process's default for new files."""
    durable.make_folder(path.parent, parents=True)
    durable.write(path, data, mode=mode)
