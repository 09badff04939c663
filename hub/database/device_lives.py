"""Keeps what operators have said of devices over their life, such as names that are forgotten, and names that two devices use.

Every method is one transaction, durable when it returns. `revision` rises with every change, so that a running hub reads only what is new.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, insert, select, update

from hub.core.enrol.enrolment import Life
from hub.database import tables
from hub.database.change_sides import KEY_CHARACTERS, iso, key_side
from hub.database.connection import Database, fields, put
from hub.database.postgresql import lock_revisions
from hub.database.rows import NodeMarks, NodeRow, marks_of
from hub.database.writers import touch

_LIFE_FIELDS = ("node", "state", "at", "expires_at", "old_key", "fingerprint", "reported_at", "actor")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Hold a name that two devices use, from when to when that was seen."""

    node: str
    since: int
    last_at: int


@dataclass(frozen=True, slots=True)
class OtherKey:
    """Hold since when a device speaks in a name with another key than the one that counts, and that key's SHA-256."""

    node: str
    since: int
    fingerprint: bytes


_NEWEST = select(func.max(tables.device_lives.c.revision))  # Asked again and again by a running hub.


class DeviceLives:
    """Read and write the tables of device lives in the hub's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def forget(self, node: str) -> bool:
        """Forget a node for good: what it reported goes, and what comes in its name is refused; False when it was forgotten already."""
        with self._database.write() as db:
            if _state(db, node) == "forgotten":
                return False
            key = db.execute(select(tables.nodes.c.public_key).where(tables.nodes.c.node == node)).scalar()
            _erase(db, node)
            self._put(db, node, "forgotten", old_key=key)
            sides = {"before": {"state": "known", **(key_side(key) or {})}, "after": {"state": "forgotten"}}
            _event(db, self._database.now(), f"node {node} was forgotten", {"node": node, **sides}, self._database.actor)
        return True

    def expect(self, node: str, *, fingerprint: bytes | None, expires_at: int) -> None:
        """Let new hardware take a name: the old key is out at once, and the next key that comes (or the one with this digest) is in."""
        with self._database.write() as db:
            key = db.execute(select(tables.nodes.c.public_key).where(tables.nodes.c.node == node)).scalar()
            if not key:  # It was forgotten, or is replaced again: the key that is out stays out.
                key = db.execute(select(tables.device_lives.c.old_key).where(tables.device_lives.c.node == node)).scalar()
            _erase(db, node)
            self._put(db, node, "expected", old_key=key, fingerprint=fingerprint, expires_at=expires_at)
            named = {"fingerprint": fingerprint.hex()[:KEY_CHARACTERS]} if fingerprint is not None else {}
            after = {"state": "waits for new hardware", "until": iso(expires_at), **named}
            sides = {"before": {"state": "known", **(key_side(key) or {})}, "after": after}
            _event(db, self._database.now(), f"node {node} waits for new hardware", {"node": node, **sides}, self._database.actor)

    def take_place(self, row: NodeRow) -> None:
        """Take in a node whose key is new: what another device signed in this name counts no more."""
        with self._database.write() as db:
            before = db.execute(select(tables.nodes.c.public_key).where(tables.nodes.c.node == row.node)).scalar()
            if not before:  # Its reports went when new hardware was awaited; the key that is out is kept.
                before = db.execute(select(tables.device_lives.c.old_key).where(tables.device_lives.c.node == row.node)).scalar()
            _erase(db, row.node, early=False)
            put(db, tables.nodes, {"node": row.node}, fields(row))
            settle(db, row.node)
            touch(db, [row.node])
            sides = {"before": key_side(before), "after": key_side(row.public_key)}
            _event(db, self._database.now(), f"node {row.node} has a new key", {"node": row.node, **sides}, self._database.actor)

    def erase(self, node: str) -> None:
        """Delete what a running hub kept of a node between an operator's command and its own look at it."""
        with self._database.write() as db:
            _erase(db, node)

    def mark_reported(self, node: str) -> None:
        """Note that it was reported that a forgotten node still speaks."""
        with self._database.write() as db:
            db.execute(update(tables.device_lives).where(tables.device_lives.c.node == node).values(reported_at=self._database.now()))

    def life(self, node: str) -> Life | None:
        """Return what was said of one node."""
        found = self._lives(tables.device_lives.c.node == node)
        return found[0] if found else None

    def changed_since(self, revision: int) -> tuple[int, list[Life]]:
        """Return what changed at this revision or later, and the newest revision."""
        table = tables.device_lives
        with self._database.read() as db:
            newest = int(db.execute(_NEWEST).scalar() or 0)
        return newest, self._lives(table.c.revision >= revision) if newest > revision or revision == 0 else []

    def _lives(self, which: Any) -> list[Life]:
        table = tables.device_lives
        found: list[Life] = self._database.rows(Life, select(*[table.c[name] for name in _LIFE_FIELDS]).where(which))
        return found

    def _put(
        self,
        db: Connection,
        node: str,
        state: Literal["forgotten", "expected"],
        *,
        old_key: bytes | None,
        fingerprint: bytes | None = None,
        expires_at: int | None = None,
    ) -> None:
        life = Life(node, state, self._database.now(), expires_at, old_key or None, fingerprint, actor=self._database.actor)
        put(db, tables.device_lives, {"node": node}, {**fields(life), "revision": _next_revision(db)})

    def marks(self) -> dict[str, NodeMarks]:
        """Return what lists show beside what nodes report, by name."""
        enrolled, lives, two, other = tables.enrolments.c, tables.device_lives.c, tables.duplicate_nodes.c, tables.other_keys.c
        with self._database.read() as db:
            return marks_of(
                revoked=db.execute(select(enrolled.node).where(enrolled.revoked_at.is_not(None))).scalars().all(),
                forgotten=db.execute(select(lives.node).where(lives.state == "forgotten")).scalars().all(),
                expected=db.execute(select(lives.node, lives.expires_at).where(lives.state == "expected")).all(),
                duplicates=db.execute(select(two.node, two.since, two.last_at)).all(),
                other_keys=db.execute(select(other.node, other.since)).all(),
            )

    # Names that two devices use

    def duplicates(self) -> list[Duplicate]:
        """Return every name that two devices use, by name."""
        found: list[Duplicate] = self._database.rows(Duplicate, select(tables.duplicate_nodes).order_by(tables.duplicate_nodes.c.node))
        return found

    def put_duplicate(self, row: Duplicate) -> None:
        """Keep that two devices use a name."""
        with self._database.write() as db:
            put(db, tables.duplicate_nodes, {"node": row.node}, fields(row))

    def drop_duplicate(self, node: str) -> None:
        """Note that only one device uses a name again."""
        with self._database.write() as db:
            db.execute(delete(tables.duplicate_nodes).where(tables.duplicate_nodes.c.node == node))

    # Devices that speak with another key than the one that counts

    def other_keys(self) -> dict[str, OtherKey]:
        """Return every name in which a device speaks with another key."""
        found: list[OtherKey] = self._database.rows(OtherKey, select(tables.other_keys))
        return {one.node: one for one in found}

    def put_other_key(self, row: OtherKey) -> None:
        """Keep that a device speaks with another key than the one that counts."""
        with self._database.write() as db:
            put(db, tables.other_keys, {"node": row.node}, fields(row))
            touch(db, [row.node])

    def drop_other_key(self, node: str) -> None:
        """Note that the device with the key that counts has spoken."""
        with self._database.write() as db:
            db.execute(delete(tables.other_keys).where(tables.other_keys.c.node == node))
            touch(db, [node])


