"""Store the files of a TUF repository: add versions and drop old ones, one process at a time. Knows no key and no rule of TUF."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fleetcast import disk_room, durable
from hub.signing.kept_copies import KeptCopies
from hub.signing.parsed_metadata import parsed
from schemas.errors import Code, Refused

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


class MetadataFolder:
    """Manage `metadata/<version>.<role>.json` and `metadata/current.json` below `directory`, the `documents` beside them, and a lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.documents = directory / "documents"
        self._metadata = directory / "metadata"
        self.statements = self.documents / "deployments"
        self.settings = self.documents / "settings"
        copies = KeptCopies(directory)
        self.write, self.read, self.remove = copies.write, copies.read, copies.remove

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
            yield

    def path(self, role: str, version: int) -> Path:
        """Return the path of a version of a role."""
        return self._metadata / f"{version}.{role}.json"

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
        path = self._metadata / "current.json"
        found: dict[str, int] = json.loads(self.read(path)) if path.exists() else {}
        return found

    def set_current(self, versions: dict[str, int]) -> None:
        """Record the versions that agree with each other, and drop older ones. Roots are never dropped.

        The hourly timestamp would otherwise leave 9,000 files a year.
        """
        self.write(self._metadata / "current.json", json.dumps(versions, sort_keys=True).encode())
        for version, role, name in list(self._files()):
            if role != "root" and version < versions.get(role, 0):
                self.remove(self._metadata / name)

    def generation(self) -> int:
        """Return a value that changes whenever a file does that trust bundles vouch for; it is cheap to ask for every second."""
        found = 0
        for entry in os.scandir(self._metadata):
            with contextlib.suppress(FileNotFoundError):  # Another process has dropped it meanwhile.
                found += entry.stat().st_mtime_ns if entry.name.endswith(".json") else 0
        with contextlib.suppress(FileNotFoundError):
            found += sum(entry.stat().st_mtime_ns for entry in os.scandir(self.statements))
        return found

    def _files(self) -> Iterator[tuple[int, str, str]]:
        with os.scandir(self._metadata) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            version, _, role = name.removesuffix(".json").partition(".")
            if name.endswith(".json") and version.isdigit():
                yield int(version), role, name


def write(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write a file so that it is durable before it is visible; `mode` overrides the process's default for new files."""
    durable.make_folder(path.parent, parents=True)
    durable.write(path, data, mode=mode)
