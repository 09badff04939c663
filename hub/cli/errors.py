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

import click

from schemas.errors import Code, Refused, Unreachable


class Exit(IntEnum):
    """Exit codes; docs/operations.md lists them."""

    OK = 0
    BUG = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    KEY = 5
    CONFLICT = 6
    DISK_FULL = 7
    PORT_IN_USE = 8
    HALTED = 9
    TIMEOUT = 10


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

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def guarded(run: Callable[[], object]) -> None:
    """Run, and turn whatever happens into an exit code."""
    try:
        run()
    except Refused as refusal:
        _end(_BY_CODE.get(refusal.code, Exit.REFUSED), str(refusal.code), refusal.reason)
    except Unreachable as error:
        _end(Exit.UNREACHABLE, "unreachable", str(error))
    except Ended as ended:
        _end(ended.code, ended.code.name.lower(), str(ended))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"hub", "schemas", "node"}:
            _bug(error)
        _end(Exit.USAGE, "not_installed", f"{error.name} is not installed: operators install 'fleetcast[hub]', this may be a device")
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            _end(Exit.DISK_FULL, str(Code.DISK_FULL), f"no room on the disk for {error.filename or 'what was to be written'}")
        _bug(error)
    except Exception as error:  # the last net: no traceback reaches an operator
        _bug(error)


def _end(code: Exit, name: str, sentence: str) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": {"code": name, "reason": sentence}}))  # noqa: T201
    print(f"fleetcast: {sentence} [{name}]", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _bug(error: BaseException) -> None:
    if os.environ.get("FLEETCAST_DEBUG"):
        traceback.print_exception(error)
        sys.exit(Exit.BUG)
    with tempfile.NamedTemporaryFile("w", prefix="fleetcast-bug-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    sentence = f"this is a bug in fleetcast: {type(error).__name__}: {error}; the details are in {Path(file.name)}"
    _end(Exit.BUG, "bug", sentence)


def usage(sentence: str) -> click.UsageError:
    """An option that cannot be meant."""
    return click.UsageError(sentence)