def settle(db: Connection, node: str) -> None:
    """Note that a device has this name again."""
    table = tables.device_lives
    waiting = update(table).where(table.c.node == node, table.c.state != "settled")
    if db.execute(waiting.values(state="settled")).rowcount:
        db.execute(update(table).where(table.c.node == node).values(revision=_next_revision(db)))


def _state(db: Connection, node: str) -> str | None:
    found: str | None = db.execute(select(tables.device_lives.c.state).where(tables.device_lives.c.node == node)).scalar()
    return found


def _erase(db: Connection, node: str, *, early: bool = True) -> None:
    reported = [tables.nodes, tables.heard, tables.receipts, tables.serving, tables.proofs, tables.duplicate_nodes, tables.other_keys]
    for table in [*reported, tables.early_receipts] if early else reported:
        db.execute(delete(table).where(table.c.node == node))
    touch(db, [node])


def _event(db: Connection, now: int, text: str, body: dict[str, Any], actor: str) -> None:
    db.execute(insert(tables.events).values(at=now, kind="device", text=text, body=json.dumps(body), actor=actor))


def _next_revision(db: Connection) -> int:
    lock_revisions(db, tables.device_lives)
    return int(db.execute(select(func.max(tables.device_lives.c.revision))).scalar() or 0) + 1
