"""Store the files of a TUF repository: add versions and drop old ones, one process at a time. Knows no key and no rule of TUF.

They are in a folder, or in a database that several hubs share (hub/signing/metadata_database.py).
"""

import contextlib
import fcntl
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fleetcast import disk_room, durable
from hub.database.place import place_in
from hub.signing.kept_copies import KeptCopies
from hub.signing.parsed_metadata import parsed
from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from hub.database.document_rows import Fence

MARKER = "in-database"  # A file of this name in the folder says that the rest is in the fleet's database.
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


class MetadataFiles(ABC):
    """Manage `metadata/<version>.<role>.json` and `metadata/current.json`, and the `documents` beside them, under a lock."""

    documents: Path
    metadata: Path

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

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes and threads out; it is not reentrant."""

    @abstractmethod
    def read(self, path: Path) -> bytes:
        """Return a file.

        Raises:
            Refused: METADATA_DAMAGED: it is not there.
        """

    @abstractmethod
    def write(self, path: Path, data: bytes) -> None:
        """Write a file, so that it is durable before it counts."""

    @abstractmethod
    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def exists(self, path: Path) -> bool:
        """Return whether a file is there."""

    @abstractmethod
    def matching(self, pattern: str) -> list[Path]:
        """Return the documents whose path below `documents` matches a pattern."""

    @abstractmethod
    def stamps(self, folder: Path) -> dict[str, int]:
        """Return the names of the files in a folder of documents, each with a number that changes when the file does."""

    @abstractmethod
    def generation(self) -> int:
        """Return a value that changes whenever a file does that trust bundles vouch for; it is cheap to ask for every second."""

    @abstractmethod
    def _names(self) -> list[str]:
        """Return the names of the metadata's files."""

    def path(self, role: str, version: int) -> Path:
        """Return the path of a version of a role."""
        return self.metadata / f"{version}.{role}.json"

    def version(self, role: str) -> int:
        """Return the newest version of a role; 0 when there is none."""
        return max((version for version, name, _ in self._files() if name == role), default=0)

    def versions(self) -> dict[str, int]:
        """Return the newest version of every role."""
        found: dict[str, int] = {}
        for version, role, _ in self._files():
            found[role] = max(version, found.get(role, 0))
        return found

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
        for version, role, name in list(self._files()):
            if role != "root" and version < versions.get(role, 0):
                self.remove(self.metadata / name)

    def _files(self) -> Iterator[tuple[int, str, str]]:
        for name in self._names():
            version, _, role = name.removesuffix(".json").partition(".")
            if name.endswith(".json") and version.isdigit():
                yield int(version), role, name


class MetadataFolder(MetadataFiles):
    """Manage them as files below `directory`, with a copy of each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.documents = directory / "documents"
        self.metadata = directory / "metadata"
        self._copies = KeptCopies(directory)

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
    def locked(self) -> Iterator[None]:
        """Keep other processes and threads out; it is not reentrant.

        Raises:
            Refused: the disk has no room for the files that are written meanwhile.
        """
        sentence = f"no room for the repository in {self.directory}: free some there, and what waits goes on"
        with disk_room.refusing(sentence, errnos=disk_room.TAKES_NOTHING), (self.directory / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def generation(self) -> int:
        """Return a value that changes whenever a file does that trust bundles vouch for; it is cheap to ask for every second."""
        found = 0
        for entry in os.scandir(self.metadata):
            with contextlib.suppress(FileNotFoundError):  # Another process has dropped it meanwhile.
                found += entry.stat().st_mtime_ns if entry.name.endswith(".json") else 0
        with contextlib.suppress(FileNotFoundError):
            found += sum(entry.stat().st_mtime_ns for entry in os.scandir(self.statements))
        return found

    def read(self, path: Path) -> bytes:
        """Return what was written; a damaged or missing file is mended from its copy.

        Raises:
            Refused: METADATA_DAMAGED, naming the file, where there is no good copy of it.
        """
        return self._copies.read(path)

    def write(self, path: Path, data: bytes) -> None:
        """Write a file durably, and its copy."""
        self._copies.write(path, data)

    def remove(self, path: Path) -> None:
        """Remove a file and its copy."""
        self._copies.remove(path)

    def exists(self, path: Path) -> bool:
        """Return whether a file is there."""
        return path.is_file()

    def matching(self, pattern: str) -> list[Path]:
        """Return the documents whose path below `documents` matches a pattern."""
        return list(self.documents.glob(pattern))

    def stamps(self, folder: Path) -> dict[str, int]:
        """Return the names of the files in a folder of documents, each with a number that changes when the file does."""
        with contextlib.suppress(FileNotFoundError):
            return {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder) if not entry.name.startswith(".")}
        return {}

    def _names(self) -> list[str]:
        with os.scandir(self.metadata) as entries:
            return [entry.name for entry in entries]


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
