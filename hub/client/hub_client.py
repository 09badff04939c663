"""Ask a hub, and have it do things: a method for each route of docs/api.md.

Rows are as the API answers with them (`hub/web/openapi.json`). A hub that is newer may add fields, so nothing here refuses one.
"""

import base64
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote

from hub.client.connection import CODES, YAML, Answer, Connection
from hub.client.events import Event, follow
from hub.client.place import HubPlace
from schemas.errors import Code, FleetcastError, Refused, Unreachable

Row = dict[str, Any]
Action = Literal["halt", "resume", "back", "approve", "retry"]
PAGE_ROWS: Final = 500
WAIT_SECONDS_MAX: Final = 30.0  # What a hub may be asked to wait in one request.
LOOK_SECONDS: Final = 0.5
KEY_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """Hold a row, and the ETag by which a change can say what it was based on."""

    row: Row
    etag: str | None


@dataclass(frozen=True, slots=True)
class Operation:
    """Hold what became of something that the hub was asked to do."""

    id: int
    kind: str
    model: str | None
    state: Literal["open", "done", "refused"]
    text: str = ""
    code: str = ""
    actor: str | None = None
    deployment: str | None = None  # Where the hub has checked it just now.
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class HubClient:
    """Ask one hub: every method raises `Refused` where the hub refuses, and `Unreachable` where it does not answer."""

    def __init__(self, place: HubPlace, *, connection: Connection | None = None) -> None:
        self.connection = connection or Connection(place)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    # What there is

    def token(self) -> Row:
        """Describe the token of this client: its name, role and expiry."""
        return self._row("/token")

    def fleet(self) -> Row:
        """Sum up the fleet."""
        return self._row("/fleet")

    def models(self) -> Iterator[Row]:
        """List the models."""
        return self.rows("/models")

    def releases(self, model: str) -> Iterator[Row]:
        """List the releases of a model."""
        return self.rows(f"/models/{_part(model)}/releases")

    def release(self, model: str, version: str) -> Row:
        """Describe a release."""
        return self._row(f"/models/{_part(model)}/releases/{_part(version)}")

    def release_bytes(self, model: str, version: str) -> Iterator[Row]:
        """List what a release has cost each node in bytes."""
        return self.rows(f"/models/{_part(model)}/releases/{_part(version)}/bytes")

    def day_bytes(self, day: str, by: str) -> Row:
        """Sum up what nodes have fetched on a day."""
        return _row(self.connection.request("GET", "/bytes", query={"day": day, "by": by}))

    def deployments(self, model: str) -> list[Row]:
        """List the deployments of a model, in the order in which they decide."""
        return list(self.rows(f"/models/{_part(model)}/deployments", pages=False))

    def deployment(self, model: str, deployment: str) -> Seen:
        """Describe a deployment."""
        return self._seen(f"/models/{_part(model)}/deployments/{_part(deployment)}")

    def rollouts(self, model: str | None = None, state: str | None = None) -> Iterator[Row]:
        """List the rollouts."""
        return self.rows("/rollouts", {"model": model, "state": state})

    def rollout(self, model: str, deployment: str = "default") -> Seen:
        """Describe a rollout."""
        return self._seen(_rollout(model, deployment))

    def rollout_nodes(self, model: str, deployment: str = "default", where: str | None = None) -> Iterator[Row]:
        """List the nodes of a rollout, each with its class and why."""
        return self.rows(f"{_rollout(model, deployment)}/nodes", {"where": where})

    def nodes(self, where: str | None = None, sort: str = "node") -> Iterator[Row]:
        """List the nodes that count."""
        return self.rows("/nodes", {"where": where, "sort": sort})

    def nodes_page(self, where: str | None, *, after: str, limit: int) -> tuple[list[Row], int]:
        """Return up to so many nodes by name, those behind `after`, and how many the selector matches."""
        query = {"where": where, "sort": "node", "after": after or None, "limit": min(limit, PAGE_ROWS)}
        first = _row(self.connection.request("GET", "/nodes", query=query))
        rows = list(islice(self.rows("/nodes", {**query, "limit": PAGE_ROWS}), limit)) if limit > PAGE_ROWS else list(first["items"])
        return rows, int(first.get("total") or 0)

    def node(self, node: str) -> Row:
        """Describe a node."""
        return self._row(f"/nodes/{_part(node)}")

    def node_settings(self, node: str) -> Seen:
        """Show what the hub sets of a node."""
        return self._seen(f"/nodes/{_part(node)}/settings")

    def drift(self, model: str | None = None, cohort: str | None = None) -> list[Row]:
        """List what is tested for drift, lasting alarms first."""
        return list(self.rows("/drift", {"model": model, "cohort": cohort}, pages=False))

    def explain_drift(self, wish: Mapping[str, Any]) -> Row:
        """Show the counts of a stream beside its reference; the fields are those of `ExplainDrift` in the API's description."""
        return _row(self.connection.request("POST", "/drift/explanation", body=wish, is_repeatable=True))

    def alerts(self) -> Iterator[Row]:
        """List the alerts, the newest first."""
        return self.rows("/alerts")

    def audit(
        self, *, actor: str | None = None, model: str | None = None, node: str | None = None, since: int | None = None
    ) -> Iterator[Row]:
        """List the changes of the fleet, the newest first."""
        return self.rows("/audit", {"actor": actor, "model": model, "node": node, "since": since})

    def events(self, after: int = 0) -> Iterator[Row]:
        """List events, the oldest first: those with an id above `after`."""
        return self.rows("/events", {"after": after})

    def follow(self, after: int | None = None) -> Iterator[Event]:
        """Yield events as they happen: those behind an id, or new ones. It goes on where the connection ended."""
        return follow(self.connection, after)

    def operation(self, number: int) -> Operation:
        """Return what became of an operation."""
        return _operation(self._row(f"/operations/{number}"))

    # What is done

    def start_rollout(
        self, wish: Mapping[str, Any], *, etag: str | None = None, wait_seconds: float = 10.0, key: str | None = None
    ) -> Operation:
        """Start a rollout; the fields are those of `StartRollout` in the API's description."""
        return self._change("POST", "/rollouts", wish, etag=etag, wait_seconds=wait_seconds, key=key)

    def act(
        self, action: Action, model: str, deployment: str = "default", *, etag: str | None = None, wait_seconds: float = 10.0
    ) -> Operation:
        """Halt, resume, take back, approve or retry a rollout."""
        return self._change("POST", f"{_rollout(model, deployment)}/{action}", None, etag=etag, wait_seconds=wait_seconds)

    def set_parameters(
        self, model: str, deployment: str, wish: Mapping[str, Any], *, etag: str | None = None, wait_seconds: float = 10.0
    ) -> Operation:
        """Change parameters of a release that is rolled out."""
        return self._change("PATCH", f"{_rollout(model, deployment)}/parameters", wish, etag=etag, wait_seconds=wait_seconds)

    def set_deployment(
        self, model: str, deployment: str, wish: Mapping[str, Any], *, etag: str | None = None, wait_seconds: float = 10.0
    ) -> Operation:
        """Make a deployment, or change it."""
        path = f"/models/{_part(model)}/deployments/{_part(deployment)}"
        return self._change("PUT", path, wish, etag=etag, wait_seconds=wait_seconds)

    def remove_deployment(
        self,
        model: str,
        deployment: str,
        *,
        breaking: bool = False,
        supersede: bool = False,
        etag: str | None = None,
        wait_seconds: float = 10.0,
    ) -> Operation:
        """Remove a deployment."""
        path = f"/models/{_part(model)}/deployments/{_part(deployment)}"
        query = {name: "true" for name, is_given in (("breaking", breaking), ("supersede", supersede)) if is_given}
        return self._change("DELETE", path, None, query=query, etag=etag, wait_seconds=wait_seconds)

    def set_node_settings(self, node: str, wish: Mapping[str, Any], *, etag: str | None = None, wait_seconds: float = 10.0) -> Operation:
        """Change what the hub sets of a node."""
        return self._change("PATCH", f"/nodes/{_part(node)}/settings", wish, etag=etag, wait_seconds=wait_seconds)

    def set_settings_of_nodes(self, wish: Mapping[str, Any], *, wait_seconds: float = 10.0) -> Operation:
        """Change what the hub sets of all nodes that a selector matches."""
        return self._change("POST", "/node-settings", wish, wait_seconds=wait_seconds)

    def settings_effect(self, wish: Mapping[str, Any]) -> Row:
        """Say what a change of settings would do, before it is made."""
        return _row(self.connection.request("POST", "/node-settings/effect", body=wish, is_repeatable=True))

    def forget_node(self, node: str) -> Row:
        """Forget a node that is gone for good."""
        return _row(self.connection.request("DELETE", f"/nodes/{_part(node)}", is_repeatable=True))

    def replace_node(self, node: str, *, fingerprint: bytes | None = None, hours: int = 24) -> Row:
        """Let new hardware in by a node's name. It is not repeated: each answer may have a token of its own."""
        wish = {"hours": hours, **({"fingerprint": fingerprint.hex()} if fingerprint is not None else {})}
        return _row(self.connection.request("POST", f"/nodes/{_part(node)}/replacement", body=wish))

    def make_enrolment_tokens(self, wish: Mapping[str, Any]) -> Row:
        """Make tokens for new devices; the fields are those of `MakeEnrolmentTokens` in the API's description. It is not repeated."""
        return _row(self.connection.request("POST", "/enrolment-tokens", body=wish))

    def wait_for(self, operation: Operation, seconds: float, *, monotonic: Callable[[], float] = time.monotonic) -> Operation:
        """Return an operation once the hub has obeyed, or as it is when the time is over.

        Raises:
            Refused: the hub has refused it.
        """
        until = monotonic() + seconds
        found = operation
        while found.state == "open" and monotonic() < until:
            time.sleep(LOOK_SECONDS)
            found = self.operation(operation.id)
        return _obeyed(found)

    # Tokens

    def tokens(self) -> Iterator[Row]:
        """List the tokens, the newest first, without what would let anybody use them."""
        return self.rows("/tokens", pages=False)

    def make_token(self, name: str, role: str, *, days: int) -> Row:
        """Make a token, and return it: it is shown in this answer only. The request is not repeated."""
        return _row(self.connection.request("POST", "/tokens", body={"name": name, "role": role, "days": days}))

    def revoke_token(self, token: str) -> Row:
        """Revoke a token by its id."""
        return _row(self.connection.request("DELETE", f"/tokens/{_part(token)}", is_repeatable=True))

    # Blueprints

    def blueprint(self) -> Row:
        """Say which blueprint is in force, and whether the fleet is as it says."""
        return self._row("/blueprint")

    def blueprint_text(self, revision: int | None = None) -> str:
        """Return a blueprint of what is now, or a revision as it was applied."""
        return str(self._row(f"/blueprint/revisions/{revision}" if revision is not None else "/blueprint/present")["blueprint"])

    def blueprint_revisions(self) -> Iterator[Row]:
        """List the blueprints that were applied, the newest first."""
        return self.rows("/blueprint/revisions")

    def blueprint_diff(self, text: bytes | None = None, *, revision: int | None = None, name: str | None = None, **insisted: bool) -> Row:
        """Say what applying a blueprint would change; the one in force, where none is given."""
        query = {"revision": revision, "name": name, **_true(insisted)}
        return _row(self.connection.request("POST", "/blueprint/diff", query=query, raw=text, raw_kind=YAML, is_repeatable=True))

    def apply_blueprint(
        self,
        text: bytes | None = None,
        *,
        revision: int | None = None,
        name: str | None = None,
        seen: str | None = None,
        report: Callable[[Row], None] = lambda done: None,
        **insisted: bool,
    ) -> Row:
        """Apply a blueprint, and return how it ended; `report` is called with each change that was made.

        Raises:
            Refused: something speaks against it; what came before is done.
            Unreachable: the hub does not answer. To apply again goes on where it was.
        """
        query = {"revision": revision, "name": name, "seen": seen, "wait": 1, **_true(insisted)}
        found, shown = _row(self.connection.request("POST", "/blueprint/applications", query=query, raw=text, raw_kind=YAML)), 0
        while True:
            for one in found["done"][shown:]:
                report(one)
            shown = len(found["done"])
            if found["state"] == "refused":
                code = str(found["code"])
                raise Unreachable(str(found["text"])) if code == "hub.failed" else refusal(code, str(found["text"]))
            if found["state"] != "applying":
                return found
            time.sleep(LOOK_SECONDS)
            found = self._row(f"/blueprint/applications/{_part(str(found['id']))}")

    # Publishing what was signed here

    def plan(self, wish: Mapping[str, Any]) -> Row:
        """Say what a rollout would cost; the fields are those of `PlanRollout` in the API's description."""
        return _row(self.connection.request("POST", "/plan", body=wish, is_repeatable=True))

    def publishing(self, model: str) -> Row:
        """Show what a publisher needs to build and sign the next release of a model."""
        return self._row(f"/models/{_part(model)}/publishing")

    def manifest(self, model: str, version: str) -> bytes:
        """Return the signed manifest of a release."""
        path = f"/models/{_part(model)}/releases/{_part(version)}/manifest"
        return _bytes(self.connection.request("GET", path, is_binary=True))

    def payload(self, digest: bytes) -> bytes:
        """Return a payload of a release; the caller checks its digest."""
        return _bytes(self.connection.request("GET", f"/payloads/{digest.hex()}", is_binary=True))

    def begin_publication(self, model: str, version: str, manifest: bytes) -> Row:
        """Begin to publish a release, or go on with it."""
        wish = {"model": model, "version": version, "manifest": base64.b64encode(manifest).decode()}
        return _row(self.connection.request("POST", "/publications", body=wish, is_repeatable=True))

    def publication(self, number: str) -> Row:
        """Show a publication."""
        return self._row(f"/publications/{_part(number)}")

    def send_payload(self, number: str, digest: bytes, data: bytes) -> None:
        """Store a payload at the hub: it is durable there on return."""
        self.connection.request("PUT", f"/publications/{_part(number)}/payloads/{digest.hex()}", raw=data, is_repeatable=True)

    def finish_publication(self, number: str, role: bytes, *, breaking: bool = False, seconds_max: float = 3600.0) -> Row:
        """Publish by the signed role, and wait until the hub has stored all of it.

        Raises:
            Refused: the hub has refused it.
            Unreachable: it is not done in this time.
        """
        path, query = f"/publications/{_part(number)}/release", {"wait": WAIT_SECONDS_MAX, **({"breaking": "true"} if breaking else {})}
        found = _row(self.connection.request("POST", path, query=query, raw=role, is_repeatable=True))
        until = time.monotonic() + seconds_max
        while found.get("state") == "storing" and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            found = self.publication(number)
        if found.get("state") == "refused":
            raise refusal(str(found.get("code")), str(found.get("text")))
        if found.get("state") != "done":
            raise Unreachable("the hub has not stored the whole release in time; publish again, and it goes on")
        return found

    def removal(self, model: str, version: str | None = None) -> Row:
        """Say what removing a release would do, or a model with all its releases."""
        return self._row(_removal(model, version))

    def remove(self, model: str, version: str | None, role: bytes, *, force: bool = False) -> Row:
        """Remove it by a role that was signed here."""
        query = {"force": "true"} if force else {}
        return _row(self.connection.request("POST", _removal(model, version), query=query, raw=role))

    # How

    def rows(self, path: str, query: Mapping[str, object] | None = None, *, pages: bool = True) -> Iterator[Row]:
        """Yield the rows of a list, page after page."""
        asked: dict[str, object] = {**(query or {}), **({"limit": PAGE_ROWS} if pages else {})}
        seen = set[str]()
        while True:
            found = _row(self.connection.request("GET", path, query=asked))
            items, cursor = found.get("items"), found.get("next")
            if not isinstance(items, list):
                raise Unreachable(f"{self.connection.place.url} answered {path} with what is no list")
            yield from items
            if not isinstance(cursor, str):
                return
            if cursor in seen:
                raise Unreachable(f"{self.connection.place.url} answered {path} with a page for the second time")
            seen.add(cursor)
            asked["cursor"] = cursor

    def _row(self, path: str) -> Row:
        return _row(self.connection.request("GET", path))

    def _seen(self, path: str) -> Seen:
        answer = self.connection.request("GET", path)
        return Seen(_row(answer), answer.etag)

    def _change(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        query: Mapping[str, object] | None = None,
        etag: str | None = None,
        wait_seconds: float,
        key: str | None = None,
    ) -> Operation:
        """Have the hub do something, once: it is repeated with one key until an answer comes."""
        headers = {"idempotency-key": key or secrets.token_hex(KEY_BYTES), **({"if-match": etag} if etag is not None else {})}
        asked = {**(query or {}), "wait": min(wait_seconds, WAIT_SECONDS_MAX)}
        answer = self.connection.request(method, path, query=asked, body=body, headers=headers, is_repeatable=True)
        found = _operation(_row(answer))
        return self.wait_for(found, wait_seconds - WAIT_SECONDS_MAX) if wait_seconds > WAIT_SECONDS_MAX else _obeyed(found)


