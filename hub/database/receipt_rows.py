"""Keeps verified receipts, those that wait for their node's key, and which release each node serves by them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Select, TextClause, bindparam, delete, func, insert, select, text

from hub.core.rollouts.receipt_order import Newest, epoch_of, newer
from hub.database import tables
from hub.database.connection import fields, put_all
from hub.database.postgresql import lock_names
from hub.database.rows import EarlyReceiptRow, Kept, ReceiptRow, Served, served_after
from hub.database.store_part import Part
from hub.database.writers import touch

log = structlog.get_logger()
T = TypeVar("T")

AT_ONCE_MAX = 256  # Receipts that one query asks for.
_TABLE, _SERVING = tables.receipts, tables.serving
_ADD = insert(_TABLE)
_UNPROVED = delete(tables.proofs).where(tables.proofs.c.node == bindparam("name"))
_SERVED = select(_SERVING).where(_SERVING.c.node.in_(bindparam("names", expanding=True)))
_OF_NODE = (
    select(_TABLE.c.model, _TABLE.c.outcome, _TABLE.c.digest, _TABLE.c.epoch, _TABLE.c.sequence)
    .where(_TABLE.c.node == bindparam("name"), _TABLE.c.model.is_not(None))
    .order_by(_TABLE.c.epoch, _TABLE.c.sequence)
)
Key = tuple[str, int]  # A node, and the number of a receipt.


class ReceiptRows(Part):
    """Read and write receipts."""

    def add_receipts(self, rows: Sequence[ReceiptRow]) -> list[Kept]:
        """Keep verified receipts, all in one transaction; those that are here already are not fresh.

        Of two different receipts with one number, the first stays, unless the second is of an epoch in which its node counts anew. What the
        nodes serve follows in the same transaction, and what their receipts prove has to be folded and kept again.
        """
        table, found = tables.receipts, list[Kept]()
        with self._write() as db:
            lock_names(db, {row.node for row in rows})
            here, newest = _known(db, rows)
            new: dict[tuple[str, int], ReceiptRow] = {}
            replaced = set[str]()
            for row in rows:
                before = here.get(key := (row.node, row.sequence))
                if before is not None and before[0] == row.sealed:
                    found.append(Kept(is_fresh=False, epoch=before[1]))
                    continue
                epoch = epoch_of(newest[row.node], sequence=row.sequence, at=row.at)
                if before is not None and epoch <= before[1]:
                    log.warning("receipt.not_kept", node=row.node, sequence=row.sequence, reason="another of this number came first")
                    found.append(Kept(is_fresh=False, epoch=None))
                    continue
                if before is not None:  # Its node counts anew.
                    log.warning("receipt.replaced", node=row.node, sequence=row.sequence)
                    db.execute(delete(table).where(table.c.node == row.node, table.c.sequence == row.sequence))
                    replaced.add(row.node)
                newest[row.node] = newer(newest[row.node], Newest(epoch, row.sequence, row.at))
                here[key], new[key] = (row.sealed, epoch), replace(row, epoch=epoch)
                found.append(Kept(is_fresh=True, epoch=epoch, replaces=before is not None))
            if new:
                fresh = list(new.values())
                db.execute(_ADD, [fields(row) for row in fresh])
                db.execute(_UNPROVED, [{"name": name} for name in {row.node for row in fresh}])
                self._events(db, "receipt", [_event_of(row) for row in fresh])
                _follow(db, fresh, replaced)
                touch(db, {row.node for row in fresh})
        return found

    def receipts(self, model: str | None = None, node: str | None = None, limit: int | None = None) -> list[ReceiptRow]:
        """Return receipts, the newest of each node first."""
        table = tables.receipts.c
        query = select(tables.receipts).order_by(table.node, table.epoch.desc(), table.sequence.desc())
        if model is not None:
            query = query.where(tables.receipts.c.model == model)
        if node is not None:
            query = query.where(tables.receipts.c.node == node)
        return self._rows(ReceiptRow, query.limit(limit))

    def receipt_before(self, row: ReceiptRow) -> ReceiptRow | None:
        """Return the receipt of the same node about the same release that came before this one; None where there is none."""
        older = (_TABLE.c.epoch < row.epoch) | ((_TABLE.c.epoch == row.epoch) & (_TABLE.c.sequence < row.sequence))
        query = select(_TABLE).where(_TABLE.c.node == row.node, _TABLE.c.digest == row.digest, older)
        found = self._rows(ReceiptRow, query.order_by(_TABLE.c.epoch.desc(), _TABLE.c.sequence.desc()).limit(1))
        return found[0] if found else None

    def add_early_receipts(self, receipts: Sequence[tuple[str, bytes]], *, at_most: int) -> int:
        """Keep receipts, by node, until their nodes' keys are known; return how many, for `at_most` may wait at a time."""
        if not receipts:
            return 0
        with self._write() as db:
            waiting = int(db.execute(select(func.count()).select_from(tables.early_receipts)).scalar() or 0)
            kept = receipts[: max(0, at_most - waiting)]
            if kept:
                db.execute(insert(tables.early_receipts), [{"node": node, "at": self._now(), "sealed": sealed} for node, sealed in kept])
        return len(kept)

    def early_receipts(self) -> list[EarlyReceiptRow]:
        """Return what waits, oldest first."""
        return self._rows(EarlyReceiptRow, select(tables.early_receipts).order_by(tables.early_receipts.c.id))

    def drop_early_receipts(self, row_ids: Sequence[int]) -> None:
        """Drop receipts that wait no more."""
        if row_ids:
            with self._write() as db:
                db.execute(delete(tables.early_receipts).where(tables.early_receipts.c.id.in_(list(row_ids))))

    def serving(self, nodes: Sequence[str] | None = None) -> list[ReceiptRow]:
        """Return the receipt of what each node serves of each model, or each of these nodes."""
        return self._rows(ReceiptRow, _served_by() if nodes is None else _served_by().where(_SERVING.c.node.in_(list(nodes))))

    def nodes_serving(self) -> dict[bytes, int]:
        """Return how many nodes serve each release."""
        query = select(_SERVING.c.digest, func.count()).where(_SERVING.c.digest.is_not(None)).group_by(_SERVING.c.digest)
        with self._read() as db:
            return {digest: int(count) for digest, count in db.execute(query)}

    def receipts_of_release(self, digest: bytes) -> list[ReceiptRow]:
        """Return the receipts about a release, the oldest of each node first."""
        query = select(_TABLE).where(_TABLE.c.digest == digest)
        return self._rows(ReceiptRow, query.order_by(_TABLE.c.node, _TABLE.c.epoch, _TABLE.c.sequence))

    def proofs(self, nodes: Sequence[str] | None = None) -> dict[str, bytes]:
        """Return what the receipts of nodes prove, as it was kept; a node with newer receipts has none."""
        table = tables.proofs.c
        query = select(table.node, table.body)
        with self._read() as db:
            found = db.execute(query if nodes is None else query.where(table.node.in_(list(nodes))))
            return {row.node: row.body for row in found}

    def keep_proofs(self, proofs: Mapping[str, bytes]) -> None:
        """Keep what receipts prove. A power cut may take it away again, and then they are folded anew."""
        if proofs:
            with self.database.write_soon() as db:
                put_all(db, tables.proofs, ("node",), [{"node": node, "body": body} for node, body in proofs.items()])


