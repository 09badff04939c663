"""Tell builds apart: the version of fleetcast, and what it was built from.

`0.1.0+g1a2b3c4d5` is built from that commit: a wheel carries it, and a checkout has it. `.dirty` means that files differed from the commit
when the wheel was built. `0.1.0+f1a2b3c4d5` is a build whose commit nobody knows: the letters are of a digest of its own files.
"""

import hashlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMIT_FILE = "_commit.txt"  # Beside this module in a wheel; setup.py writes it.
LETTERS = 9
PACKAGES = ("fleetcast", "hub", "node", "schemas", "simulation")
UNKNOWN = "unknown"


@lru_cache(maxsize=1)
def build_version() -> str:
    """Return the version with what it was built from, such as `0.1.0+g1a2b3c4d5`."""
    here = Path(__file__).parent
    try:
        released = version("fleetcast")
    except PackageNotFoundError:
        released = UNKNOWN
    return f"{released}+{_commit_of_wheel(here) or _commit_of_checkout(here.parent) or _digest(here.parent)}"


def software() -> str:
    """Return the name of this program and its build, as nodes report it."""
    return f"fleetcast {build_version()}"


def _commit_of_wheel(package: Path) -> str:
    try:
        return f"g{(package / COMMIT_FILE).read_text().strip()}"
    except OSError:
        return ""


def _commit_of_checkout(folder: Path) -> str:
    """Return the commit that a checkout of fleetcast is at; "" if the folder is none. It is read without git, which few devices have."""
    try:
        if 'name = "fleetcast"' not in (folder / "pyproject.toml").read_text():
            return ""
        commit = _head(folder / ".git")
    except OSError:
        return ""
    return f"g{commit[:LETTERS]}" if commit else ""


def _head(git: Path) -> str:
    if git.is_file():  # a worktree of another checkout
        git = git.parent / git.read_text().removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text().strip()
    reference = head.removeprefix("ref: ")
    if reference == head:
        return head
    common = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
    for place in (git / reference, common / reference):
        if place.exists():
            return place.read_text().strip()
    packed = (common / "packed-refs").read_text().splitlines()
    return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), "")


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((folder / package).rglob("*.py")):
            data = path.read_bytes()
            found.update(f"{path.relative_to(folder)} {len(data)}\n".encode() + data)
    return f"f{found.hexdigest()[:LETTERS]}"
