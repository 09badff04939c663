"""Build fleetcast: pyproject.toml says what, and a wheel carries the commit that it is built from (fleetcast/build_version.py)."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
LETTERS = 9


class BuildWithCommit(build_py):
    """Write the commit beside the modules, in the wheel and never in the checkout."""

    def run(self) -> None:
        """Build, then write."""
        super().run()
        commit = _commit()
        if commit and not self.editable_mode:
            (Path(self.build_lib) / "fleetcast" / "_commit.txt").write_text(commit + "\n")


def _commit() -> str:
    """Return the commit of this checkout; "" without git, or in an exported folder."""
    if not (HERE / ".git").exists():
        return ""
    try:
        commit = _git("rev-parse", "HEAD")[:LETTERS]
        return commit + (".dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


setup(cmdclass={"build_py": BuildWithCommit})