def _served_by() -> Select[Any]:
    return select(_TABLE).join(_SERVING, (_SERVING.c.node == _TABLE.c.node) & (_SERVING.c.served_by == _TABLE.c.sequence))


def _known(db: Connection, rows: Sequence[ReceiptRow]) -> tuple[dict[Key, tuple[bytes, int]], dict[str, Newest | None]]:
    """Return the receipts with the same numbers that are here, and the newest one of each node: both by one query for many nodes."""
    here: dict[Key, tuple[bytes, int]] = {}
    newest: dict[str, Newest | None] = dict.fromkeys(sorted({row.node for row in rows}))
    for some in _slices(sorted({(row.node, row.sequence) for row in rows})):
        keys = {f"{name}{number}": value for number, key in enumerate(some) for name, value in zip(("name", "sequence"), key, strict=True)}
        here |= {(node, sequence): (sealed, epoch) for node, sequence, sealed, epoch in db.execute(_here(len(some)), keys)}
    for names in _slices(list(newest)):
        mine = {f"name{number}": name for number, name in enumerate(names)}
        newest |= {node: Newest(*one) for node, *one in db.execute(_newest_of(len(names)), mine)}
    return here, newest


def _slices(found: Sequence[T]) -> Iterator[Sequence[T]]:
    return (found[at : at + AT_ONCE_MAX] for at in range(0, len(found), AT_ONCE_MAX))


