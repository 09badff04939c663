"""How a command of the device ends: exit codes that scripts can use, sentences that people can, and never a traceback."""

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn

import click

from node.cli.table_output import plain
from schemas.errors import Code, Refused, Unreachable


class Exit(IntEnum):
    """Exit codes, as docs/commands.md has them. 1 and 2 are the doctor's; click also ends with 2 for a wrong command line."""

    OK = 0  # Done. `status`: the node is well. `doctor`: nothing is wrong.
    WARNINGS = 1  # `doctor`: there are warnings, and no troubles.
    TROUBLES = 2  # `doctor`: there are troubles.
    USAGE = 2  # The command line is wrong, or a package that the command needs is not installed.
    REFUSED = 3  # Refused: a setting, a file or a document is wrong.
    UNREACHABLE = 4  # The broker, or the node's own database, does not answer.
    KEY = 5  # A key cannot be read.
    RUNNING = 6  # Another agent runs on the data folder.
    DISK_FULL = 7  # The disk is full.
    PORT_IN_USE = 8  # The local port is in use.
    STORE_DAMAGED = 9  # The node's database was found damaged while the agent ran. The next start sets it aside.
    NOT_RUNNING = 11  # `status`: the node does not run.
    NOT_SERVING = 12  # `status`: the node runs, and does not serve.
    BUG = 70  # A bug in fleetcast. The message names the file with the details, or they are in the journal.
    INTERRUPTED = 130  # Interrupted by Ctrl-C.
    PIPE = 141  # The reader of the output has ended, such as `head`.


_BY_CODE = {
    Code.KEY_UNREADABLE: Exit.KEY,
    Code.NODE_RUNNING: Exit.RUNNING,
    Code.DISK_FULL: Exit.DISK_FULL,
    Code.PORT_IN_USE: Exit.PORT_IN_USE,
    Code.STORE_DAMAGED: Exit.STORE_DAMAGED,
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ReaderGone(Exception):  # no error
    """Whoever read what we print has seen enough."""


def guarded(run: Callable[[], object]) -> NoReturn:
    """Run, and end the process with what came of it."""
    try:
        run()
        sys.stdout.flush()
    except Refused as refusal:
        _end(_BY_CODE.get(refusal.code, Exit.REFUSED), str(refusal.code), refusal.reason)
    except Unreachable as error:
        _end(Exit.UNREACHABLE, "unreachable", str(error))
    except click.ClickException as error:
        _say_json("usage", error.format_message())
        error.show()
        sys.exit(Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(Exit.INTERRUPTED)
    except (ReaderGone, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains once more when it ends
        sys.exit(Exit.PIPE)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"node", "schemas"}:
            _bug(error)
        _end(Exit.USAGE, "not_installed", f"{error.name} is not installed: a device installs 'fleetcast[node]'")
    except OSError as error:
        if error.errno in _FULL:
            _end(Exit.DISK_FULL, str(Code.DISK_FULL), f"no room on the disk for {error.filename or 'what was to be written'}")
        if error.filename and (isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError) or error.errno == errno.EROFS):
            _end(Exit.REFUSED, str(Code.SETTINGS_INVALID), f"{error.filename}: {error.strerror}")
        _bug(error)
    except Exception as error:  # the last net
        _bug(error)
    sys.exit(Exit.OK)


def _end(code: Exit, name: str, sentence: str) -> NoReturn:
    _say_json(name, sentence)
    print(f"fleetcast-node: {plain(' '.join(sentence.split()))} [{name}]", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _say_json(name: str, sentence: str) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": {"code": name, "reason": sentence}}))  # noqa: T201


def _bug(error: BaseException) -> NoReturn:
    if os.environ.get("FLEETCAST_DEBUG"):
        traceback.print_exception(error)
        sys.exit(Exit.BUG)
    try:
        with tempfile.NamedTemporaryFile("w", prefix="fleetcast-bug-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        where = f"the details are in {file.name}"
    except OSError as full:
        where = f"the details could not be kept ({full.strerror}); FLEETCAST_DEBUG=1 prints them"
    _end(Exit.BUG, "bug", f"this is a bug in fleetcast: {type(error).__name__}: {error}; {where}")
