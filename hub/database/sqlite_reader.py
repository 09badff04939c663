"""Read nodes and the receipts of what they serve from a SQLite database, without SQLAlchemy, whose import takes longer than all else.

Knows the names of the tables and their columns, and reads only. Whatever is not as usual is left to the store: it names what is wrong.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hub.database.rows import NodeMarks, NodePage, NodeRow, ReceiptRow, marks_of
from hub.database.schema_version import HEAD, VERSION_TABLE

BUSY_SECONDS = 10
# Every table of this version. A database without one of them is of an earlier version, which the store refuses.
TABLES = frozenset(
    {
        "alerts",
        "api_requests",
        "api_tokens",
        "blueprints",
        "certificates",
        "commands",
        "console_links",
        "console_sessions",
        "counted",
        "deliveries",
        "deployment_rollouts",
        "device_lives",
        "document_changes",
        "documents",
        "drift_tests",
        "duplicate_nodes",
        "early_receipts",
        "early_windows",
        "enrolment_tokens",
        "enrolments",
        "events",
        "heard",
        "known_drifts",
        "leadership",
        "listened",
        "members",
        "merged_intervals",
        "newest_drifts",
        "nodes",
        "other_keys",
        "proofs",
        "publishes",
        "receipts",
        "receivers",
        "refusals",
        "release_hours",
        "retained",
        "serving",
        "streams",
        "touched_nodes",
        "troubles",
        "undated_windows",
        "window_requests",
        "window_sessions",
        "windows_seen",
        "withheld",
    }
)
_NODES = (
    "SELECT nodes.node, session, status, max(nodes.last_seen, coalesce(heard.last_seen, 0)) AS last_seen, state, public_key, cohort"
    " FROM nodes LEFT JOIN heard ON heard.node = nodes.node WHERE "
)
_PAGE = _NODES + "nodes.node > ? ORDER BY nodes.node LIMIT ?"
_ONE = _NODES + "nodes.node = ?"
_SERVING = (
    "SELECT receipts.* FROM serving JOIN receipts ON receipts.node = serving.node AND receipts.sequence = serving.served_by"
    " WHERE serving.node >= ? AND serving.node <= ?"
)


def node_page(path: Path, *, node: str | None, after: str, limit: int) -> NodePage | None:
    """Return one node, or those behind `after` by name; None where only the store can say why not."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as db:
            db.row_factory = sqlite3.Row
            if not {row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")} >= TABLES:
                return None
            if [row["version_num"] for row in db.execute(f"SELECT version_num FROM {VERSION_TABLE}")] != [HEAD]:  # noqa: S608  # our own
                return None
            nodes = _rows(NodeRow, db.execute(_PAGE, (after, limit)) if node is None else db.execute(_ONE, (node,)))
            bounds = (nodes[0].node, nodes[-1].node) if nodes else ("", "")
            (total,) = db.execute("SELECT count(*) FROM nodes").fetchone()
            return NodePage(nodes, _rows(ReceiptRow, db.execute(_SERVING, bounds)), total)
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
