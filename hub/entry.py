"""Begin `fleetcast`: the installed script imports this module, and nothing else does.

Until `fleetcast.interrupts` is there, Ctrl-C ends the process as the system does, without a traceback: nothing has begun. A shell reports
130 for that, too.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

from hub.__main__ import main  # noqa: E402  # what it imports takes longer than all before it

__all__ = ["main"]
