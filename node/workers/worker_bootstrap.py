"""Begin a worker process: set its priority, its limits and its parent-death signal; then `node.workers.worker_main`. Imports next to
nothing by itself.

Started as `python -P -m node.workers.worker_bootstrap <socket descriptor> <descriptor of cancelled ids> <parent's process id> <quiet
or loud>`. When quiet, all that starting costs (most of it is importing numpy and a runtime) is done by a thread that runs only when no
other on the device wants the processor. When the agent dies, however it dies, this ends too.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.workers.idle_priority import QUIET, in_thread

PR_SET_PDEATHSIG: Final = 1  # prctl(2)
OOM_SCORE: Final = 500  # a device that runs out of memory kills a model before it kills the agent that can start it again


def main() -> None:
    """Serve until the agent closes the socket."""
    descriptor, cancels, parent = (int(argument) for argument in sys.argv[1:4])
    quiet = sys.argv[4] == QUIET
    _die_with(parent)
    for signum in (signal.SIGINT, signal.SIGTERM):  # a terminal or systemd signals the whole group, while the agent still drains
        signal.signal(signum, signal.SIG_IGN)
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    os.environ["ORT_DISABLE_TELEMETRY"] = (
        "1"  # for runtimes of others too: whatever loads ONNX Runtime here, nothing is reported to its maker
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold rows, and a crash loop fills the disk with them
    with socket.socket(fileno=descriptor) as connection:
        worker_main = in_thread(_import, quiet=quiet)
        sys.exit(worker_main.answer(connection, cancels, quiet=quiet))


def _import():  # type: ignore[no-untyped-def]  # its type is only known once it is imported
    from node.workers import worker_main  # noqa: PLC0415  # the slow part

    return worker_main


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the agent dies, even in the middle of an inference that never looks at the socket."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit("worker: the agent is gone")


if __name__ == "__main__":
    main()
