"""Keeps tokens of the API, and which command a repeated request has queued. Each method is one transaction, durable when it returns."""

import json
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from hub.core.nodes.device_settings import KIND, SetNodeSettings
from hub.core.nodes.device_settings import body_of as body_of_settings
from hub.core.rollouts.commands import Command, body_of, kind_of
from hub.database import tables
from hub.database.change_sides import Side, iso
from hub.database.connection import Database, fields, inserted
from schemas.errors import Code, Refused

REPEATED = "Idempotency-Key {key!r} was used for another request by this token: choose a new key for a new request"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Hold a token of the API; `digest` is SHA-256 of what its owner shows."""

    id: str
    name: str
    role: str
    digest: bytes
    made_at: int
    made_by: str
    expires_at: int
    revoked_at: int | None = None


class ApiTokens:
    """Read and write the tokens of the API."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: TokenRow) -> None:
        """Keep a token that was made."""
        with self._database.write() as db:
            db.execute(insert(tables.api_tokens).values(fields(row)))
            after = {"state": "good", "role": row.role, "expires": iso(row.expires_at)}
            self._event(db, f"token {row.name} ({row.id}) was made with the role {row.role}", row.id, row.name, before=None, after=after)

    def by_digest(self, digest: bytes) -> TokenRow | None:
        """Return the token of which this is the digest, whether it is still good or not."""
        found = self._database.rows(TokenRow, select(tables.api_tokens).where(tables.api_tokens.c.digest == digest))
        return found[0] if found else None

    def get(self, token_id: str) -> TokenRow | None:
        """Return a token by its id."""
        found = self._database.rows(TokenRow, select(tables.api_tokens).where(tables.api_tokens.c.id == token_id))
        return found[0] if found else None

    def all(self) -> list[TokenRow]:
        """Return every token that is kept, the newest first."""
        table = tables.api_tokens
        found: list[TokenRow] = self._database.rows(TokenRow, select(table).order_by(table.c.made_at.desc(), table.c.id))
        return found

    def revoke(self, token_id: str) -> TokenRow | None:
        """Revoke a token, and return it as it is then; None where there is none. To revoke it again changes nothing."""
        table = tables.api_tokens
        with self._database.write() as db:
            open_one = update(table).where(table.c.id == token_id, table.c.revoked_at.is_(None))
            if db.execute(open_one.values(revoked_at=self._database.now())).rowcount:
                one = db.execute(select(table.c.name, table.c.expires_at).where(table.c.id == token_id)).one()
                before = {"state": "good" if one.expires_at > self._database.now() else "expired"}
                text = f"token {one.name} ({token_id}) was revoked"
                self._event(db, text, token_id, str(one.name), before=before, after={"state": "revoked"})
        return self.get(token_id)

    def _event(self, db: Connection, text: str, token_id: str, name: str, *, before: Side, after: Side) -> None:
        body = json.dumps({"token": token_id, "name": name, "before": before, "after": after})
        values = {"at": self._database.now(), "kind": "token", "text": text, "body": body, "actor": self._database.actor}
        db.execute(insert(tables.events).values(values))


class AskedOnce(NamedTuple):
    """Hold the command that a request has queued, and what was answered besides (JSON); None where an earlier hub queued it."""

    command: int
    besides: str | None


class ApiRequests:
    """Queue commands that were asked for over the API, each once for each key of a token."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def queue(
        self, model: str, command: Command | SetNodeSettings, *, token: str, key: str | None, digest: bytes, besides: str
    ) -> AskedOnce:
        """Queue a command for the hub, with what is to be answered besides; a request that is repeated gets what it had.

        Raises:
            Refused: REQUEST_REPEATED: the key was used for another request.
        """
        if isinstance(command, SetNodeSettings):
            kind, body = KIND, body_of_settings(command)
        else:
            kind, body = kind_of(command), body_of(command)
        values = {"at": self._database.now(), "model": model, "kind": kind, "body": body, "state": "open", "code": "", "text": ""}
        with self._database.alone() if key is not None else self._database.write() as db:
            if key is not None and (known := self._known(db, token, key, digest)) is not None:
                return known
            number = inserted(db, tables.commands, {**values, "actor": self._database.actor})
            if key is not None:
                at = self._database.now()
                values = {"token": token, "key": key, "at": at, "digest": digest, "command": number, "besides": besides}
                db.execute(insert(tables.api_requests).values(values))
        return AskedOnce(number, besides)

    def known(self, token: str, key: str, digest: bytes) -> AskedOnce | None:
        """Return what a request has queued; None where it is new.

        Raises:
            Refused: REQUEST_REPEATED: the key was used for another request.
        """
        with self._database.read() as db:
            return self._known(db, token, key, digest)

    def _known(self, db: Connection, token: str, key: str, digest: bytes) -> AskedOnce | None:
        table = tables.api_requests.c
        query = select(table.digest, table.command, table.besides).where(table.token == token, table.key == key)
        found = db.execute(query).first()
        if found is None:
            return None
        if found.digest != digest:
            raise Refused(Code.REQUEST_REPEATED, REPEATED.format(key=key))
        return AskedOnce(int(found.command), found.besides)
