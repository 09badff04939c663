"""`make demo` and `make test` where nothing is installed but Python and make: in a Debian 12 that debootstrap makes for them.

The commit that is checked out is cloned into it, and both commands run there by chroot(8), in mount and process namespaces of their own
(unshare(1)), so that nothing stays mounted and no process lives on. How this machine reaches Debian and Python packages goes with them,
and is read from its own configuration: apt's sources and options, pip's files, the environment's names of proxies and certificates. What
both printed stays in `.fresh/`; the root itself is removed.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figure

CHECKOUT = Path(__file__).parents[1]
FOLDER = CHECKOUT / ".fresh"
SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "make")
INSIDE = "/root/fleetcast"
ENDED = ".pytest_cache/v/fleetcast/ended"  # written by tests/ended.py
SECONDS_MAX = 40 * 60  # of each command: ten minutes on an idle machine with two cores
AGAIN_MAX = 10  # tests that a busy machine may have hurt, as .ci/again counts them
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of the environment: how the network is reached and whose certificates are believed.
CARRIED = re.compile(r"PIP_\w+|\w*_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|UV_INDEX\w*", re.IGNORECASE)
APT_CARRIED = re.compile(r"Acquire::(https?|Retries|Check-Valid-Until|Check-Date)\b")
TREE_MIB_MAX = 64  # of a folder that is copied; a larger one is mounted read-only


@dataclass(frozen=True, slots=True)
class Ended:
    """How one command ended inside."""

    code: int
    seconds: float


def measure() -> list[Figure]:
    """Both commands in a new root.

    Raises:
        SystemExit: this is not root, no mirror of Debian is known here, or what was run failed.
    """
    if os.geteuid() != 0:
        raise SystemExit("test-fresh makes a root file system and enters it: run it as root (sudo make test-fresh)")
    if said := _git("status", "--porcelain"):
        print(f"what is not committed is not tried:\n{said}", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs inside is killed, and the root removed, on this way too
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    root = FOLDER / "root"
    try:
        made = _made(root, mirror())
        environment, mounted = _carry(root)
        _git("clone", "--quiet", "--depth", "1", CHECKOUT.as_uri(), str(root / INSIDE.lstrip("/")))
        demo = _run(root, "demo", "make demo", environment, mounted)
        claims = _read(root, "demo-report.json", [])
        test = _run(root, "test", "make test", environment, mounted)
        ended = _read(root, ENDED, {})
        alone = _alone(root, test, ended, environment, mounted)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    held = sum(bool(claim["held"]) for claim in claims)
    failing = len(ended.get("bad", {})) if alone is None else alone
    for name, one in (("demo", demo), ("test", test)):
        print(f"make {name} in a bare Debian: exit {one.code} after {one.seconds:.0f} s; .fresh/{name}.log", file=sys.stderr)
    if demo.code or not ended or (test.code and (alone is None or alone)):
        raise SystemExit(f"in a bare Debian {held} of {len(claims)} claims held and {failing} tests failed: no figures are kept")
    return [
        _figure("root_s", made, "s for debootstrap, minbase with python3, python3-venv and make"),
        _figure("demo_claims", held, f"claims that held, of {len(claims)}", f">= {len(claims)}"),
        _figure("demo_s", demo.seconds, "s for make demo, its environment included"),
        _figure("test_passed", ended["passed"], "tests that passed"),
        _figure("test_failed", len(ended["bad"]), f"tests that failed, {failing} of them alone too", "<= 0"),
        _figure("test_skipped", len(ended["skipped"]), f"tests skipped: {_reasons(ended['skipped'])}"),
        _figure("test_s", test.seconds, "s for make test, its system packages included"),
    ]


def _figure(name: str, value: float, unit: str, goal: str = "") -> Figure:
    return Figure(f"fresh.{name}", value, unit, goal, "", None)


def _reasons(skipped: Mapping[str, str]) -> str:
    return "; ".join(sorted(set(skipped.values()))) or "none"


def mirror() -> str:
    """Where this machine's own apt has the suite from; the variable DEBIAN_MIRROR is for one that has another Debian, or none."""
    if said := os.environ.get("DEBIAN_MIRROR"):
        return said
    form = "$(REPO_URI) $(CODENAME) $(LABEL) $(COMPONENT)"
    listed = _output("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines()
    rows = [line.rsplit(" ", 3) for line in listed]
    found = sorted((codename != SUITE, uri) for uri, codename, label, component in rows if label == "Debian" and component == "main")
    if not found:
        raise SystemExit("apt knows no mirror of Debian here: apt-get update, or say DEBIAN_MIRROR=<address> make test-fresh")
    return found[0][1]


def _made(root: Path, source: str) -> float:
    began = time.monotonic()
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root), source]
    with (FOLDER / "debootstrap.log").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=SECONDS_MAX).returncode
    if code:
        raise SystemExit(f"debootstrap ended with {code}: .fresh/debootstrap.log")
    return time.monotonic() - began


