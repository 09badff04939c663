"""Import a library without what it would take along if it found it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Have modules that are not imported yet look as if they were not installed, for what is imported meanwhile.

    A device has no `rich`, and structlog does without. Where it is installed for other programs, structlog would load it for tracebacks in
    colour that a service never draws: 5 MiB.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # The import system raises ModuleNotFoundError for it.
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
