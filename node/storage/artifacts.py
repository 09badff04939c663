"""Keep artifacts on disk: blocks written in place, verified whole and synced before they are loaded.

A block that was written survives a kill of the process at once. What a power cut takes is found missing by its hash, and fetched again: a
sync a block would halve the rate on a gateway and wear out the card of a Pi.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fleetcast import disk_room, durable
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import File
from schemas.names import sha256

READ_BYTES = 1024 * 1024
KNOWN_MAX = 256
DIGEST_BYTES = 32


class Artifacts:
    """Keep a folder of releases: `<release digest>/<variant>/<file path>`."""

    def __init__(self, directory: Path) -> None:
        """Make the folder, where there is none.

        Raises:
            Refused: DISK_FULL.
        """
        self.directory = directory
        self._known: dict[str, Path] = {}  # looked up at every block; resolving takes a system call a level
        with disk_room.refusing(f"no room on the disk for {directory}", errnos=disk_room.TAKES_NOTHING):
            durable.make_folder(directory, parents=True)

    def relative(self, release: bytes, variant: str, file: File) -> str:
        """Return a file's path below the folder; the schema allows no path that leaves it."""
        return f"{release.hex()}/{variant}/{file.path}"

    def path(self, relative: str) -> Path:
        """Return where a file stands.

        Raises:
            Refused: it would stand outside the folder.
        """
        if relative in self._known:
            return self._known[relative]
        path = self.directory / relative
        if not path.resolve().is_relative_to(self.directory.resolve()):
            raise Refused(Code.ARTIFACT_PATH, f"{relative!r} would stand outside {self.directory}")
        while len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[relative] = path
        return path

    def make_folder(self, folder: Path) -> None:
        """Make a folder below ours, and ours. Never the data folder: a new one would be in the way when its disk is brought back.

        Raises:
            Refused: DISK_FULL: the disk has no room, or is not there.
        """
        below = folder.relative_to(self.directory).parts
        for depth in range(len(below) + 1):
            here = self.directory.joinpath(*below[:depth])
            with self._room(here):
                durable.make_folder(here)

    @contextlib.contextmanager
    def _room(self, path: Path) -> Iterator[None]:
        """Refuse as a full disk what comes of a disk that takes nothing, or that is not there: work waits until it is."""
        try:
            with disk_room.refusing(f"no room on the disk for {path.name}", errnos=disk_room.FULL_OR_READ_ONLY):
                yield
        except FileNotFoundError:
            if self.directory.is_dir():
                raise  # A file of its own is gone, which is for the caller to say.
            reason = f"{self.directory} is gone: mount its disk, or put the data folder back"
            raise Refused(Code.DISK_FULL, reason) from None

    def allocate(self, relative: str, size_bytes: int) -> None:
        """Make the file and give it all its bytes at once, so that a full disk shows before the transfer and not within it.

        Raises:
            Refused: the disk has no room.
        """
        path = self.path(relative)
        self.make_folder(path.parent)
        with self._room(path), path.open("ab") as file:
            if file.tell() > size_bytes:
                os.truncate(path, size_bytes)
            elif file.tell() < size_bytes:
                os.posix_fallocate(file.fileno(), 0, size_bytes)

    def write(self, writes: Iterable[tuple[str, int, bytes]]) -> None:
        """Write blocks at their offsets.

        Raises:
            Refused: DISK_FULL: the disk has no room, or is not there; DISK_DAMAGED: the file is gone.
        """
        by_file: dict[str, list[tuple[int, bytes]]] = {}
        for relative, offset, data in writes:
            by_file.setdefault(relative, []).append((offset, data))
        for relative, parts in by_file.items():
            path = self.path(relative)
            with _damage(relative, (FileNotFoundError, IsADirectoryError)), self._room(path):
                descriptor = os.open(path, os.O_WRONLY)
                try:
                    for offset, data in parts:
                        _pwrite(descriptor, data, offset)
                finally:
                    os.close(descriptor)

    def read(self, relative: str, offset: int, size_bytes: int) -> bytes:
        """Return bytes of a file; fewer, when it is shorter or gone."""
        try:
            with self.path(relative).open("rb") as file:
                file.seek(offset)
                return file.read(size_bytes)
        except OSError:
            return b""

    def holds(self, relative: str, offset: int, digest: bytes, size_bytes: int) -> bytes | None:
        """Return the block that is recorded to stand there, if it still does."""
        data = self.read(relative, offset, size_bytes)
        return data if len(data) == size_bytes and sha256(data) == digest else None

    def verify(self, relative: str, file: File) -> None:
        """Make the file durable and read it back whole.

        Raises:
            Refused: ARTIFACT_DIGEST: its digest is not the manifest's; DISK_DAMAGED: it cannot be read.
        """
        hasher, path = hashlib.sha256(), self.path(relative)
        with _damage(file.path), self._room(path), path.open("rb") as source:
            os.fsync(source.fileno())
            while chunk := source.read(READ_BYTES):
                hasher.update(chunk)
            durable.sync(path.parent)  # The file's name is durable with it.
        if hasher.digest() != file.digest:
            raise mismatch(Code.ARTIFACT_DIGEST, f"file {file.path}", expected=file.digest.hex(), actual=hasher.hexdigest())

    def check(self, files: Sequence[tuple[Path, File]]) -> Iterator[None]:
        """Read files back and compare each with its manifest; yields between two reads, so that the caller may stop.

        Raises:
            Refused: DISK_DAMAGED, where one is missing, cannot be read or differs: all were whole when they came.
        """
        for path, file in files:
            hasher = hashlib.sha256()
            with _damage(file.path), path.open("rb") as source:
                while chunk := source.read(READ_BYTES):
                    hasher.update(chunk)
                    yield
            if hasher.digest() != file.digest:
                what = f"file {file.path} on this device's disk"
                raise mismatch(Code.DISK_DAMAGED, what, expected=file.digest.hex(), actual=hasher.hexdigest())

    def drop_unusable(self, relative: str) -> None:
        """Remove a file that cannot be opened to read and write, so that it can be fetched anew; any other is mended in place."""
        path = self.path(relative)
        try:
            with path.open("r+b"):
                return
        except FileNotFoundError:
            return
        except OSError:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def point(self, model: str, release: bytes, variant: str) -> None:
        """Have the link `current/<model>` beside the folder lead to a variant's files, in one step.

        Raises:
            Refused: DISK_FULL.
        """
        current = self.directory.parent / "current"
        with self._room(current):
            current.mkdir(exist_ok=True)
        partial = current / f".{model}.partial"
        target = Path("..") / self.directory.name / release.hex() / variant
        with contextlib.suppress(OSError):
            if (current / model).readlink() == target:
                return
        with self._room(partial):
            partial.unlink(missing_ok=True)
            partial.symlink_to(target)
            if (current / model).is_dir() and not (current / model).is_symlink():  # A copy of this folder has followed the link.
                shutil.rmtree(current / model)
            partial.replace(current / model)

    def unpoint(self, model: str) -> None:
        """Remove the link of a model that is not on this device any more."""
        with contextlib.suppress(OSError):
            (self.directory.parent / "current" / model).unlink(missing_ok=True)

    def pointed(self) -> dict[str, bytes]:
        """Return the release that each link leads to, by model; links that lead elsewhere are left out."""
        found: dict[str, bytes] = {}
        current = self.directory.parent / "current"
        for link in sorted(current.iterdir()) if current.is_dir() else ():
            with contextlib.suppress(OSError, ValueError, IndexError):
                digest = bytes.fromhex(link.readlink().parts[2])
                if len(digest) == DIGEST_BYTES and not link.name.startswith("."):
                    found[link.name] = digest
        return found

    def size(self, relative: str) -> int:
        """Return bytes that a file has; 0 when there is none."""
        with contextlib.suppress(OSError):
            return self.path(relative).stat().st_size
        return 0

    def used_bytes(self) -> int:
        """Return what all releases take of the disk."""
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    def releases(self) -> list[bytes]:
        """Return the releases that have a folder here."""
        return [bytes.fromhex(entry.name) for entry in self.directory.iterdir() if len(entry.name) == 64]

    def remove(self, release: bytes) -> None:
        """Delete a release's folder."""
        shutil.rmtree(self.directory / release.hex(), ignore_errors=True)
        self._known.clear()


@contextlib.contextmanager
def _damage(name: str, kinds: tuple[type[OSError], ...] = (OSError,)) -> Iterator[None]:
    """Refuse as damage of the disk what comes of a file that cannot be read, or is gone."""
    try:
        yield
    except kinds as error:
        raise Refused(Code.DISK_DAMAGED, f"file {name} cannot be read: {error.strerror or error}") from None


def _pwrite(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done
