"""Let Ctrl-C end a command: at once where that is safe, after a section that must not be cut in two, and whatever swallows the exception.

Python raises KeyboardInterrupt wherever the main thread happens to be. A native library that is being loaded crashes of it or says that it
is not installed, a callback of the garbage collector prints it and goes on, and a change of several files is cut in two. So the exception
is held back while a native library is loaded and within `held`, and raised again as long as nothing that the command does handles it.
Imports nothing but the interpreter's own modules: it is there before anything else is imported.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from opcode import opmap
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN_SECONDS: Final = 0.02  # Between two looks whether the command handles the interrupt.
EXIT_CODE: Final = 130  # 128 + SIGINT, as shells report it.
_IMPORT: Final = ("<frozen importlib", importlib.__file__)  # Begin the file names of the import system's frames.
_NATIVE: Final = "ExtensionFileLoader."  # Begins the names of the functions that load native libraries.
_STATEMENTS: Final = frozenset({opmap["IMPORT_NAME"], opmap["IMPORT_FROM"]})


class _State:
    """Hold what is known of Ctrl-C in this process."""

    def __init__(self) -> None:
        self.is_installed = self.is_guarded = self.is_pressed = self.is_deferred = False
        self.held = 0


_state: Final = _State()


def install() -> None:
    """Handle SIGINT in this process from now on. Called by the main thread of a command line, before it does anything else."""
    signal.signal(signal.SIGINT, _pressed)
    signal.signal(signal.SIGALRM, _again)
    signal.siginterrupt(signal.SIGALRM, False)
    sys.unraisablehook = _unraisable
    _state.is_installed, _state.is_guarded, _state.is_pressed, _state.held = True, False, False, 0


def guarded() -> None:
    """Begin: until now Ctrl-C ended the process at once, as nothing was begun; from now on the caller reports how the command ends."""
    _state.is_guarded = True


def pressed() -> bool:
    """Return whether the running command was interrupted, whatever became of the exception."""
    return _state.is_pressed


@contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C back while what belongs together is done; the exception is raised at the end of the outermost such block.

    What takes long or waits for others does not belong into it. In a program that is no command of ours, such as a notebook, its
    own handler gets the interrupt at the end.
    """
    _state.held += 1
    try:
        if _state.is_deferred or threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is _pressed:
            yield  # `held` counts other threads, too, which get no signal
        else:
            with _deferred():
                yield
    finally:
        _state.held -= 1
    if _state.is_pressed and not _state.held and not _is_handled():
        raise KeyboardInterrupt


@contextmanager
def _deferred() -> Iterator[None]:
    """Hold SIGINT back from the handler that a program has, and hand it over at the end."""
    before, came = signal.getsignal(signal.SIGINT), list[tuple[int, FrameType | None]]()
    if not callable(before):  # It is ignored, or ends the process, or is of a library in C: neither raises an exception.
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    _state.is_deferred = True
    try:
        yield
    finally:
        _state.is_deferred = False
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came[-1])


def over() -> None:
    """End the handling: the command has ended, and its exit code is known."""
    if not _state.is_installed:
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    waits = any(not one.daemon for one in threading.enumerate() if one is not threading.main_thread())
    # Nothing is left to be interrupted; only a thread for which the interpreter would wait may still be left behind.
    signal.signal(signal.SIGINT, _leave if waits else signal.SIG_IGN)


def _pressed(_number: int, frame: FrameType | None) -> None:
    if not _state.is_guarded:
        os._exit(EXIT_CODE)
    _state.is_pressed = True
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
    _raise_unless(frame)


def _again(_number: int, frame: FrameType | None) -> None:
    _raise_unless(frame)


def _raise_unless(frame: FrameType | None) -> None:
    if not (_state.held or _is_handled() or _is_loading(frame)):
        raise KeyboardInterrupt


def _is_handled() -> bool:
    """Return whether the main thread is on its way out: an `except` or `finally` that runs now runs because of the interrupt."""
    found, seen = [sys.exception()], set()
    while found:
        error = found.pop()
        if error is None or id(error) in seen:
            continue
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        found += [error.__cause__, error.__context__]
    return False


def _is_loading(frame: FrameType | None) -> bool:
    """Return whether native code waits for an import: its own, or one that it asked for in the middle of a call."""
    is_inside = False
    while frame is not None:
        code, was_inside = frame.f_code, is_inside
        is_inside = code.co_filename.startswith(_IMPORT)
        if is_inside and code.co_qualname.startswith(_NATIVE):
            return True
        if was_inside and not is_inside and code.co_code[frame.f_lasti] not in _STATEMENTS:
            return True
        frame = frame.f_back
    return False


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_CODE)


def _unraisable(found: "UnraisableHookArgs") -> None:
    """Leave an interrupt that a callback has swallowed unreported: it is raised again."""
    if not (_state.is_pressed and issubclass(found.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(found)
