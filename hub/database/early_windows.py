"""Keeps in SQL the windows of cohorts that nothing names yet, and reads which cohorts enrolments name. Decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

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


class EarlyWindows:
    """Store them in the hub's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[EarlyWindowRow]:
        """Return what waits, oldest first."""
        table = tables.early_windows
        with self._database.read() as db:
            return [EarlyWindowRow(**dict(row)) for row in db.execute(select(table).order_by(table.c.id)).mappings()]

    def change(self, *, add: Sequence[tuple[str, str, int, bytes]], drop: Sequence[int]) -> None:
        """Keep new ones, each a model, a cohort, a time and a window, and drop others, in one transaction."""
        table = tables.early_windows
        with self._database.write() as db:
            if drop:
                db.execute(delete(table).where(table.c.id.in_(list(drop))))
            if add:
                names = ("model", "cohort", "at", "window")
                db.execute(insert(table), [dict(zip(names, one, strict=True)) for one in add])

    def enrolled_cohorts(self) -> set[str]:
        """Return the cohorts that enrolled nodes and unused tokens name."""
        nodes, tokens = tables.enrolments.c, tables.enrolment_tokens.c
        named = (
            select(nodes.cohort).where(nodes.revoked_at.is_(None)).distinct(),
            select(tokens.cohort).where(tokens.used_at.is_(None)).distinct(),
        )
        with self._database.read() as db:
            return {cohort for query in named for cohort in db.execute(query).scalars() if cohort}
