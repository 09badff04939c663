"""Try, under a unit's hardening, what it forbids: each attempt in a process of its own; what came of it is printed as JSON."""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _suid() -> None:
    path = Path(os.environ["STATE_DIRECTORY"]) / "attempt"
    path.touch()
    path.chmod(0o4755)


def _memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _core() -> None:
    assert resource.getrlimit(resource.RLIMIT_CORE) != (0, 0), "no core is dumped"


def _listed(path: str) -> Callable[[], None]:
    def attempt() -> None:
        assert Path(path).exists(), f"{path} is not there"
        with Path(path).open("rb") as file:
            file.read(1)

    return attempt


ATTEMPTS: dict[str, Callable[[], None]] = {
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "user namespace": lambda: _call("unshare", CLONE_NEWUSER),
    "mount namespace": lambda: _call("unshare", CLONE_NEWNS),
    "mount": lambda: _call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "real-time scheduling": lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
    "set-user-id file": _suid,
    "personality": lambda: _call("personality", 0x0008),  # PER_LINUX32
    "clock": lambda: _call("clock_settime", 0, ctypes.byref((ctypes.c_long * 2)(1, 0))),
    "host name": lambda: _call("sethostname", b"x", 1),
    "kernel module": lambda: _call("syscall", 175, None, 0, b""),
    "reboot": lambda: _call("syscall", 169, 0, 0, 0, None),
    "change of owner": lambda: os.chown(os.environ["STATE_DIRECTORY"], 0, 0),
    "another user": lambda: os.setuid(0),
    "priority": lambda: _call("setpriority", 0, 0, 5),
    "writable code": _memory,
    "core dump": _core,
    "kernel log": _listed("/dev/kmsg"),
    "disk": _listed("/dev/vda"),
    "process 1": _listed("/proc/1/status"),
    "passphrase": _listed("/etc/fleetcast/online.passphrase"),
}
NEEDED: dict[str, Callable[[], None]] = {
    "state": lambda: (Path(os.environ["STATE_DIRECTORY"]) / "mine").write_text("x") and None,
    "internet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
    "placing threads": lambda: os.sched_setaffinity(0, {0}),
    "child": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0) and None,
}


def outcome(attempt: Callable[[], None]) -> str:
    """Return what came of it: `allowed`, an error's name, or the signal that ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            attempt()
            said = "allowed"
        except OSError as error:
            said = errno.errorcode.get(error.errno or 0, str(error))
        except Exception as error:
            said = str(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else said


def main() -> None:
    """Try all of it."""
    found = {name: outcome(attempt) for name, attempt in (ATTEMPTS | NEEDED).items()}
    found["user"] = str(os.getuid())
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    found["credential"] = (Path(credentials) / "passphrase").read_text().strip() if credentials else ""
    json.dump({"attempts": found}, sys.stdout)
    print(flush=True)


if __name__ == "__main__":
    main()
