"""Compile shim.c, and command it: within a process that has it before its libraries, or in the environment of another one."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
KILL, FAIL, CUT = 1, 2, 3


def compiler() -> str | None:
    """Return the C compiler of this machine."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


@cache
def library(source: Path = SOURCE) -> Path:
    """Compile the shim, or another library, once for each content of its source."""
    name = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"fleetcast-shim-{os.getuid()}-{name}.so"
    if not made.exists():
        partial = made.with_suffix(f".{os.getpid()}")
        found = compiler()
        assert found is not None, "no C compiler"
        subprocess.run([found, "-O1", "-Wall", "-shared", "-fPIC", "-o", partial, source, "-ldl"], check=True)
        partial.rename(made)
    return made


def environment(
    folder: Path, *, journal: Path | None = None, at: int | None = None, how: int = KILL, error: int = 0, length: int | None = None
) -> Mapping[str, str]:
    """Return what makes a process begin with the shim."""
    found = {"LD_PRELOAD": str(library()), "FAULTS_FOLDER": str(folder), "FAULTS_HOW": str(how), "FAULTS_ERROR": str(error)}
    optional = {"FAULTS_JOURNAL": journal, "FAULTS_AT": at, "FAULTS_LENGTH": length}
    return {**found, **{name: str(value) for name, value in optional.items() if value is not None}}


class Shim:
    """The shim of this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        for name in ("faults_count", "faults_fired"):
            getattr(self._library, name).restype = ctypes.c_long
        self._library.faults_arm.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_long)

    def watch(self, folder: Path | None, journal: Path | None = None) -> None:
        """Begin to count, from nothing; None: stop."""
        self._library.faults_watch(str(folder or "").encode(), str(journal or "").encode())

    def arm(self, at: int, how: int, error: int = 0, length: int = -1) -> None:
        """Have the fault begin with this change, counted from the beginning of the watch, and last for so many."""
        self._library.faults_arm(at, how, error, length)

    def disarm(self) -> None:
        self.arm(-1, 0)

    @property
    def count(self) -> int:
        return int(self._library.faults_count())

    @property
    def fired(self) -> bool:
        return int(self._library.faults_fired()) >= 0
