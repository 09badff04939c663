"""Keeps nodes as they last reported."""

from collections.abc import Sequence

from sqlalchemy import bindparam, case, func, select

from hub.database import tables
from hub.database.connection import fields, put_all
from hub.database.postgresql import lock_names
from hub.database.rows import NodeRow
from hub.database.store_part import Part
from hub.database.writers import touch

_STATUSES = select(tables.nodes.c.node, tables.nodes.c.status).where(tables.nodes.c.node.in_(bindparam("names", expanding=True)))
_LAST_SEEN = case((tables.heard.c.last_seen > tables.nodes.c.last_seen, tables.heard.c.last_seen), else_=tables.nodes.c.last_seen)
_COLUMNS = [column for column in tables.nodes.c if column.name != "last_seen"]
_NODES = select(*_COLUMNS, _LAST_SEEN.label("last_seen")).outerjoin(tables.heard, tables.heard.c.node == tables.nodes.c.node)


class NodeRows(Part):
    """Read and write the table of nodes."""

    def upsert_node(self, row: NodeRow) -> None:
        """Keep a node's report of itself."""
        self.upsert_nodes([row])

    def upsert_nodes(self, rows: Sequence[NodeRow]) -> None:
        """Keep nodes' reports of themselves, all in one transaction; a change of status is an event. Of one node the last report counts."""
        latest = {row.node: row for row in rows}
        with self._write() as db:
            lock_names(db, latest)
            before = {row.node: row.status for row in db.execute(_STATUSES, {"names": list(latest)})}
            put_all(db, tables.nodes, ("node",), [fields(row) for row in latest.values()])
            found = list[tuple[str, dict[str, str]]]()
            for row in rows:
                if before.get(row.node) != row.status:
                    before[row.node] = row.status
                    found.append((f"node {row.node} is {row.status}", {"node": row.node, "status": row.status}))
            self._events(db, "node", found)
            touch(db, latest)

    def node(self, node_id: str) -> NodeRow | None:
        """Return one node."""
        found = self._rows(NodeRow, _NODES.where(tables.nodes.c.node == node_id))
        return found[0] if found else None

    def nodes(self) -> list[NodeRow]:
        """Return every node, by name."""
        return self._rows(NodeRow, _NODES.order_by(tables.nodes.c.node))

    def nodes_after(self, name: str, limit: int) -> list[NodeRow]:
        """Return a page of nodes, by name: those behind this one."""
        return self._rows(NodeRow, _NODES.where(tables.nodes.c.node > name).order_by(tables.nodes.c.node).limit(limit))

    def nodes_named(self, names: Sequence[str]) -> list[NodeRow]:
        """Return the nodes of these names, by name."""
        return self._rows(NodeRow, _NODES.where(tables.nodes.c.node.in_(names)).order_by(tables.nodes.c.node))

    def cohorts_of_nodes(self) -> set[str]:
        """Return every cohort that a node has reported."""
        with self._read() as db:
            return {cohort for cohort in db.execute(select(tables.nodes.c.cohort).distinct()).scalars() if cohort}

    def count_nodes(self) -> int:
        """Return how many nodes there are."""
        with self._read() as db:
            return int(db.execute(select(func.count()).select_from(tables.nodes)).scalar_one())

    def counted_nodes(self) -> list[NodeRow]:
        """Return every node that rollouts count, by name: those that were not revoked."""
        revoked = select(tables.enrolments.c.node).where(tables.enrolments.c.revoked_at.is_not(None))
        return self._rows(NodeRow, _NODES.where(tables.nodes.c.node.not_in(revoked)).order_by(tables.nodes.c.node))