# Both join what is asked for to an index, and cost no more as history grows; SQLite would answer (node, sequence) IN (...) by reading all.
# Names are our own, and SQLite and PostgreSQL read the same words.


@lru_cache(maxsize=64)
def _here(keys: int) -> TextClause:
    values = ", ".join(f"(:name{number}, CAST(:sequence{number} AS bigint))" for number in range(keys))
    return text(
        f"WITH mine (node, sequence) AS (VALUES {values})"  # noqa: S608
        " SELECT one.node, one.sequence, one.sealed, one.epoch FROM mine"
        " JOIN receipts AS one ON one.node = mine.node AND one.sequence = mine.sequence"
    )


@lru_cache(maxsize=64)
def _newest_of(nodes: int) -> TextClause:
    values = ", ".join(f"(:name{number})" for number in range(nodes))
    return text(
        f"WITH mine (node) AS (VALUES {values})"  # noqa: S608
        " SELECT one.node, one.epoch, one.sequence, one.at FROM mine JOIN receipts AS one ON one.node = mine.node AND one.sequence ="
        " (SELECT sequence FROM receipts WHERE node = mine.node ORDER BY epoch DESC, sequence DESC LIMIT 1)"
    )


def _follow(db: Connection, fresh: Sequence[ReceiptRow], replaced: set[str]) -> None:
    """Bring over to the table of who serves what; where one came late or took another's place, all receipts of its node are read."""
    names = sorted({row.node for row in fresh})
    known = {(row.node, row.model): Served(**row._mapping) for row in db.execute(_SERVED, {"names": names})}
    changed: dict[tuple[str, str], Served] = {}
    again = set(replaced)
    for row in fresh:
        if row.model is None or row.node in again:
            continue
        before = changed.get((row.node, row.model), known.get((row.node, row.model)))
        after = served_after(before, row.node, row.model, outcome=row.outcome, digest=row.digest, epoch=row.epoch, sequence=row.sequence)
        if after is None:
            again.add(row.node)
        else:
            changed[row.node, row.model] = after
    for name in again:
        mine: dict[str, Served] = {}
        for one in db.execute(_OF_NODE, {"name": name}).mappings():
            after = served_after(mine.get(one["model"]), name, **one)
            if after is not None:
                mine[after.model] = after
        db.execute(delete(_SERVING).where(_SERVING.c.node == name))
        changed = {key: one for key, one in changed.items() if key[0] != name} | {(name, model): one for model, one in mine.items()}
    put_all(db, _SERVING, ("node", "model"), [fields(one) for one in changed.values()])


def _event_of(row: ReceiptRow) -> tuple[str, dict[str, Any]]:
    what = f"{row.model} {row.version}" if row.version else (row.model or "a message")
    text = f"node {row.node}: {row.outcome} {what}" + (f" [{row.code}]" if row.code else "")
    body = {"node": row.node, "outcome": row.outcome, "model": row.model, "version": row.version, "code": row.code}
    return text, {**body, "reason": row.reason, "digest": row.digest.hex() if row.digest else None}
