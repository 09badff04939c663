"""Build fleetcast: pyproject.toml says what. A wheel carries its commit (fleetcast/build_version.py) and, as PEP 770 has it, what it needs.

The same commit gives the same bytes, wherever and whenever it is built: dates are the commit's (SOURCE_DATE_EPOCH goes before), and modes
and owners are not those of the machine that builds.
"""

import gzip
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
SBOMS = HERE / "deploy" / "sbom"  # Written by `make sbom`.
LETTERS = 9
FILE_MODE, PROGRAM_MODE = 0o644, 0o755


class BuildWithCommit(build_py):
    """Write the commit beside the modules, in the wheel and never in the checkout."""

    def run(self) -> None:
        """Build, then write."""
        super().run()
        commit = _commit()
        if commit and not self.editable_mode:
            (Path(self.build_lib) / "fleetcast" / "_commit.txt").write_text(commit + "\n")


class WheelWithSboms(bdist_wheel):
    """Put the bills of materials into the wheel's `.dist-info/sboms`, and give every file the same mode."""

    def run(self) -> None:
        """Build with the commit's date."""
        os.environ.setdefault("SOURCE_DATE_EPOCH", str(_epoch()))
        super().run()

    def write_wheelfile(self, wheelfile_base: str, *arguments: object, **named: object) -> None:
        """Add to what is about to be packed."""
        super().write_wheelfile(wheelfile_base, *arguments, **named)
        folder = Path(wheelfile_base) / "sboms"
        for source in sorted(SBOMS.glob("*.cdx.json")):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / source.name)
        for path in Path(wheelfile_base).parent.rglob("*"):
            path.chmod(PROGRAM_MODE if path.is_dir() else FILE_MODE)


class SameSdist(sdist):
    """Pack the same archive of the same files: in order, of one date, one mode and no owner."""

    def make_distribution(self) -> None:
        """Pack as always, and once more in order."""
        super().make_distribution()
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _epoch())
        for name in self.archive_files:
            _pack_again(Path(name), epoch)


def _pack_again(path: Path, epoch: int) -> None:
    packed = path.with_name(path.name + ".new")
    with tarfile.open(path) as source, packed.open("wb") as raw:
        members = sorted(source.getmembers(), key=lambda member: member.name)
        with (
            gzip.GzipFile("", "wb", fileobj=raw, mtime=epoch) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as target,
        ):
            for member in members:
                member.mtime, member.uid, member.gid, member.uname, member.gname, member.pax_headers = epoch, 0, 0, "", "", {}
                member.mode = PROGRAM_MODE if member.isdir() else FILE_MODE
                target.addfile(member, source.extractfile(member) if member.isfile() else None)
    packed.replace(path)


def _commit() -> str:
    """Return the commit of this checkout; "" without git, or in an exported folder."""
    if not (HERE / ".git").exists():
        return ""
    try:
        commit = _git("rev-parse", "HEAD")[:LETTERS]
        return commit + (".dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _epoch() -> int:
    """Return when this commit was made; now, without git or in an exported folder."""
    try:
        return int(_git("show", "--no-patch", "--format=%ct", "HEAD")) if (HERE / ".git").exists() else int(time.time())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return int(time.time())


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


setup(cmdclass={"build_py": BuildWithCommit, "bdist_wheel": WheelWithSboms, "sdist": SameSdist})