def _carry(root: Path) -> tuple[dict[str, str], list[Path]]:
    """Put this machine's ways to packages into the root; the environment to run with there, and folders to be mounted read-only."""
    environment = {name: value for name, value in os.environ.items() if CARRIED.fullmatch(name)}
    texts = list(environment.values())
    for path, target in _pip_files():
        _copy(path, root / target)
        texts.append(path.read_text())
    for name in ("hosts", "resolv.conf"):
        if (Path("/etc") / name).exists():
            _copy(Path("/etc") / name, root / "etc" / name)
    options = [line for line in _output("apt-config", "dump").splitlines() if APT_CARRIED.match(line)]
    (root / "etc/apt/apt.conf.d/90carried").write_text("".join(f"{line}\n" for line in options))
    texts += options
    mounted: list[Path] = []
    for path in sorted({Path(found) for text in texts for found in re.findall(r"(?<![\w:/])/[\w./+-]+", text)}):
        if path.is_file():
            _copy(path, root / path.relative_to("/"))
        elif path.is_dir() and path.is_relative_to("/etc") and _mib(path) <= TREE_MIB_MAX:
            target = root / path.relative_to("/")
            shutil.rmtree(target, ignore_errors=True)  # its links would lead out of the root
            shutil.copytree(path, target, ignore_dangling_symlinks=True)
        elif path.is_dir() and path != Path("/"):
            mounted.append(path)
    environment |= {"HOME": "/root", "PATH": PATHS, "LANG": "C.UTF-8", "TERM": "dumb"}
    return environment, mounted


def _pip_files() -> Iterator[tuple[Path, str]]:
    """Configuration of pip, of the machine and of this user, and where the same is found inside."""
    home, config = Path.home(), os.environ.get("XDG_CONFIG_HOME", "")
    places = [
        (Path("/etc/pip.conf"), "etc/pip.conf"),
        *((folder / "pip/pip.conf", "root/.config/pip/pip.conf") for folder in (Path(config or "/nowhere"), home / ".config")),
        (home / ".pip/pip.conf", "root/.pip/pip.conf"),
    ]
    yield from ((path, target) for path, target in places if path.is_file())


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy(path, target)


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1024**2


def _run(root: Path, name: str, command: str, environment: Mapping[str, str], mounted: Sequence[Path]) -> Ended:
    """A command in the root, from our checkout; what it prints goes to `.fresh/NAME.log`. A shell stays as the first process, and reaps."""
    at = shlex.quote(str(root))
    lines = [
        f"mount -t proc proc {at}/proc",
        f"mount --rbind /sys {at}/sys",
        f"mount --rbind /dev {at}/dev",
        f"mount -t tmpfs -o mode=1777 shm {at}/dev/shm",  # noqa: S108  # a mount in there
        *(
            f"mkdir -p {at}{shlex.quote(str(one))} && mount --bind -o ro {shlex.quote(str(one))} {at}{shlex.quote(str(one))}"
            for one in mounted
        ),
        f"chroot {at} /bin/sh -c {shlex.quote(f'cd {INSIDE} && {command}')}",
        "exit $?",
    ]
    began = time.monotonic()
    print(f"{command} in a bare Debian; its output goes to .fresh/{name}.log ...", file=sys.stderr, flush=True)
    entered = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "bash", "-ec", "\n".join(lines)]
    with (FOLDER / f"{name}.log").open("wb") as log:
        try:
            done = subprocess.run(
                entered,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                check=False,
                timeout=SECONDS_MAX,
            )
        except subprocess.TimeoutExpired:
            print(f"{command} took longer than {SECONDS_MAX} s", file=sys.stderr)
            return Ended(124, time.monotonic() - began)  # as timeout(1) ends
    return Ended(done.returncode, time.monotonic() - began)


def _alone(root: Path, test: Ended, ended: Mapping[str, Any], environment: Mapping[str, str], mounted: Sequence[Path]) -> int | None:
    """How many of the tests that failed fail alone too; None where there is no second run, as in .ci/again."""
    bad = ended.get("bad", {})
    if not test.code or not bad or len(bad) > AGAIN_MAX or set(bad.values()) != {"failed"}:
        return None
    print(f"{len(bad)} tests failed, and are run once more, alone:", *bad, sep="\n  ", file=sys.stderr)
    second = _run(root, "alone", ".venv/bin/pytest -n 0 --last-failed --last-failed-no-failures none", environment, mounted)
    passed = int(_read(root, ENDED, {}).get("passed", 0))
    return 0 if second.code == 0 and passed == len(bad) else len(bad) - passed


def _read(root: Path, name: str, otherwise: Any) -> Any:
    path = root / INSIDE.lstrip("/") / name
    return json.loads(path.read_text()) if path.exists() else otherwise


def _git(*arguments: str) -> str:
    return _output("git", "-C", str(CHECKOUT), *arguments).strip()


def _output(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
