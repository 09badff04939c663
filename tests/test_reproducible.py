"""What is shipped can be built again by anyone, byte by byte, and says what it is made of."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"
COPIED = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
    "deploy/sbom",
    "fleetcast",
    "hub",
    "node",
    "schemas",
    "simulation",
)


def copied(folder: Path, *, umask: int, written: int) -> Path:
    """A checkout of somebody else: other rights, other dates."""
    before = os.umask(umask)
    try:
        for name in COPIED:
            source, target = CHECKOUT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "_commit.txt")
                shutil.copytree(source, target, copy_function=shutil.copyfile, ignore=ignored)
            else:
                shutil.copyfile(source, target)
    finally:
        os.umask(before)
    for path in folder.rglob("*"):
        os.utime(path, (written, written))
    return folder


def built(source: Path, folder: Path, *, umask: int) -> Mapping[str, bytes]:
    folder.mkdir()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1800000000", "PYTHONHASHSEED": str(umask), "TZ": "Asia/Tokyo" if umask else "UTC"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=source, env=environment, umask=umask, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
    """A wheel and an sdist, from two folders of other names, dates, rights and time zones."""
    folder = tmp_path_factory.mktemp("twice")
    one = copied(folder / "one", umask=0o022, written=1_700_000_000)
    other = copied(folder / "deeper" / "other", umask=0o077, written=1_750_000_000)
    return built(one, folder / "dist", umask=0o022), built(other, folder / "dist2", umask=0o077)


def test_two_builds_of_one_commit_are_equal_bytes(twice: tuple[Mapping[str, bytes], Mapping[str, bytes]]) -> None:
    one, other = ({name: hashlib.sha256(data).hexdigest() for name, data in built.items()} for built in twice)

    assert sorted(Path(name).suffix for name in one) == [".gz", ".whl"]
    assert one == other


def test_the_wheel_carries_the_bills_of_materials(twice: tuple[Mapping[str, bytes], Mapping[str, bytes]], tmp_path: Path) -> None:
    (wheel,) = (name for name in twice[0] if name.endswith(".whl"))
    (tmp_path / wheel).write_bytes(twice[0][wheel])
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        found = {name: json.loads(archive.read(name)) for name in archive.namelist() if "/sboms/" in name}
        record = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/RECORD"))

    assert {Path(name).name: one["bomFormat"] for name, one in found.items()} == {
        "fleetcast-hub.cdx.json": "CycloneDX",
        "fleetcast-node.cdx.json": "CycloneDX",
    }
    assert all(".dist-info/sboms/" in name and f"\n{name},sha256=" in record for name in found)