def _part(name: str) -> str:
    """Return a name as a part of a path.

    Raises:
        Refused: NAME_INVALID: no name is empty, or leads to another resource.
    """
    if name in {"", ".", ".."}:
        raise Refused(Code.NAME_INVALID, f"{name!r} is no name")
    return quote(name, safe="")


def _removal(model: str, version: str | None) -> str:
    return f"/models/{_part(model)}/removal" if version is None else f"/models/{_part(model)}/releases/{_part(version)}/removal"


def _true(options: Mapping[str, bool]) -> dict[str, str]:
    return {name: "true" for name, is_given in options.items() if is_given}


def _rollout(model: str, deployment: str) -> str:
    return f"/rollouts/{_part(model)}/{_part(deployment)}"


def _row(answer: Answer) -> Row:
    if not isinstance(answer.value, dict):
        raise Unreachable("the hub answered with what is no object")
    return answer.value


def _operation(row: Row) -> Operation:
    try:
        return Operation(
            id=int(row["id"]),
            kind=str(row["kind"]),
            model=row["model"],
            state=row["state"],
            text=str(row["text"]),
            code=str(row["code"]),
            actor=row.get("actor"),
            deployment=row.get("deployment"),
            warnings=tuple(row.get("warnings", ())),
            notes=tuple(row.get("notes", ())),
        )
    except (KeyError, TypeError, ValueError):
        raise Unreachable("the hub answered with what is no operation") from None


def _bytes(answer: Answer) -> bytes:
    if not isinstance(answer.value, bytes):
        raise Unreachable("the hub answered with what is not binary")
    return answer.value


def _obeyed(operation: Operation) -> Operation:
    if operation.state == "refused":
        raise refusal(operation.code, operation.text)
    return operation


def refusal(code: str, text: str) -> FleetcastError:
    """Return what a hub has refused as our own error."""
    return Refused(Code(code) if code in CODES else Code.REQUEST_INVALID, text)
