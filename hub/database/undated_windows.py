"""Keeps in SQL the windows that wait for the hub's clock. Decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, or_, select

from hub.database import tables
from hub.database.connection import Database


@dataclass(frozen=True, slots=True)
class UndatedRow:
    """Hold a window that waits, as it came."""

    id: int
    model: str
    cohort: str
    window: bytes


class UndatedRows:
    """Store them in the hub's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, *, until: int, beyond: int, limit: int) -> list[UndatedRow]:
        """Return windows that start up to `until` or after `beyond`, the oldest first."""
        columns = tables.undated_windows.c
        query = (
            select(columns.id, columns.model, columns.cohort, columns.window)
            .where(or_(columns.start <= until, columns.start > beyond))
            .order_by(columns.id)
            .limit(limit)
        )
        with self._database.read() as db:
            return [UndatedRow(**dict(row)) for row in db.execute(query).mappings()]

    def counts(self) -> dict[str, int]:
        """Return how many wait, by cohort."""
        columns = tables.undated_windows.c
        with self._database.read() as db:
            return {str(row[0]): int(row[1]) for row in db.execute(select(columns.cohort, func.count()).group_by(columns.cohort))}

    def add(self, windows: Sequence[tuple[str, str, int, bytes]]) -> None:
        """Keep some, each a model, a cohort, its start and itself."""
        names = ("model", "cohort", "start", "window")
        with self._database.write() as db:
            db.execute(insert(tables.undated_windows), [dict(zip(names, one, strict=True)) for one in windows])

    def drop(self, ids: Sequence[int]) -> None:
        """Drop windows that wait no more."""
        with self._database.write() as db:
            db.execute(delete(tables.undated_windows).where(tables.undated_windows.c.id.in_(list(ids))))

    def drop_oldest(self, cohort: str) -> bool:
        """Drop the oldest of a cohort; False if there is none."""
        columns = tables.undated_windows.c
        oldest = select(func.min(columns.id)).where(columns.cohort == cohort).scalar_subquery()
        with self._database.write() as db:
            return db.execute(delete(tables.undated_windows).where(columns.id == oldest)).rowcount > 0
