"""Make standard streams safe to use: closed ones are opened to nothing, and a log that cannot be written ends no program.

A program that is started with a closed stream would get its number for the next file that it opens, and a library that prints would write
into that file. Imports nothing but the interpreter's own modules.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO, cast

_FLAGS = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)  # The wrong way round for input and output, so that a use of them is an error.


class Forgiving(io.TextIOWrapper):
    """Write what can be written: a full disk below a log, or a reader of it that has gone, is no reason to stop."""

    def write(self, text: str) -> int:
        """Write, or do not."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or do not."""
        with contextlib.suppress(OSError):
            super().flush()


class Output(io.TextIOWrapper):
    """Remember what went wrong: an error of the disk does not name the file, and a library may turn it into one of its own."""

    failed: OSError | None = None

    def write(self, text: str) -> int:
        """Write.

        Raises:
            OSError: it could not be written.
        """
        with self._remembering():
            return super().write(text)

    def flush(self) -> None:
        """Flush.

        Raises:
            OSError: it could not be written.
        """
        with self._remembering():
            super().flush()

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = error
            raise


def prepare() -> None:
    """Open what is closed, have stdout remember and stderr forgive. Called by a command line before it opens any file."""
    for number, flags in enumerate(_FLAGS):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, flags)  # the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    if _is_number(sys.stdout, 1):
        out = cast(io.TextIOWrapper, sys.stdout)
        encoding, errors, is_terminal = out.encoding, out.errors, out.isatty()
        output = Output(out.detach(), encoding=encoding, errors=errors, line_buffering=is_terminal)
        vars(sys).update({"stdout": output, "__stdout__": output})  # rich asks the second one
    if _is_number(sys.stderr, 2):
        err = cast(io.TextIOWrapper, sys.stderr)
        encoding = err.encoding
        log = Forgiving(err.detach(), encoding=encoding, errors="backslashreplace", line_buffering=True)
        vars(sys).update({"stderr": log, "__stderr__": log})


def _is_number(stream: TextIO, number: int) -> bool:
    """Return whether it is the process's own stream, and not what a test has put in its place."""
    with contextlib.suppress(OSError, ValueError):
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == number
    return False
