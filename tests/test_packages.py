"""`.ci/packages` where something is missing: what it installs, what it prints where it may not, and that else it asks nothing of apt.

The machine is a folder of commands, its apt-get and sudo write down what was asked of them: installing is tried by `make test-fresh`.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
COMMANDS = ("make", "python3", "mosquitto", "mosquitto_sub", "curl", "openssl", "pgrep", "mount", "systemd-analyze", "softhsm2-util")
RECORDING = '#!/bin/sh\necho "$(basename "$0") $*" >> "$ASKED"\n'
Packages = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of commands that is all there is: everything is installed, by a user who is not root and has no sudo."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in COMMANDS:
        put(folder, name)
    put(folder, "apt-get", RECORDING)
    put(folder, "id", "#!/bin/sh\necho 1000\n")
    put(folder, "ldconfig", "#!/bin/sh\necho '\tlibgomp.so.1 (libc6,x86-64) => /usr/lib/libgomp.so.1'\n")
    for name in ("env", "sh", "basename"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def put(folder: Path, name: str, script: str = "#!/bin/sh\n") -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


@pytest.fixture
def packages(machine: Path, tmp_path: Path) -> Packages:
    script = tmp_path / "packages"
    text = (CHECKOUT / ".ci" / "packages").read_text()
    line = 'PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"\n'
    assert line in text
    script.write_text(text.replace(line, ""))  # where this machine's own commands are

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        asked = {"PATH": str(machine), "ASKED": str(tmp_path / "asked")}
        command = [str(shutil.which("bash")), str(script), *arguments]
        return subprocess.run(command, env=asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)

    return run


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    return path.read_text().splitlines() if path.exists() else []


def test_where_all_is_there_nothing_is_asked_of_apt(packages: Packages, tmp_path: Path) -> None:
    done = packages()

    assert (done.returncode, done.stdout, done.stderr, asked(tmp_path)) == (0, "", "", [])


def test_root_installs_what_is_missing_after_an_update(packages: Packages, machine: Path, tmp_path: Path) -> None:
    put(machine, "id", "#!/bin/sh\necho 0\n")
    (machine / "curl").unlink()
    (machine / "pgrep").unlink()
    put(machine, "ldconfig")

    done = packages("debootstrap", "qemu-system-x86_64:qemu-system-x86")

    assert done.returncode == 0, done.stderr
    assert asked(tmp_path) == [
        "apt-get update -qq",
        "apt-get -qq install -y --no-install-recommends curl procps libgomp1 debootstrap qemu-system-x86",
    ]


def test_sudo_is_used_by_who_may(packages: Packages, machine: Path, tmp_path: Path) -> None:
    put(machine, "sudo", RECORDING + 'case "$1" in -n) exit 0;; esac\nexec "$@"\n')
    (machine / "mosquitto").unlink()

    done = packages()

    assert done.returncode == 0, done.stderr
    assert [line for line in asked(tmp_path) if line.startswith("apt-get")] == [
        "apt-get update -qq",
        "apt-get -qq install -y --no-install-recommends mosquitto",
    ]
    assert "sudo apt-get update -qq" in asked(tmp_path)


@pytest.mark.parametrize("sudo", [None, "#!/bin/sh\nexit 1\n"], ids=["no sudo", "sudo that asks for a password"])
def test_a_user_who_may_not_is_told_the_one_command(packages: Packages, machine: Path, tmp_path: Path, sudo: str | None) -> None:
    if sudo is not None:
        put(machine, "sudo", sudo)
    (machine / "openssl").unlink()

    done = packages()

    assert (done.returncode, asked(tmp_path)) == (1, [])
    assert done.stderr.splitlines()[-1] == "  su -c 'apt-get update && apt-get install -y --no-install-recommends openssl'"


def test_a_system_without_apt_is_told_the_commands_by_name(packages: Packages, machine: Path) -> None:
    for name in ("apt-get", "mosquitto_sub", "pgrep"):
        (machine / name).unlink()

    done = packages()

    assert done.returncode == 1
    assert "mosquitto_sub pgrep" in done.stderr


def test_make_test_stops_before_the_first_test(packages: Packages, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    put(tmp_path / ".ci", "packages", "#!/bin/sh\nexit 1\n")
    shutil.copy(CHECKOUT / "Makefile", tmp_path)

    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}

    done = subprocess.run(["make", "test"], cwd=tmp_path, env=outside, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode != 0
    assert not (tmp_path / ".venv").exists()
    assert "pytest" not in done.stdout
