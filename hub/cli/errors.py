"""How a command ends: exit codes that scripts can use, sentences that people can, and never a traceback."""

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TextIO

import click

from hub.cli.terminal_text import plain
from schemas.errors import Code, Refused, Unreachable


class Exit(IntEnum):
    """Exit codes, as docs/commands.md has them."""

    OK = 0  # Done.
    BUG = 1  # A bug in fleetcast. The message names the file with the details; FLEETCAST_DEBUG=1 prints them instead.
    USAGE = 2  # The command line is wrong, or a package that the command needs is not installed.
    REFUSED = 3  # Refused: a file, a name or a document is wrong, or may not be read or written.
    UNREACHABLE = 4  # The broker or the database does not answer.
    KEY = 5  # A key cannot be read, or the passphrase does not open it.
    CONFLICT = 6  # The version exists with other content, or the folder holds a fleet already.
    DISK_FULL = 7  # The disk is full.
    PORT_IN_USE = 8  # The port is in use.
    HALTED = 9  # The rollout halted, went back or was superseded.
    TIMEOUT = 10  # It took too long, or the history has no such event.
    DRIFTS = 11  # `fleetcast drift`: an alarm lasts.
    INTERRUPTED = 130  # Interrupted by Ctrl-C.
    PIPE = 141  # The reader of the output has ended, such as `head`.


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BY_CODE = {
    Code.KEY_UNREADABLE: Exit.KEY,
    Code.KEY_PASSPHRASE: Exit.KEY,
    Code.KEY_NOT_AUTHORISED: Exit.KEY,
    Code.RELEASE_CONFLICT: Exit.CONFLICT,
    Code.DISK_FULL: Exit.DISK_FULL,
    Code.PORT_IN_USE: Exit.PORT_IN_USE,
}


class Ended(Exception):  # an outcome, not an error
    """A command that did what it was asked, with an outcome that scripts want to know."""

    def __init__(self, code: Exit, sentence: str, *, printed: bool = False) -> None:
        super().__init__(sentence)
        self.code, self.printed = code, printed  # printed: what it has shown says it already


class ReaderGone(Exception):  # likewise no error
    """Whoever read what we print has seen enough."""


def guarded(run: Callable[[], object]) -> None:
    """Run, and turn whatever happens into an exit code."""
    try:
        run()
    except Refused as refusal:
        _end(_BY_CODE.get(refusal.code, Exit.REFUSED), str(refusal.code), refusal.reason)
    except Unreachable as error:
        _end(Exit.UNREACHABLE, "unreachable", str(error))
    except Ended as ended:
        if ended.printed:
            sys.exit(ended.code)
        _end(ended.code, ended.code.name.lower(), str(ended))
    except click.ClickException as error:
        _usage(error)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(Exit.INTERRUPTED)  # who presses Ctrl-C knows
    except ReaderGone:
        _drop(sys.stdout)
        sys.exit(Exit.PIPE)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"hub", "schemas", "node"}:
            _bug(error)
        _end(Exit.USAGE, "not_installed", f"{error.name} is not installed: operators install 'fleetcast[hub]', this may be a device")
    except OSError as error:
        _disk(error)
    except Exception as error:  # the last net: no traceback reaches an operator
        _bug(error)


def _disk(error: OSError) -> None:
    """The disk's own errors, of files that no part below has spoken for."""
    if error.errno in FULL:
        _end(Exit.DISK_FULL, str(Code.DISK_FULL), f"no room on the disk for {error.filename or 'what was to be written'}")
    if error.filename and (isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError) or error.errno == errno.EROFS):
        _end(Exit.REFUSED, str(Code.SETTINGS_INVALID), f"{error.filename}: {error.strerror}")
    _bug(error)


def _usage(error: click.ClickException) -> None:
    _say_json("usage", error.format_message())
    error.show()
    sys.exit(Exit.USAGE)


def _end(code: Exit, name: str, sentence: str) -> None:
    _say_json(name, sentence)
    _say(f"fleetcast: {plain(' '.join(sentence.split()))} [{name}]", sys.stderr)
    sys.exit(code)


def _say_json(name: str, sentence: str) -> None:
    if "--json" in sys.argv:
        _say(json.dumps({"error": {"code": name, "reason": sentence}}), sys.stdout)


def _say(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        _drop(stream)


def _drop(stream: TextIO) -> None:
    """Nobody reads it: without this the interpreter would complain once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _bug(error: BaseException) -> None:
    if os.environ.get("FLEETCAST_DEBUG"):
        traceback.print_exception(error)
        sys.exit(Exit.BUG)
    try:
        with tempfile.NamedTemporaryFile("w", prefix="fleetcast-bug-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        details = f"the details are in {Path(file.name)}"
    except OSError as full:
        details = f"the details could not be kept ({full.strerror}); FLEETCAST_DEBUG=1 prints them"
    _end(Exit.BUG, "bug", f"this is a bug in fleetcast: {type(error).__name__}: {error}; {details}")
