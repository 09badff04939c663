"""How a command of the device ends: its exit codes. What it says then is in fleetcast.cli.errors."""

from collections.abc import Callable
from enum import IntEnum

from fleetcast.cli.errors import Program, guard
from schemas.errors import Code


class Exit(IntEnum):
    """List the exit codes. docs/commands.md has this list. 1 and 2 are the doctor's; click also ends with 2 for a wrong command line."""

    OK = 0  # Done. `status`: the node is well. `doctor`: nothing is wrong.
    WARNINGS = 1  # `doctor`: there are warnings, and no troubles.
    TROUBLES = 2  # `doctor`: there are troubles.
    USAGE = 2  # The command line is wrong, or a package that the command needs is not installed.
    REFUSED = 3  # Refused: a setting, a file or a document is wrong.
    UNREACHABLE = 4  # The broker, or the node's own database, does not answer.
    KEY = 5  # A key cannot be read.
    RUNNING = 6  # Another agent runs on the data folder.
    DISK_FULL = 7  # The disk is full, takes nothing or answers with errors, or the one that the output goes to.
    PORT_IN_USE = 8  # The local port is in use.
    STORE_DAMAGED = 9  # The node's database was found damaged while the agent ran. The next start sets it aside.
    NOT_RUNNING = 11  # `status`: the node does not run.
    NOT_SERVING = 12  # `status`: the node runs, and does not serve.
    BUG = 70  # A bug in fleetcast. The message names the file with the details, or they are in the journal.
    INTERRUPTED = 130  # Interrupted by Ctrl-C. What belongs together is done whole, or not at all.
    PIPE = 141  # The reader of the output has ended, such as `head`, or the output is closed.


_BY_CODE = {
    Code.KEY_UNREADABLE: Exit.KEY,
    Code.NODE_RUNNING: Exit.RUNNING,
    Code.DISK_FULL: Exit.DISK_FULL,
    Code.PORT_IN_USE: Exit.PORT_IN_USE,
    Code.STORE_DAMAGED: Exit.STORE_DAMAGED,
}
_PROGRAM = Program("fleetcast-node", Exit, _BY_CODE, install="a device installs 'fleetcast[node]'")


def guarded(run: Callable[[], object]) -> None:
    """Run, and turn whatever happens into an exit code."""
    guard(run, _PROGRAM)
