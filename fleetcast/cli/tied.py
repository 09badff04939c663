"""Run a command line as a child that ends with the process that started it: `python -m fleetcast.cli.tied PID MODULE ...`.

The kernel sends SIGTERM when the parent is gone. Linux only, as fleetcast is.
"""

import ctypes
import os
import runpy
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # <sys/prctl.h>


def main(parent: int, module: str) -> None:
    """Run a module as a program, with the rest of our arguments, until it ends or `parent` does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # It ended before the kernel knew.
        sys.exit(128 + signal.SIGTERM)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
