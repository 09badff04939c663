"""Write down every minute who serves which release, a row an hour and model, for the picture of a release's way through the fleet."""

from collections.abc import Callable
from typing import Final, Protocol

from hub.core.rollouts.listening import Listened
from hub.database.connection import Database
from hub.database.release_hours import HOUR, ReleaseHour, ReleaseHours

LOOK_SECONDS: Final = 60.0


class Listening(Protocol):
    """Say how long the hub has listened, up to the last look."""

    @property
    def seconds(self) -> Listened:
        """Return it, on a clock that runs only while the hub hears its nodes."""
        ...


class ReleaseHistory:
    """Keep the hours of releases while the hub runs."""

    def __init__(self, database: Database, *, listening: Listening, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._hours, self._listening, self._wall, self._monotonic = ReleaseHours(database), listening, wall, monotonic
        self._looked_at = float("-inf")
        self._hour, self._heard, self._listened_at = 0, 0.0, float(listening.seconds)

    def tick(self) -> None:
        """Write the present hour where a minute has passed, or another hour has begun."""
        hour = int(self._wall()) // HOUR * HOUR
        now = self._monotonic()
        if hour == self._hour and now - self._looked_at < LOOK_SECONDS:
            return
        listened = float(self._listening.seconds)
        self._heard += max(0.0, listened - self._listened_at)
        self._listened_at, self._looked_at = listened, now
        serving = self._hours.serving_now()
        if self._hour and hour != self._hour:
            self._write(self._hour, serving)  # What the hour before came to, and how much of it was heard.
        if hour != self._hour:
            self._hour, self._heard = hour, self._hours.listened_in(hour)
        self._write(hour, serving)

    def _write(self, hour: int, serving: dict[str, dict[str, int]]) -> None:
        heard = min(float(HOUR), self._heard)
        self._hours.keep([ReleaseHour(hour, model, counts, heard) for model, counts in serving.items()])
