"""Remember in which cohort a window began: one that is open when the cohort changes still counts for the former."""

from collections.abc import Sequence

KEPT = 8  # Changes: windows are open for a day or so.


class CohortChanges:
    """Hold the node's cohort, and its cohorts of a while ago."""

    def __init__(self, cohort: str) -> None:
        self.now = cohort
        self._former: list[tuple[float, str]] = []  # Until when it was this one, the oldest first.

    def change(self, cohort: str, *, at: float) -> None:
        """Be in another cohort, for windows that begin at this time or later."""
        if cohort != self.now:
            self._former = [*self._former, (at, self.now)][-KEPT:]
            self.now = cohort

    def at(self, start: float) -> str:
        """Return the cohort of a window that began at this time."""
        return next((cohort for until, cohort in self._former if start < until), self.now)

    def all(self) -> Sequence[str]:
        """Return every cohort that windows which wait may be of."""
        return list(dict.fromkeys([self.now, *(cohort for _, cohort in self._former)]))
