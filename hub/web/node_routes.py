"""Show nodes and what the hub sets of them, change that, and forget nodes."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute

from fleetcast.counted import counted, verb
from hub.core.nodes import device_settings
from hub.operations import csv_exports, forgetting
from hub.operations.node_changes import document_of, effect_of, effect_row, settings_row
from hub.operations.nodes_shown import node_shown, nodes_shown
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.snapshot import Snapshots
from hub.web import documents
from hub.web.csv_answers import TABLE, Format, csv_answer, wants_csv
from hub.web.operations import Queued, do, matched, without_none
from hub.web.pages import cursor_of, ended, key_of
from hub.web.parameters import ACCEPTED, WAIT_SECONDS, Cursor, Fleet, IfMatch, Key, Limit, Name, Wait, Where, etag
from schemas.errors import Code, Refused


def router(route_class: type[APIRoute], snapshots: Snapshots) -> APIRouter:
    """Return the routes of nodes."""
    api = APIRouter(route_class=route_class)

    @api.get("/nodes", response_model=documents.Page[documents.NodeShown], responses=TABLE, tags=["nodes"])
    def nodes(
        request: Request,
        fleet: Fleet,
        where: Where = None,
        sort: Annotated[str, Query(max_length=20, pattern="^(node|state|last_seen|-last_seen)$")] = "node",
        after: Annotated[str | None, Query(max_length=64, description="With the order `node`: names behind this one.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
        format: Format = None,
    ) -> Any:
        """List the nodes that count. In `where` the key `state` is the class; by `state` those come first that need somebody most."""
        seen = snapshots.get(fleet)
        keys, _ = seen.nodes(where, sort)
        if wants_csv(request, format):
            return csv_answer(csv_exports.nodes(fleet, seen, [name for _, name in keys]))
        last = key_of(cursor, [str, int, str]) if cursor is not None else None
        if last is not None and last[0] != sort:
            raise Refused(Code.REQUEST_INVALID, f"cursor is of a list in the order {last[0][:20]!r}: begin without one")
        if after is not None and sort != "node":
            raise Refused(Code.REQUEST_INVALID, "`after` goes with the order `node`: in others, send `next` as `cursor`")
        behind = (last[1], last[2]) if last is not None else (0, after) if after is not None else None
        left = keys if behind is None else [key for key in keys if key > behind]
        found = ended(left[: limit + 1], lambda key: cursor_of([sort, *key]), limit=limit, total=len(keys))
        return {**found, "items": nodes_shown(fleet, seen, [name for _, name in found["items"]])}

    @api.get("/nodes/{node}", response_model=documents.NodeShown, tags=["nodes"])
    def node(fleet: Fleet, node: Name) -> Any:
        """Describe a node: what it serves, what is wrong with it, and how far it has come in each deployment."""
        return node_shown(fleet, snapshots.get(fleet), node)

    @api.get("/nodes/{node}/settings", response_model=documents.SettingsShown, tags=["nodes"])
    def settings(fleet: Fleet, response: Response, node: Name) -> Any:
        """Show what the hub sets of a node, and what of it is in force there. The ETag is the serial of its settings."""
        found = settings_row(fleet, node)
        response.headers["etag"] = etag(found["serial"])
        return found

    @api.patch("/nodes/{node}/settings", response_model=documents.OperationShown, responses=ACCEPTED, tags=["nodes"])
    async def set_settings(
        request: Request,
        fleet: Fleet,
        node: Name,
        wish: documents.ChangeSettings,
        wait: Wait = WAIT_SECONDS,
        if_match: IfMatch = None,
        idempotency_key: Key = None,
    ) -> Any:
        """Change what the hub sets of a node: labels, cohort, telemetry, display name, budgets."""

        def work() -> Queued:
            forgetting.check_known(fleet, node)
            document = document_of(fleet.repository, node)
            serial = matched(f"settings of node {node}", document.serial if document is not None else 0, if_match)
            return _settings(fleet, {"node": node, **_changes(wish), **({"if_serial": serial} if serial is not None else {})})

        return await do(request, fleet, wait, work)

    @api.post("/node-settings", response_model=documents.OperationShown, responses=ACCEPTED, tags=["nodes"])
    async def set_settings_of_nodes(
        request: Request, fleet: Fleet, wish: documents.ChangeSettingsOfNodes, wait: Wait = WAIT_SECONDS, idempotency_key: Key = None
    ) -> Any:
        """Change what the hub sets of all nodes that a selector matches."""
        return await do(request, fleet, wait, lambda: _settings(fleet, _changes(wish)))

    @api.post("/node-settings/effect", response_model=documents.EffectShown, tags=["nodes"])
    def effect(fleet: Fleet, wish: documents.PreviewSettings) -> Any:
        """Say what a change of settings would do: to which nodes, and for which of them another deployment would decide."""
        if (wish.node is None) == (wish.where is None):
            raise Refused(Code.REQUEST_INVALID, "give node or where, and not both")
        found = effect_of(fleet, device_settings.read(json.dumps(_changes(wish))))
        moves = [effect_row(model, one) for model, mine in found.moves.items() for one in mine]
        return {"nodes": found.nodes, "known": found.known, "keep_labels": found.keep_labels, "moves": moves}

    @api.delete("/nodes/{node}", response_model=documents.Forgotten, tags=["nodes"])
    def forget(fleet: Fleet, node: Name) -> Any:
        """Forget a node that is gone for good. It leaves every list, and its certificates are revoked."""
        found = forgetting.forget(fleet, node)
        return {"node": node, "certificates_revoked": found.certificates, "tokens_withdrawn": found.tokens}

    return api


def _changes(wish: documents.ChangeSettings) -> dict[str, Any]:
    budgets = {link: without_none(one) for link, one in wish.budgets.items()}
    found = {**wish.model_dump(mode="json"), "budgets": budgets, "breaking": wish.breaking or None}
    return {name: value for name, value in found.items() if value is not None and value not in ([], {})}


def _settings(fleet: OpenedFleet, given: Mapping[str, Any]) -> Queued:
    wish = device_settings.read(json.dumps(given))
    if not (wish.labels or wish.unset or wish.budgets or any(getattr(wish, name) is not None for name in device_settings.SCALARS)):
        raise Refused(Code.SETTINGS_INVALID, "there is nothing to set: give at least one setting, or one in `unset`")
    effect = effect_of(fleet, wish)
    notes = [f"this changes the settings of {len(effect.nodes)} of {counted(effect.known, 'node')}"]
    count = len(effect.keep_labels)
    whose = "its own file" if count == 1 else "their own files"
    keep = [f"{counted(count, 'node')} {verb(count, 'accept')} no labels from the hub, by {whose}"] if count else []
    return Queued("", wish, keep, notes)
