"""Keeps enrolments in SQL: tokens by their digests, enrolled nodes with their keys, every certificate that was issued.

Every method is one transaction, durable when it returns. Decides nothing: hub/core/enrol/enrolment.py does. A token is used up by one
conditional UPDATE in the transaction that writes down its certificate, so that of two devices with one token exactly one is enrolled.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from hub.core.enrol.enrolment import Standing, TokenFacts
from hub.database import tables
from hub.database.change_sides import iso
from hub.database.connection import Database, put
from hub.database.device_lives import settle
from hub.database.postgresql import lock_revisions

NAMES_AT_ONCE = 500  # Names that one query asks for: SQLite binds a bounded number of values.
TOKEN_SECONDS_KEPT = 30 * 86_400  # past its expiry a token is kept, to say why it was refused
CERTIFICATE_SECONDS_KEPT = 2 * 365 * 86_400  # past its expiry, for the way back and for the curious


@dataclass(frozen=True, slots=True)
class Place:
    """Hold the settings of a token's node: chosen by the operator, never by the device."""

    node: str
    cohort: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EnrolmentRow:
    """Hold one enrolled node, for people."""

    place: Place
    standing: Standing
    enrolled_at: int
    serial: str


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Hold one token, for people."""

    facts: TokenFacts
    place: Place
    made_at: int


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """Hold one certificate that was issued."""

    serial: str
    name: str
    kind: str
    not_after: int
    certificate: bytes
    revoked_at: int | None = None

    @classmethod
    def of(cls, *, serial: str, name: str, kind: str, not_after: datetime, certificate: bytes) -> "CertificateRow":
        """Make the row of a certificate that the authority issued."""
        return cls(serial, name, kind, int(not_after.timestamp()), certificate)


_NODES = (
    select(tables.enrolments, tables.certificates.c.not_after)
    .join(tables.certificates, tables.certificates.c.serial == tables.enrolments.c.serial)
    .order_by(tables.enrolments.c.node)
)
# What a running hub asks again and again, put together once.
_NEWEST = select(func.max(tables.enrolments.c.revision))
_CHANGED = _NODES.where(tables.enrolments.c.revision >= bindparam("revision"))


class Enrolments:
    """Read and write the enrolment tables of the hub's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Tokens

    def add_tokens(self, tokens: Sequence[tuple[bytes, Place]], *, expires_at: int) -> None:
        """Keep new tokens, all or none: (digest of the secret, what its node is to be)."""
        now, until, rows, events = self._database.now(), iso(expires_at), [], []
        for digest, place in tokens:
            rows.append({"digest": digest, "made_at": now, "expires_at": expires_at, **_values(place)})
            after = {"token_until": until, "cohort": place.cohort or None, "labels": dict(place.labels)}
            body = json.dumps({"node": place.node, "before": None, "after": after})
            text = f"a token for node {place.node} was made"
            events.append({"at": now, "actor": self._database.actor, "kind": "enrolment", "text": text, "body": body})
        if rows:
            with self._database.write() as db:
                db.execute(insert(tables.enrolment_tokens), rows)
                db.execute(insert(tables.events), events)

    def token(self, digest: bytes) -> TokenRow | None:
        """Return one token."""
        table = tables.enrolment_tokens
        found = self._database.rows(_token, select(table).where(table.c.digest == digest))
        return found[0] if found else None

    def open_tokens(self) -> list[TokenRow]:
        """Return tokens that can still be used, by their nodes."""
        table = tables.enrolment_tokens
        query = select(table).where(table.c.used_at.is_(None), table.c.expires_at > self._database.now()).order_by(table.c.node)
        found: list[TokenRow] = self._database.rows(_token, query)
        return found

    def withdraw_tokens(self, node: str) -> int:
        """Withdraw the unused tokens for this node; return how many there were."""
        table = tables.enrolment_tokens
        with self._database.write() as db:
            return int(db.execute(delete(table).where(table.c.node == node, table.c.used_at.is_(None))).rowcount)

    # Nodes

    def redeem(self, digest: bytes, place: Place, public_key: bytes, certificate: CertificateRow) -> bool:
        """Use a token up and enrol its node with this key; False when somebody was faster, and then nothing has changed.

        Certificates that the node had before are revoked with it: a name is one device's.
        """
        table, now = tables.enrolment_tokens, self._database.now()
        with self._database.write() as db:
            used = update(table).where(table.c.digest == digest, table.c.used_at.is_(None), table.c.expires_at > now)
            if not db.execute(used.values(used_at=now, public_key=public_key, serial=certificate.serial)).rowcount:
                return False
            earlier = db.execute(select(tables.enrolments.c.serial).where(tables.enrolments.c.node == place.node)).scalar()
            _revoke(db, place.node, now)
            _add(db, certificate)
            values = {**_values(place), "public_key": public_key, "earlier_key": None, "enrolled_at": now}
            _put_node(db, {**values, "renewed_at": now, "revoked_at": None, "serial": certificate.serial})
            settle(db, place.node)
            text = f"node {place.node} was enrolled"
            sides = {"before": {"serial": earlier} if earlier is not None else None, "after": {"serial": certificate.serial}}
            event = {"node": place.node, "serial": certificate.serial, **sides}
            db.execute(
                insert(tables.events).values(at=now, kind="enrolment", text=text, body=json.dumps(event), actor=f"node {place.node}")
            )
        return True

    def renew(self, before: Standing, public_key: bytes, certificate: CertificateRow) -> bool:
        """Write down a node's next certificate; False when its standing is no more what it was, and then nothing has changed."""
        table, now = tables.enrolments, self._database.now()
        with self._database.write() as db:
            still = update(table).where(table.c.node == before.node, table.c.public_key == before.public_key, table.c.revoked_at.is_(None))
            values: dict[str, Any] = {"renewed_at": now, "serial": certificate.serial}
            if public_key != before.public_key:
                values |= {"public_key": public_key, "earlier_key": before.public_key}
            if not db.execute(still.values(values)).rowcount:
                return False
            db.execute(update(table).where(table.c.node == before.node).values(revision=_next_revision(db)))
            _add(db, certificate)
        return True

    def revoke(self, name: str) -> int:
        """Revoke every certificate of this name, and the node if it is one; how many certificates that were valid."""
        table, now = tables.enrolments, self._database.now()
        with self._database.write() as db:
            count = _revoke(db, name, now)
            found = db.execute(update(table).where(table.c.node == name, table.c.revoked_at.is_(None)).values(revoked_at=now)).rowcount
            if found:
                db.execute(update(table).where(table.c.node == name).values(revision=_next_revision(db)))
            if found or count:
                sides = {"before": {"certificates": count}, "after": {"certificates": 0}}
                body = json.dumps({"node": name, "certificates": count, **sides})
                values = {"at": now, "kind": "enrolment", "text": f"{name} was revoked", "body": body, "actor": self._database.actor}
                db.execute(insert(tables.events).values(values))
        return count

    def node(self, name: str) -> EnrolmentRow | None:
        """Return one enrolled node."""
        found = self._nodes(tables.enrolments.c.node == name)
        return found[0] if found else None

    def enrolled(self, names: Sequence[str]) -> list[str]:
        """Return those of these names under which a device is enrolled, in their order."""
        table, found = tables.enrolments.c, set[str]()
        with self._database.read() as db:
            for start in range(0, len(names), NAMES_AT_ONCE):
                part = names[start : start + NAMES_AT_ONCE]
                found |= set(db.execute(select(table.node).where(table.node.in_(part), table.revoked_at.is_(None))).scalars())
        return [name for name in names if name in found]

    def nodes(self) -> list[EnrolmentRow]:
        """Return every enrolled node, by name."""
        return self._nodes(tables.enrolments.c.revision >= 0)

    def changed_since(self, revision: int) -> tuple[int, list[Standing]]:
        """Return standings that changed at this revision or later, and the newest revision: two writers at once may have taken the same."""
        with self._database.read() as db:
            newest = int(db.execute(_NEWEST).scalar() or 0)
        return newest, [row.standing for row in self._database.rows(_node, _CHANGED, revision=revision)]

    def _nodes(self, which: Any) -> list[EnrolmentRow]:
        found: list[EnrolmentRow] = self._database.rows(_node, _NODES.where(which))
        return found

    # Certificates

    def add_certificate(self, certificate: CertificateRow) -> None:
        """Write down what was issued to a server, a hub or a consumer."""
        with self._database.write() as db:
            _add(db, certificate)
            text = f"a certificate was issued to {certificate.name}"
            named = {"name": certificate.name, "serial": certificate.serial}
            body = json.dumps({**named, "before": None, "after": {"serial": certificate.serial}})
            db.execute(
                insert(tables.events).values(at=self._database.now(), kind="certificate", text=text, body=body, actor=self._database.actor)
            )

    def certificate(self, serial: str) -> bytes | None:
        """Return what was issued, DER."""
        table = tables.certificates
        with self._database.read() as db:
            found: bytes | None = db.execute(select(table.c.certificate).where(table.c.serial == serial)).scalar()
        return found

    def certificates(self, *, kinds: Sequence[str]) -> list[CertificateRow]:
        """Return what was issued and has not expired, by name."""
        table = tables.certificates
        query = select(table).where(table.c.kind.in_(list(kinds)), table.c.not_after > self._database.now())
        found: list[CertificateRow] = self._database.rows(CertificateRow, query.order_by(table.c.name, table.c.not_after))
        return found

    def revoked(self) -> list[CertificateRow]:
        """Return what was revoked and would still be valid, oldest first."""
        table = tables.certificates
        query = select(table).where(table.c.revoked_at.is_not(None), table.c.not_after > self._database.now() - 86_400)
        found: list[CertificateRow] = self._database.rows(CertificateRow, query.order_by(table.c.revoked_at, table.c.serial))
        return found

    def prune(self) -> None:
        """Forget what nobody asks for any more."""
        now, current = self._database.now(), select(tables.enrolments.c.serial)
        with self._database.write() as db:
            table = tables.enrolment_tokens
            db.execute(delete(table).where(table.c.expires_at < now - TOKEN_SECONDS_KEPT))
            kept = tables.certificates
            old = kept.c.not_after < now - CERTIFICATE_SECONDS_KEPT
            db.execute(delete(kept).where(old, kept.c.serial.not_in(current)))


