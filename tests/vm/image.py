"""Make a disk with a small Debian, a kernel, the units as they are shipped, and the wheel of this checkout.

Debian and the locked packages are kept in a folder outside the repository, by a hash of what they are made from: making them takes minutes.
The wheel, the units and the fleet are put in anew for each run.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.fresh import mirror

CHECKOUT: Final = Path(__file__).parents[2]
CACHE: Final = Path(os.environ.get("FLEETCAST_VM_CACHE", Path.home() / ".cache" / "fleetcast-vm"))
SUITE: Final = "bookworm"
PACKAGES: Final = (
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "systemd",
    "systemd-sysv",
    "libnss-systemd",
    "udev",
    "python3",
    "python3-venv",
    "mosquitto",
    "procps",
)
LOCKS: Final = ("hub.txt", "node.txt")
KEPT_FROM: Final = (*PACKAGES, SUITE, "1")  # the number counts changes of how it is made
GUEST_PYTHON: Final = "3.11"
PLATFORMS: Final = (*(f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)), "manylinux2014_x86_64", "linux_x86_64")
DISK_BYTES: Final = 4 * 1024**3
SECONDS_MAX: Final = 30 * 60
ENVIRONMENT: Final = {"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


@dataclass(frozen=True, slots=True)
class Image:
    """Hold what qemu boots, and what the releases on it answer, by version, when they are given these rows."""

    disk: Path
    kernel: Path
    initrd: Path
    rows: list[float]
    answers: dict[str, list[float]]


def kept() -> Path:
    """Return the folder with Debian and the locked packages, made now where it is not there."""
    digest = hashlib.sha256("\n".join(KEPT_FROM).encode())
    for name in LOCKS:
        digest.update((CHECKOUT / "requirements" / name).read_bytes())
    folder = CACHE / digest.hexdigest()[:16]
    root = folder / "root"
    if (folder / "made").exists():
        return root
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"making a Debian with a kernel in {folder}, once; it takes about five minutes ...", file=sys.stderr, flush=True)
    run(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root), mirror()], folder / "debootstrap.log")
    wheels = root / "wheels"
    for name in LOCKS:
        platforms = [word for one in PLATFORMS for word in ("--platform", one)]
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
        download += ["--only-binary", ":all:", "--python-version", GUEST_PYTHON, "--implementation", "cp", *platforms]
        run([*download, "--dest", str(wheels), "--requirement", str(CHECKOUT / "requirements" / name)], folder / "download.log")
        shutil.copy(CHECKOUT / "requirements" / name, wheels)
    enter(root, "python3 -m venv /opt/fleetcast", folder / "venv.log")
    install = "/opt/fleetcast/bin/pip install --quiet --no-index --find-links /wheels --require-hashes --no-deps"
    enter(root, f"{install} {' '.join(f'-r /wheels/{name}' for name in LOCKS)}", folder / "pip.log")
    shutil.rmtree(wheels)
    for path in (root / "var/cache/apt/archives").glob("*.deb"):
        path.unlink()
    for path in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists"):
        shutil.rmtree(root / path, ignore_errors=True)
    (folder / "made").touch()
    return root


def installed(folder: Path, releases: int) -> Image:
    """Make an image to boot: the wheel, units and broker configuration of this checkout, and a new fleet with a number of releases."""
    base, root = kept(), folder / "root"
    print("installing the wheel, the units and a new fleet ...", file=sys.stderr, flush=True)
    log = folder / "install.log"
    run(["cp", "--archive", "--reflink=auto", str(base), str(root)], log)
    inside = root / "opt/vm"
    shutil.copytree(CHECKOUT / "tests/vm/inside", inside)
    shutil.copy(wheel(folder), inside)
    (inside / "units").mkdir()
    for path in sorted((CHECKOUT / "deploy").glob("fleetcast-*.s*")):
        shutil.copy(path, inside / "units")
    shutil.copy(CHECKOUT / "broker-config/mosquitto.conf", inside)
    enter(root, f"sh /opt/vm/install.sh {releases}", log)
    said = json.loads((inside / "answers.json").read_text())
    kernel, initrd = (next((root / "boot").glob(pattern)) for pattern in ("vmlinuz-*", "initrd.img-*"))
    for path in (kernel, initrd):
        shutil.copy(path, folder / path.name)
    disk = folder / "disk.raw"
    filesystem(root, disk, log)
    threading.Thread(target=shutil.rmtree, args=(root, True), name="removal").start()  # of a gigabyte in small files, beside the boot
    return Image(disk, folder / kernel.name, folder / initrd.name, said["rows"], said["answers"])


def wheel(folder: Path) -> Path:
    """Build the wheel of this checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    run([*command, "--wheel-dir", str(folder), str(CHECKOUT)], folder / "wheel.log")
    return next(folder.glob("fleetcast-*.whl"))


def enter(root: Path, command: str, log: Path, *, seconds: float = SECONDS_MAX) -> None:
    """Run a command of the shell in the root, in namespaces of its own: no mount and no process stays."""
    at = shlex.quote(str(root))
    lines = [
        f"mount -t proc proc {at}/proc",
        f"mount --rbind /dev {at}/dev",
        f"mount -t tmpfs -o mode=1777 shm {at}/dev/shm",  # noqa: S108  # a mount in there
        f"chroot {at} /bin/sh -ec {shlex.quote(command)}",
        "exit $?",
    ]
    entered = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "bash", "-ec", "\n".join(lines)]
    run(entered, log, environment=ENVIRONMENT, seconds=seconds)


def filesystem(root: Path, disk: Path, log: Path) -> None:
    """Write the root as an ext4 file system, with the defaults of Debian."""
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    run(["mkfs.ext4", "-q", "-L", "root", "-d", str(root), str(disk)], log)


def run(command: Sequence[str], log: Path, *, environment: dict[str, str] | None = None, seconds: float = SECONDS_MAX) -> None:
    """Run a command of the host.

    Raises:
        SystemExit: it failed; the log says why.
    """
    with log.open("ab") as file:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False, timeout=seconds
        )
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}; its last lines, of {log}:\n{log.read_text()[-2000:]}")
