"""Keep the database from growing: once an hour, in pieces, of which a turn of the loop does a few."""

from collections.abc import Callable, Iterator, Mapping

from hub.database.retention import Retention, pieces
from hub.database.store import Store
from hub.settings import HubSettings

AGAIN_SECONDS = 3600.0
TURN_SECONDS = 0.05  # What one turn of the loop spends on it.


class Housekeeping:
    """Remove what is too old."""

    def __init__(
        self,
        store: Store,
        settings: HubSettings,
        *,
        needed_from: Callable[[], Mapping[str, int]],
        monotonic: Callable[[], float],
    ) -> None:
        self._store, self._settings, self._needed_from, self._monotonic = store, settings, needed_from, monotonic
        self._began_at = float("-inf")
        self._left: Iterator[int] | None = None

    def tick(self) -> None:
        """Remove a few pieces, where an hour has passed or something is left of before."""
        now = self._monotonic()
        if self._left is None:
            if now - self._began_at < AGAIN_SECONDS:
                return
            self._began_at, self._left = now, pieces(self._store.database, self._retention())
        left, self._left = self._left, None  # Where the database fails, it begins again in an hour.
        for _ in left:
            if self._monotonic() - now >= TURN_SECONDS:
                self._left = left
                return

    def _retention(self) -> Retention:
        said = self._settings
        return Retention(
            ids_days=said.ids_days,
            intervals_days=said.intervals_days,
            history_days=said.history_days,
            receipts_days=said.receipts_days,
            events_kept=said.events_kept,
            needed_from=self._needed_from(),
        )
