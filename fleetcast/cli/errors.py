"""How a command ends: exit codes that scripts can use, sentences that people can read, and never a traceback.

Works where a dependency of the commands is not installed, and imports little: every `--help` waits for it.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn, TextIO

from fleetcast import interrupts
from fleetcast.cli.standard_streams import Output
from fleetcast.cli.terminal_text import plain
from fleetcast.disk_room import FULL, TAKES_NOTHING
from schemas.errors import Code, Refused, Unreachable

OURS = frozenset({"fleetcast", "schemas", "hub", "node", "simulation"})  # a module of these that is absent is a bug, and no missing package


@dataclass(frozen=True, slots=True)
class Program:
    """Describe a command line: its name, its exit codes, and what to say where a package is not installed."""

    name: str
    exits: type[IntEnum]  # with USAGE, REFUSED, UNREACHABLE, DISK_FULL, BUG, INTERRUPTED, PIPE
    by_code: Mapping[Code, IntEnum]  # all other refusals end with REFUSED
    install: str


class Ended(Exception):  # an outcome, not an error
    """End a command that did its work, with an outcome for scripts."""

    def __init__(self, code: IntEnum, sentence: str, *, printed: bool = False) -> None:
        super().__init__(sentence)
        self.code, self.printed = code, printed  # printed: its output says it already


class ReaderGone(Exception):  # an outcome, not an error
    """Report that the reader of the output has ended, such as `head`."""


@contextmanager
def reader() -> Iterator[None]:
    """Tell a reader that has gone apart from what goes wrong; click alone would end with 1, which means something else here.

    Raises:
        ReaderGone: it has.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


def guard(run: Callable[[], object], program: Program) -> None:
    """Run, and turn whatever happens into an exit code."""
    try:
        interrupts.guarded()
        _guard(run, program)
    except KeyboardInterrupt:  # pressed while the end was being reported
        _interrupted(program)


def _guard(run: Callable[[], object], program: Program) -> None:
    try:
        run()
        sys.stdout.flush()
    except BaseException as error:
        if interrupts.pressed():  # whatever a library has made of it
            _interrupted(program)
        interrupts.over()
        _report(error, program)
    if interrupts.pressed():
        _interrupted(program)
    interrupts.over()


def _interrupted(program: Program) -> NoReturn:
    interrupts.over()
    if _output_error() is not None:
        _drop(sys.stdout)
    sys.exit(program.exits["INTERRUPTED"])  # a person who presses Ctrl-C knows


def _report(raised: BaseException, program: Program) -> NoReturn:
    exits = program.exits
    if isinstance(raised, SystemExit | OSError) and (of_output := _output_error()) is not None:
        _output(program, of_output)
    try:
        raise raised
    except Refused as refusal:
        _end(program, program.by_code.get(refusal.code, exits["REFUSED"]), str(refusal.code), refusal.reason)
    except Unreachable as error:
        _end(program, exits["UNREACHABLE"], "unreachable", str(error))
    except Ended as ended:
        if _output_error() is not None:
            _drop(sys.stdout)
        if ended.printed:
            sys.exit(ended.code)
        _end(program, ended.code, ended.code.name.lower(), str(ended))
    except KeyboardInterrupt:
        _interrupted(program)
    except (ReaderGone, BrokenPipeError):
        _drop(sys.stdout)
        sys.exit(exits["PIPE"])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OURS:
            _bug(program, error)
        _end(program, exits["USAGE"], "not_installed", f"{error.name} is not installed: {program.install}")
    except OSError as error:
        _disk(program, error)
    except Exception as error:  # the last net: no traceback reaches an operator
        _click(program, error)
        _bug(program, error)


def _output_error() -> OSError | None:
    """Return why the output cannot be written, if it cannot."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return sys.stdout.failed if isinstance(sys.stdout, Output) else None


def _output(program: Program, error: OSError) -> NoReturn:
    """End because the output takes nothing more; whatever the command was to do apart from it is done."""
    _drop(sys.stdout)
    if error.errno == errno.EPIPE:
        sys.exit(program.exits["PIPE"])
    name = "DISK_FULL" if error.errno in FULL else "PIPE"
    _end(program, program.exits[name], f"output.{name.lower()}", f"the output could not be written whole: {error.strerror}")


def _click(program: Program, error: Exception) -> None:
    """End as click's own errors do. Nothing raises them where click is not installed, so only an error imports it."""
    try:
        import click  # noqa: PLC0415
    except ModuleNotFoundError:
        return
    if isinstance(error, click.Abort):
        sys.exit(program.exits["INTERRUPTED"])
    if isinstance(error, click.ClickException):
        _print_json("usage", error.format_message())
        error.show()
        sys.exit(program.exits["USAGE"])


def _disk(program: Program, error: OSError) -> NoReturn:
    """Turn the disk's own errors into sentences, for files that no other part covers."""
    if error.errno in FULL:
        sentence = f"no room on the disk for {error.filename or 'what was to be written'}"
        _end(program, program.exits["DISK_FULL"], str(Code.DISK_FULL), sentence)
    if error.filename and (isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError) or error.errno == errno.EROFS):
        _end(program, program.exits["REFUSED"], str(Code.SETTINGS_INVALID), f"{error.filename}: {error.strerror}")
    if error.errno in TAKES_NOTHING:
        sentence = f"the disk does not take or give {error.filename or 'what was to be written'}: {error.strerror}"
        _end(program, program.exits["DISK_FULL"], str(Code.DISK_FULL), f"{sentence}; mend the disk, and run the same command again")
    _bug(program, error)


def _bug(program: Program, error: BaseException) -> NoReturn:
    import tempfile  # noqa: PLC0415  # needed by bugs only
    import traceback  # noqa: PLC0415

    if os.environ.get("FLEETCAST_DEBUG"):
        traceback.print_exception(error)
        sys.exit(program.exits["BUG"])
    try:
        with tempfile.NamedTemporaryFile("w", prefix="fleetcast-bug-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        details = f"the details are in {file.name}"
    except OSError as full:
        details = f"the details could not be kept ({full.strerror}); FLEETCAST_DEBUG=1 prints them"
    _end(program, program.exits["BUG"], "bug", f"this is a bug in fleetcast: {type(error).__name__}: {error}; {details}")


def _end(program: Program, code: IntEnum, name: str, sentence: str) -> NoReturn:
    _print_json(name, sentence)
    _print_line(f"{program.name}: {plain(' '.join(sentence.split()))} [{name}]", sys.stderr)
    sys.exit(code)


def _print_json(name: str, sentence: str) -> None:
    if "--json" in sys.argv:
        import json  # noqa: PLC0415  # needed by few

        _print_line(json.dumps({"error": {"code": name, "reason": sentence}}), sys.stdout)


def _print_line(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except OSError:  # its reader has gone, or its disk is full
        _drop(stream)


def _drop(stream: TextIO) -> None:
    """Point a stream that nobody reads elsewhere: the interpreter would complain once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
