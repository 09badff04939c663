"""Keeps in SQL the windows of cohorts that nothing names yet, and those that wait for the hub's clock. Decides nothing.

Both are in one table. Of a window that waits for the clock, `at` is below zero: -1 less its start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, or_, select

from hub.database import tables
from hub.database.connection import Database


@dataclass(frozen=True, slots=True)
class EarlyWindowRow:
    """Hold a window that waits, as it came."""

    id: int
    model: str
    cohort: str
    at: int
    window: bytes


@dataclass(frozen=True, slots=True)
class UndatedRow:
    """Hold a window that waits for the clock, as it came."""

    id: int
    model: str
    cohort: str
    window: bytes


class EarlyWindows:
    """Store them in the hub's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[EarlyWindowRow]:
        """Return what waits for its cohort to be named, oldest first."""
        table = tables.early_windows
        with self._database.read() as db:
            return [EarlyWindowRow(**dict(row)) for row in db.execute(select(table).where(table.c.at >= 0).order_by(table.c.id)).mappings()]

    def change(self, *, add: Sequence[tuple[str, str, int, bytes]], drop: Sequence[int]) -> None:
        """Keep new ones, each a model, a cohort, a time and a window, and drop others, in one transaction."""
        if not add and not drop:
            return
        table = tables.early_windows
        with self._database.write() as db:
            if drop:
                db.execute(delete(table).where(table.c.id.in_(list(drop))))
            if add:
                names = ("model", "cohort", "at", "window")
                db.execute(insert(table), [dict(zip(names, one, strict=True)) for one in add])

    def undated(self, *, until: int, beyond: int, limit: int) -> list[UndatedRow]:
        """Return windows that wait for the clock and start up to `until` or after `beyond`, the oldest first."""
        columns = tables.early_windows.c
        is_due = or_(columns.at >= -1 - until, columns.at < -1 - beyond)
        query = (
            select(columns.id, columns.model, columns.cohort, columns.window)
            .where(columns.at < 0, is_due)
            .order_by(columns.id)
            .limit(limit)
        )
        with self._database.read() as db:
            return [UndatedRow(**dict(row)) for row in db.execute(query).mappings()]

    def undated_counts(self) -> dict[str, int]:
        """Return how many windows wait for the clock, by cohort."""
        columns = tables.early_windows.c
        query = select(columns.cohort, func.count()).where(columns.at < 0).group_by(columns.cohort)
        with self._database.read() as db:
            return {str(row[0]): int(row[1]) for row in db.execute(query)}

    def add_undated(self, windows: Sequence[tuple[str, str, int, bytes]]) -> None:
        """Keep windows that wait for the clock, each a model, a cohort, its start and itself."""
        self.change(add=[(model, cohort, -1 - start, window) for model, cohort, start, window in windows], drop=())

    def drop_oldest_undated(self, cohort: str) -> bool:
        """Drop the oldest of a cohort; False if there is none."""
        columns = tables.early_windows.c
        oldest = select(func.min(columns.id)).where(columns.at < 0, columns.cohort == cohort).scalar_subquery()
        with self._database.write() as db:
            return db.execute(delete(tables.early_windows).where(columns.id == oldest)).rowcount > 0

    def enrolled_cohorts(self) -> set[str]:
        """Return the cohorts that enrolled nodes and unused tokens name."""
        nodes, tokens = tables.enrolments.c, tables.enrolment_tokens.c
        named = (
            select(nodes.cohort).where(nodes.revoked_at.is_(None)).distinct(),
            select(tokens.cohort).where(tokens.used_at.is_(None)).distinct(),
        )
        with self._database.read() as db:
            return {cohort for query in named for cohort in db.execute(query).scalars() if cohort}
