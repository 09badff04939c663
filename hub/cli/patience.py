"""Wait for a hub, or a database, that has answered and does not now: a restart ends no command that follows something."""

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

import click

from fleetcast.backoff import Backoff
from fleetcast.cli.terminal_text import plain
from fleetcast.sentence_end import ended
from schemas.errors import Unreachable

T = TypeVar("T")

BACKOFF: Final = Backoff(0.5, 5.0)


class Patience:
    """Ask again where there is no answer, until a deadline on the monotonic clock. That it waits is reported once, on stderr."""

    def __init__(self, deadline: float | None, *, was_there: bool = True, meanwhile: str = "") -> None:
        self._deadline, self._meanwhile = deadline, meanwhile
        self._was_there, self._wait = was_there, BACKOFF
        self.reason = ""  # Why there is no answer now.

    def ask(self, look: Callable[[], T]) -> T:
        """Return an answer.

        Raises:
            Unreachable: there was none until the deadline.
        """
        while True:
            try:
                found = look()
            except Unreachable as error:
                if self.is_over():
                    raise
                self.lost(error)
            else:
                self.answered()
                return found

    def lost(self, error: Unreachable) -> None:
        """Wait a while after a question that was not answered, and not beyond the deadline.

        Raises:
            Unreachable: it has never answered: the address may be wrong.
        """
        if not self._was_there:
            raise error
        if not self.reason:
            click.echo(plain(f"Waiting for an answer: {ended(str(error))}{f' {self._meanwhile}' if self._meanwhile else ''}"), err=True)
        self.reason = str(error)
        pause = self._wait.wait_seconds(random.random())  # spreads clients in time
        self._wait = self._wait.doubled()
        time.sleep(pause if self._deadline is None else max(0.0, min(pause, self._deadline - time.monotonic())))

    def answered(self) -> None:
        """Note that there was an answer."""
        if self.reason:
            click.echo("It answers again.", err=True)
        self._was_there, self.reason, self._wait = True, "", BACKOFF

    def is_over(self) -> bool:
        """Return whether the deadline has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline
