"""How a command of the hub ends: its exit codes. What it says then is in fleetcast.cli.errors."""

from collections.abc import Callable
from enum import IntEnum

from fleetcast.cli.errors import Ended, Program, guard
from schemas.errors import Code

__all__ = ["Ended", "Exit", "guarded"]


class Exit(IntEnum):
    """List the exit codes. docs/commands.md has this list."""

    OK = 0  # Done.
    BUG = 1  # A bug in fleetcast. The message names the file with the details; FLEETCAST_DEBUG=1 prints them instead.
    USAGE = 2  # The command line is wrong, or a package is not installed. `fleetcast diff` and `apply`: there is a difference.
    REFUSED = 3  # Refused: a file, a name or a document is wrong, or may not be read or written.
    UNREACHABLE = 4  # The broker or the database does not answer.
    KEY = 5  # A key cannot be read, or the passphrase does not open it.
    CONFLICT = 6  # The version exists with other content, the folder holds a fleet, another hub runs in it, or a node is enrolled.
    DISK_FULL = 7  # The disk is full, takes nothing or answers with errors, or the one that the output goes to.
    PORT_IN_USE = 8  # The port is in use.
    HALTED = 9  # The rollout halted, went back or was superseded.
    TIMEOUT = 10  # It took too long, or the history has no such event.
    DRIFTS = 11  # `fleetcast drift`: an alarm lasts.
    DAMAGED = 12  # The database, or a file of the signed metadata, is damaged. The message names the file and the mend.
    INTERRUPTED = 130  # Interrupted by Ctrl-C. What belongs together is done whole, or not at all.
    PIPE = 141  # The reader of the output has ended, such as `head`, or the output is closed.


_BY_CODE = {
    Code.KEY_UNREADABLE: Exit.KEY,
    Code.KEY_PASSPHRASE: Exit.KEY,
    Code.KEY_NOT_AUTHORISED: Exit.KEY,
    Code.HUB_RUNNING: Exit.CONFLICT,
    Code.RELEASE_CONFLICT: Exit.CONFLICT,
    Code.NODE_ENROLLED: Exit.CONFLICT,
    Code.DISK_FULL: Exit.DISK_FULL,
    Code.DATABASE_DAMAGED: Exit.DAMAGED,
    Code.METADATA_DAMAGED: Exit.DAMAGED,
    Code.PORT_IN_USE: Exit.PORT_IN_USE,
}
_PROGRAM = Program("fleetcast", Exit, _BY_CODE, install="operators install 'fleetcast[hub]', this may be a device")


def guarded(run: Callable[[], object]) -> None:
    """Run, and turn whatever happens into an exit code."""
    guard(run, _PROGRAM)
