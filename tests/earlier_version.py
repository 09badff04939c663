"""The programs of an earlier commit, as a wheel beside the dependencies of this checkout: what a fleet is upgraded from.

A wheel is built once and kept in `~/.cache/fleetcast-tests` (or $FLEETCAST_TESTS_CACHE), by commit. It needs the repository's history.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
BEFORE_DEPLOYMENTS = "c9e8fbaf0333d306b99b34db243c4f41f8cf937c"  # The last commit whose documents have no minor version.
PROGRAMS = {"fleetcast": "hub.__main__", "fleetcast-node": "node.__main__"}


def programs(commit: str, folder: Path) -> Path:
    """Return a folder with `fleetcast` and `fleetcast-node` of a commit, which run in an environment of their own made in `folder`."""
    wheel = _wheel(commit)
    bin_folder, packages = folder / "bin", folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    for path in (bin_folder, packages):
        path.mkdir(parents=True)
    python = bin_folder / "python"
    python.symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\ninclude-system-site-packages = false\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)  # noqa: S202  # we have built it
    # The wheel's own packages come first. This checkout's are not here: .pth files in a folder that one names are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name, module in PROGRAMS.items():
        program = bin_folder / name
        program.write_text(f"#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        program.chmod(0o755)
    return bin_folder


def _wheel(commit: str) -> Path:
    folder = Path(os.environ.get("FLEETCAST_TESTS_CACHE") or Path.home() / ".cache" / "fleetcast-tests") / commit
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Several processes of tests want it at once, and one builds it.
        kept = list(folder.glob("*.whl"))
        if kept:
            return kept[0]
        with tempfile.TemporaryDirectory(prefix="fleetcast-earlier-") as scratch:
            built = _build(commit, Path(scratch))
            shutil.copy(built, folder / f"{built.name}.partial")
            return (folder / f"{built.name}.partial").rename(folder / built.name)


def _build(commit: str, scratch: Path) -> Path:
    archive = scratch / "source.tar"
    got = subprocess.run(
        ["git", "-C", str(CHECKOUT), "archive", "--output", str(archive), commit], capture_output=True, text=True, check=False
    )
    if got.returncode != 0:
        pytest.skip(f"UPGRADE IS NOT TESTED: this checkout has no history with commit {commit[:12]}: {got.stderr.strip()}")
    with tarfile.open(archive) as source:
        source.extractall(scratch / "source", filter="data")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(scratch), str(scratch / "source")], check=True, timeout=300)
    return next(scratch.glob("*.whl"))