def _values(place: Place) -> dict[str, str]:
    return {"node": place.node, "cohort": place.cohort, "labels": json.dumps(dict(place.labels), sort_keys=True)}


def _place(row: Mapping[str, Any]) -> Place:
    return Place(row["node"], row["cohort"], json.loads(row["labels"]))


def _token(**row: Any) -> TokenRow:
    facts = TokenFacts(row["node"], row["expires_at"], row["used_at"], row["public_key"], row["serial"])
    return TokenRow(facts, _place(row), row["made_at"])


def _node(**row: Any) -> EnrolmentRow:
    standing = Standing(row["node"], row["public_key"], row["earlier_key"], row["revoked_at"], row["not_after"], row["renewed_at"])
    return EnrolmentRow(_place(row), standing, row["enrolled_at"], row["serial"])


def _add(db: Connection, row: CertificateRow) -> None:
    fields = {name: getattr(row, name) for name in row.__dataclass_fields__}
    db.execute(insert(tables.certificates).values(fields))


def _revoke(db: Connection, name: str, now: int) -> int:
    table = tables.certificates
    valid = update(table).where(table.c.name == name, table.c.kind != "server", table.c.revoked_at.is_(None), table.c.not_after > now)
    return int(db.execute(valid.values(revoked_at=now)).rowcount)


def _put_node(db: Connection, values: Mapping[str, Any]) -> None:
    put(db, tables.enrolments, {"node": values["node"]}, {**values, "revision": _next_revision(db)})


def _next_revision(db: Connection) -> int:
    lock_revisions(db, tables.enrolments)
    return int(db.execute(select(func.max(tables.enrolments.c.revision))).scalar() or 0) + 1
