"""A disk that is really full after a few hundred kilobytes: a tmpfs where mounting is allowed, else a bound on the size of files."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BYTES = 256 * 1024  # of the disk; under the bound no single file may have a quarter of it


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder on it."""
    folder.mkdir()
    if _mounted(folder):
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES // 4, hard))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _mounted(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={BYTES}", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
