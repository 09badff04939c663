"""Hold what is wrong with this process now, and keep it in the database, so that commands and the console show it until it is mended."""

from collections.abc import Callable

from hub.database.connection import Database
from hub.database.troubles import Trouble, Troubles


class OpenTroubles:
    """Keep the list. What is begun or ended is in memory until `keep`, which each turn of the loop calls. Any thread may begin and end."""

    def __init__(self, database: Database, *, process: str, clock: Callable[[], float]) -> None:
        self._rows, self._process, self._clock = Troubles(database), process, clock
        self._open: dict[tuple[str, str], Trouble] = {}
        self._kept: list[Trouble] | None = None  # None before the first look: a process of this name may have been killed.

    def begin(self, code: str, text: str, *, about: str = "") -> None:
        """Take in that something is wrong, or is wrong in other words."""
        before = self._open.get((code, about))
        since = before.since if before is not None else int(self._clock())
        self._open[code, about] = Trouble(self._process, code, about, since, text)

    def end(self, code: str, *, about: str = "") -> None:
        """Take in that it is so no more, if it was."""
        self._open.pop((code, about), None)

    def keep(self) -> None:
        """Write what has changed.

        Raises:
            Unreachable: the database does not answer.
            Refused: it has no room.
        """
        now = list(self._open.values())
        if self._kept is None:
            self._kept = self._rows.of(self._process)
        if now != self._kept:
            self._rows.replace(self._process, now)
            self._kept = now

    def leave(self) -> None:
        """Forget all: the process ends."""
        self._open.clear()
        self.keep()
