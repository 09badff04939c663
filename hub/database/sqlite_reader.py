"""Read the nodes and their receipts of a SQLite database, without SQLAlchemy: its import takes longer than the whole of `fleetcast nodes`.

Knows the names of the tables and their columns, and reads only. Whatever is not as usual is left to the store: it names what is wrong.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hub.database.rows import NodeMarks, NodeRow, ReceiptRow, marks_of

BUSY_SECONDS = 10
# Every table of this version. A database without one of them is of an earlier version, which the store refuses.
TABLES = frozenset(
    {
        "alerts",
        "certificates",
        "commands",
        "counted",
        "deliveries",
        "device_lives",
        "deployment_rollouts",
        "drift_tests",
        "duplicate_nodes",
        "early_receipts",
        "early_windows",
        "enrolment_tokens",
        "enrolments",
        "events",
        "heard",
        "listened",
        "merged_intervals",
        "newest_drifts",
        "nodes",
        "other_keys",
        "publishes",
        "receipts",
        "receivers",
        "refusals",
        "retained",
        "streams",
        "windows_seen",
        "withheld",
    }
)
_NODES = "SELECT * FROM nodes ORDER BY node"
_RECEIPTS = "SELECT * FROM receipts WHERE ?1 IS NULL OR node = ?1 ORDER BY node, epoch DESC, sequence DESC"


def nodes_and_receipts(path: Path, node: str | None) -> tuple[list[NodeRow], list[ReceiptRow]] | None:
    """Return every node by name, and the receipts of one or of all, the newest first; None where only the store can say why not."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as db:
            db.row_factory = sqlite3.Row
            if not {row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")} >= TABLES:
                return None
            return _rows(NodeRow, db.execute(_NODES)), _rows(ReceiptRow, db.execute(_RECEIPTS, (node,)))
    except (sqlite3.Error, TypeError):  # TypeError: columns of another version
        return None


def node_marks(path: Path) -> dict[str, NodeMarks] | None:
    """Return what lists show beside what nodes report, by name; None where only the store can say why not."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as db:
            return marks_of(
                revoked=[node for (node,) in db.execute("SELECT node FROM enrolments WHERE revoked_at IS NOT NULL")],
                forgotten=[node for (node,) in db.execute("SELECT node FROM device_lives WHERE state = 'forgotten'")],
                expected=db.execute("SELECT node, expires_at FROM device_lives WHERE state = 'expected'").fetchall(),
                duplicates=db.execute("SELECT node, since, last_at FROM duplicate_nodes").fetchall(),
                other_keys=db.execute("SELECT node, since FROM other_keys").fetchall(),
            )
    except sqlite3.Error:
        return None


def _rows(kind: Any, found: sqlite3.Cursor) -> list[Any]:
    return [kind(**dict(row)) for row in found]
