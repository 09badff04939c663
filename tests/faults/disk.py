"""What a disk has after a power cut: a folder's changes, as shim.c recorded them, replayed with what no sync had made durable left out.

The model is POSIX's, and no file system's in particular: a sync of a file makes its content durable, a sync of a folder the names in it.
Of everything else any part may be on the disk. Names are changed in groups that hold together (a rename is one), and writes are torn into
sectors.
"""

import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

WRITE, TRUNCATE, SYNC, CREATE, MKDIR, RENAME, UNLINK, LINK, SYMLINK, EXTEND = range(1, 11)
NAMES = ("", "write", "truncate", "sync", "create", "mkdir", "rename", "unlink", "link", "symlink", "extend")
HEAD = struct.Struct("<IIqqIIII")
SECTOR_BYTES = 512
VOLATILE = ("-shm",)  # SQLite maps it into memory and never counts on it after a crash


@dataclass(frozen=True, slots=True)
class Change:
    """One record of the journal."""

    kind: int
    number: int
    ino: int
    first: str
    second: str
    data: bytes


def changes(journal: Path) -> Iterator[Change]:
    """Read a journal; a record that a kill has torn is its end."""
    content, at = journal.read_bytes(), 0
    while at + HEAD.size <= len(content):
        size, kind, number, ino, first, second, data, _ = HEAD.unpack_from(content, at)
        if at + size > len(content):
            return
        here = at + HEAD.size
        texts = content[here : here + first].decode(), content[here + first : here + first + second].decode()
        yield Change(kind, number, ino, *texts, content[here + first + second : here + first + second + data])
        at += size


@dataclass(eq=False, slots=True)
class File:
    """A file: what is in memory, what is on the disk, and the changes between both."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[int, int, bytes]] = field(default_factory=list)

    def change(self, kind: int, number: int, data: bytes) -> None:
        apply(self.content, kind, number, data)
        self.pending.append((kind, number, data))

    def sync(self) -> None:
        self.durable = bytes(self.content)
        self.pending.clear()

    def left(self, rng: Random | None) -> bytes:
        """Return what a power cut leaves: what was synced, and with `rng` any part of what came after."""
        found = bytearray(self.durable)
        for kind, number, data in self.pending if rng is not None else ():
            how = rng.random()  # type: ignore[union-attr]
            if how < 0.4:
                apply(found, kind, number, data)
            elif how < 0.6 and kind == WRITE:  # the first sectors of it
                apply(found, kind, number, data[: rng.randrange(len(data) + 1) // SECTOR_BYTES * SECTOR_BYTES])  # type: ignore[union-attr]
        return bytes(found)


@dataclass(eq=False, slots=True)
class Link:
    """A symbolic link, which is made whole."""

    target: str


@dataclass(eq=False, slots=True)
class Folder:
    """A folder: the names in memory, and those on the disk."""

    names: dict[str, "Entry"] = field(default_factory=dict)
    durable: dict[str, "Entry"] = field(default_factory=dict)


Entry = File | Link | Folder
Step = tuple[Folder, str, Entry | None]  # that a name leads to this from now on, or is gone


def apply(content: bytearray, kind: int, number: int, data: bytes) -> None:
    if kind == WRITE and data:
        if len(content) < number:
            content.extend(bytes(number - len(content)))
        content[number : number + len(data)] = data
    elif kind == EXTEND or (kind == TRUNCATE and len(content) < number):
        content.extend(bytes(max(0, number - len(content))))
    elif kind == TRUNCATE:
        del content[number:]


class Disk:
    """A folder as a disk has it, from a moment on at which all of it was durable."""

    def __init__(self, folder: Path) -> None:
        self.root, self._files = Folder(), dict[int, File]()
        self._pending: list[list[Step]] = []  # of names, in their order; the steps of one happen together
        self._read(folder, self.root)

    def _read(self, folder: Path, to: Folder) -> None:
        for path in folder.iterdir():
            made: Entry
            if path.is_symlink():
                made = Link(str(path.readlink()))
            elif path.is_dir():
                made = Folder()
                self._read(path, made)
            else:
                content = path.read_bytes()
                made = self._files[path.stat().st_ino] = File(bytearray(content), content)
            to.names[path.name] = to.durable[path.name] = made

    def replay(self, found: Iterator[Change]) -> None:
        """Take in what was changed."""
        for one in found:
            self._replay(one)

    def _replay(self, one: Change) -> None:
        if one.kind in (WRITE, TRUNCATE, EXTEND):
            if one.ino in self._files:  # else it is of a file that was removed before
                self._files[one.ino].change(one.kind, one.number, one.data)
        elif one.kind == SYNC:
            self._sync(one)
        elif one.kind in (CREATE, MKDIR, SYMLINK):
            made: Entry = Folder() if one.kind == MKDIR else Link(one.second) if one.kind == SYMLINK else File()
            if isinstance(made, File):
                self._files[one.ino] = made
            self._step([(*self._place(one.first), made)])
        elif one.kind == UNLINK:
            self._step([(*self._place(one.first), None)])
        else:
            (source, name), target = self._place(one.first), self._place(one.second)
            moved = source.names[name]
            self._step([(*target, moved), *([(source, name, None)] if one.kind == RENAME else [])])

    def _place(self, path: str) -> tuple[Folder, str]:
        *above, name = path.split("/")
        return self._folder(above), name

    def _folder(self, parts: list[str]) -> Folder:
        folder = self.root
        for part in parts:
            below = folder.names[part]
            assert isinstance(below, Folder), parts
            folder = below
        return folder

    def _step(self, steps: list[Step]) -> None:
        _take(steps, durable=False)
        self._pending.append(steps)

    def _sync(self, one: Change) -> None:
        if not one.first:
            if one.ino in self._files:
                self._files[one.ino].sync()
            return
        folder = self._folder([] if one.first == "." else one.first.split("/"))
        later = []
        for steps in self._pending:
            if any(place is folder for place, _, _ in steps):
                _take(steps, durable=True)
            else:
                later.append(steps)
        self._pending = later

    def leave(self, to: Path, rng: Random | None) -> None:
        """Put what a power cut leaves in place of a folder."""
        for steps in self._pending if rng is not None else ():
            if rng.random() < 0.5:  # type: ignore[union-attr]
                _take(steps, durable=True)
        shutil.rmtree(to, ignore_errors=True)
        self._write(self.root, to, rng)

    def _write(self, folder: Folder, to: Path, rng: Random | None) -> None:
        to.mkdir(mode=0o700)
        for name, entry in folder.durable.items():
            path = to / name
            match entry:
                case Folder():
                    self._write(entry, path, rng)
                case Link():
                    path.symlink_to(entry.target)
                case File() if not name.endswith(VOLATILE):
                    path.write_bytes(entry.left(rng))
                    path.chmod(0o600)
                case _:
                    pass

    def content(self) -> Mapping[str, bytes]:
        """Return every file as it is in memory, for a test that nothing was missed."""
        return dict(_content(self.root, ""))


def _content(folder: Folder, above: str) -> Iterator[tuple[str, bytes]]:
    for name, entry in folder.names.items():
        if isinstance(entry, Folder):
            yield from _content(entry, f"{above}{name}/")
        elif isinstance(entry, File):
            yield f"{above}{name}", bytes(entry.content)


def _take(steps: list[Step], *, durable: bool) -> None:
    for folder, name, entry in steps:
        names = folder.durable if durable else folder.names
        if entry is None:
            names.pop(name, None)
        else:
            names[name] = entry
