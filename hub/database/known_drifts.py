"""Keeps which drifts somebody has looked at, and how much evidence there was then."""

from dataclasses import dataclass

from sqlalchemy import select

from hub.database import tables
from hub.database.connection import Database, fields, put


@dataclass(frozen=True, slots=True)
class KnownDrift:
    """Hold that somebody has looked at a drift; `evidence` is the stream's at that time, as log10."""

    model: str
    version: str
    cohort: str
    about: str
    at: int
    evidence: float
    actor: str


class KnownDrifts:
    """Read and write the table of drifts that are known."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, known: KnownDrift) -> None:
        """Keep it, in place of an earlier one of the same stream."""
        values = fields(known)
        with self._database.write() as db:
            put(db, tables.known_drifts, {name: values[name] for name in ("model", "version", "cohort", "about")}, values)

    def all(self) -> list[KnownDrift]:
        """Return all of them."""
        return self._database.rows(KnownDrift, select(tables.known_drifts))
