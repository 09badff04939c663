"""Store the files of a TUF repository in a database that several hubs share, and move those of a folder there.

In place of a folder's lock there is one transaction: the version that a role gets next is read and taken in it, so that two processes never
sign one version. Where a process signs because it leads, the transaction is refused as soon as another leads (hub/database/leadership.py).
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from sqlalchemy import Connection

from fleetcast import durable
from hub.database import schema, tables
from hub.database.connection import Database
from hub.database.document_rows import DocumentRows, Fence
from hub.database.place import MARKER
from hub.database.store import Store
from hub.signing.kept_copies import FOLDER
from hub.signing.metadata_files import MetadataFiles, MetadataFolder, Stamp
from schemas.errors import Code, Refused

MOVED = "moved-to-database"  # The folder in which files stay that were moved: no program reads them there.


class DatabaseFiles(MetadataFiles):
    """Manage metadata and documents as rows, by the path that each would have as a file."""

    documents, metadata = Path("documents"), Path("metadata")

    def __init__(self, database: Database, *, fence: Fence | None = None) -> None:
        super().__init__()
        self._rows = DocumentRows(database, fence=fence)
        self._mine = threading.local()  # The transaction of the thread that has the lock.

    def make(self) -> None:
        """Check that there is no repository yet.

        Raises:
            Refused: there is one.
        """
        if self._names():
            raise Refused(Code.SETTINGS_INVALID, "the database holds a fleet's signed metadata already")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Begin the one transaction that changes anything."""
        with self._rows.alone() as db:
            self._mine.db = db
            try:
                yield
            finally:
                self._mine.db = None

    @contextlib.contextmanager
    def _db(self) -> Iterator[Connection]:
        mine: Connection | None = getattr(self._mine, "db", None)
        if mine is not None:
            yield mine
        else:
            with self._rows.reading() as db:
                yield db

    def read(self, path: Path) -> bytes:
        """Return a document.

        Raises:
            Refused: METADATA_DAMAGED: it is not there.
        """
        with self._db() as db:
            found = self._rows.body(db, path.as_posix())
        if found is None:
            raise Refused(Code.METADATA_DAMAGED, f"the database has no {path}: restore it from a backup (docs/operations.md)")
        return found

    def _write(self, path: Path, data: bytes) -> None:
        """Write a document."""
        self._rows.put(self._writing(), path.as_posix(), data, counts=self._counts(path))

    def _remove(self, path: Path) -> None:
        """Remove a document."""
        self._rows.drop(self._writing(), path.as_posix(), counts=self._counts(path))

    def exists(self, path: Path) -> bool:
        """Return whether a document is there."""
        with self._db() as db:
            return self._rows.body(db, path.as_posix()) is not None

    def matching(self, pattern: str) -> list[Path]:
        """Return the documents whose path below `documents` matches a pattern."""
        whole, parts = f"{self.documents}/{pattern}", len(PurePosixPath(pattern).parts) + 1
        with self._db() as db:
            paths = [Path(path) for path in self._rows.paths(db, str(self.documents))]
        return [path for path in paths if len(path.parts) == parts and path.match(whole)]

    def stamps(self, folder: Path) -> dict[str, Stamp]:
        """Return the names of the documents in a folder, each with the number of the change that wrote it."""
        with self._db() as db:
            return {path.rpartition("/")[2]: (changed,) for path, changed in self._rows.stamps(db, folder.as_posix()).items()}

    def generation(self, *, thorough: bool = False) -> int:
        """Return a value that changes whenever a document does that trust bundles vouch for: no look need be more thorough."""
        with self._db() as db:
            return self._rows.generation(db)

    def _names(self) -> list[str]:
        with self._db() as db:
            return [path.rpartition("/")[2] for path in self._rows.paths(db, str(self.metadata))]

    def _writing(self) -> Connection:
        mine: Connection | None = getattr(self._mine, "db", None)
        if mine is None:
            raise RuntimeError("a document is written without the lock")
        return mine

    def _counts(self, path: Path) -> bool:
        return path.parent != self.settings


def files_in(place: str, *, fence: Fence | None = None) -> DatabaseFiles:
    """Return the files of a repository in the database of this place."""
    return DatabaseFiles(_database(place), fence=fence)


def holds_documents(database: Database) -> bool:
    """Return whether a database has signed metadata of a fleet."""
    rows = DocumentRows(database)
    with rows.reading() as db:
        return bool(rows.paths(db, str(DatabaseFiles.metadata)))


@lru_cache(maxsize=8)
def _database(place: str) -> Database:
    """Return one database for all repositories of a process: each connection is used again.

    Raises:
        Refused: SCHEMA_UNSUPPORTED: its tables are not those of this version.
    """
    database = Database(place)
    schema.check(database, tables.metadata)
    return database


def move_to_database(directory: Path, place: str) -> bool:
    """Move a folder's metadata and documents to the fleet's database; False where the folder says that they are there already.

    A process that is killed meanwhile leaves all of them in the folder, or all in the database. The files stay in a folder of another name.

    Raises:
        Refused: the database holds the metadata of another fleet, or the folder's is newer than the database's.
        Unreachable: the database does not answer.
    """
    if (directory / MARKER).exists():
        return False
    Store(place).create()
    folder, rows = MetadataFolder(directory), DocumentRows(_database(place))
    with folder.locked(), rows.alone() as db:
        files = {path.relative_to(directory).as_posix(): folder.read(path) for path in _files(folder)}
        there = {path: rows.body(db, path) for path in rows.paths(db, "metadata")}
        if there:
            _check_same(files, there)
        else:
            for path, body in sorted(files.items()):
                rows.put(db, path, body)
    durable.write(directory / MARKER, b"The signed metadata of this fleet is in its database.\n")
    aside = directory / MOVED
    aside.mkdir(exist_ok=True)
    for name in ("metadata", "documents", FOLDER):
        with contextlib.suppress(OSError):
            (directory / name).rename(aside / name)
    durable.sync(directory)
    return True


def _files(folder: MetadataFolder) -> Sequence[Path]:
    documents = (path for path in folder.documents.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [*folder.metadata.glob("*.json"), *documents]


def _check_same(files: dict[str, bytes], there: dict[str, bytes | None]) -> None:
    """Check that a folder holds an earlier state of what the database holds: a copy of it was moved on another machine."""
    first = "metadata/1.root.json"
    if files.get(first) != there.get(first):
        raise Refused(Code.SETTINGS_INVALID, "the database holds another fleet's signed metadata: give this fleet a database of its own")
    newer = sorted(set(files) - set(there) - _earlier(there, files))
    if newer:
        what = f"this folder has signed metadata that the database lacks ({newer[0]})"
        raise Refused(Code.SETTINGS_INVALID, f"{what}: another hub has moved an earlier copy of the folder; keep one of them")


def _earlier(there: dict[str, bytes | None], files: dict[str, bytes]) -> set[str]:
    """Return the files of roles of which the database has a later version, and what is no version of a role."""
    newest: dict[str, int] = {}
    for path in there:
        version, _, role = path.removeprefix("metadata/").removesuffix(".json").partition(".")
        if version.isdigit():
            newest[role] = max(newest.get(role, 0), int(version))
    found = set[str]()
    for path in files:
        version, _, role = path.removeprefix("metadata/").removesuffix(".json").partition(".")
        if not (path.startswith("metadata/") and version.isdigit()) or int(version) <= newest.get(role, 0):
            found.add(path)
    return found
