"""Keeps what the hub remembers, in SQL: one store of many parts, each for some tables.

SQLite in WAL for one machine, PostgreSQL by URL for more. The hub's loop and the operator's commands are processes of their own over one
database. Every method is one transaction, durable when it returns. Knows no topic, no broker and no policy.
"""

import time
from collections.abc import Callable
from copy import copy

from hub.database import retention, tables
from hub.database.alert_rows import CHANGES, AlertRows
from hub.database.connection import Database
from hub.database.interval_rows import IntervalRows
from hub.database.node_rows import NodeRows
from hub.database.receipt_rows import ReceiptRows
from hub.database.retention import Retention
from hub.database.rollout_rows import RolloutRows
from hub.database.rows import (
    AlertRow,
    CommandRow,
    EarlyReceiptRow,
    EventRow,
    IntervalRow,
    NodeRow,
    ReceiptRow,
    RefusalRow,
    RetainedRow,
    RolloutRow,
    WindowRow,
)
from hub.database.schema import bring_up, check
from hub.database.sent_rows import SentRows

__all__ = [
    "CHANGES",
    "AlertRow",
    "CommandRow",
    "EarlyReceiptRow",
    "EventRow",
    "IntervalRow",
    "NodeRow",
    "ReceiptRow",
    "RefusalRow",
    "RetainedRow",
    "RolloutRow",
    "Store",
    "WindowRow",
]


class Store(NodeRows, ReceiptRows, RolloutRows, IntervalRows, AlertRows, SentRows):
    """Read and write the hub's database."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.database = Database(url, clock=clock)

    def open(self) -> None:
        """Make the tables of a database that has none; for commands, beside which a hub of an earlier version may run.

        Raises:
            Refused: its schema is of an earlier version, which is for the hub to take over, or of a newer one.
        """
        if not check(self.database, tables.metadata):
            self.create()

    def create(self) -> None:
        """Make the tables of a database that has none, and take over those of earlier versions; for the hub.

        Raises:
            Refused: a newer program made its schema.
        """
        bring_up(self.database, tables.metadata)

    def acting(self, actor: str) -> "Store":
        """Return the same store, for changes in the name of another actor."""
        found = copy(self)
        found.database = self.database.acting(actor)
        return found

    def close(self) -> None:
        """Release the database."""
        self.database.close()

    def prune(self, kept: Retention | None = None) -> None:
        """Forget all that is no longer asked for, at once; a running hub does it piece by piece."""
        for _ in retention.pieces(self.database, kept or Retention()):
            pass
