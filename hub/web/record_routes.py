"""Show what was recorded: drift, alerts, events, and changes with their actors."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute

from hub.database.drift_queries import Findings
from hub.database.rows import EventRow
from hub.operations import csv_exports
from hub.operations.drift_rows import drift_of
from hub.operations.drift_story import Question, story_of, story_row
from hub.operations.events import event_row
from hub.operations.opened_fleet import check_model
from hub.service.rollouts.release_lookup import Releases
from hub.web import documents
from hub.web.csv_answers import TABLE, Format, csv_answer, wants_csv
from hub.web.drift_documents import DriftExplained, ExplainDrift
from hub.web.pages import cursor_of, ended, key_of
from hub.web.parameters import Cursor, Fleet, Limit, ModelFilter

SCAN_MAX = 10_000  # Changes that one page looks through for those that were asked for.


def router(route_class: type[APIRoute]) -> APIRouter:
    """Return the routes of records."""
    api = APIRouter(route_class=route_class)

    @api.get("/drift", response_model=documents.Page[documents.DriftShown], responses=TABLE, tags=["drift"])
    def drift(request: Request, fleet: Fleet, model: ModelFilter = None, cohort: ModelFilter = None, format: Format = None) -> Any:
        """List what is tested for drift, lasting alarms first."""
        if model is not None:
            check_model(fleet.repository, model)
        if wants_csv(request, format):
            return csv_answer(csv_exports.drift(fleet, model, cohort))
        rows = drift_of(fleet, model, cohort)
        return {"items": rows, "total": len(rows)}

    @api.post("/drift/explanation", response_model=DriftExplained, tags=["drift"])
    def explanation(fleet: Fleet, wish: ExplainDrift) -> Any:
        """Show the counts of a stream beside its reference, signal by signal. Nothing is changed."""
        check_model(fleet.repository, wish.model)
        question = Question(wish.model, wish.version or "", wish.cohort, tuple(wish.signals), wish.at)
        findings, releases = Findings(fleet.store.database), Releases(fleet.repository, fleet.blocks)
        return story_row(story_of(findings, releases, question, cohort_nodes_min=fleet.settings.cohort_nodes_min))

    @api.get("/alerts", response_model=documents.Page[documents.AlertShown], tags=["alerts"])
    def alerts(fleet: Fleet, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List the alerts, the newest first."""
        before = key_of(cursor, [int])[0] if cursor is not None else None
        found = ended(fleet.store.alerts_before(before, limit + 1), lambda row: cursor_of([row.id]), limit=limit)
        return {**found, "items": [_alert(row.id, row.alert) for row in found["items"]]}

    @api.get("/events", response_model=documents.Page[documents.EventShown], tags=["events"])
    def events(fleet: Fleet, after: Annotated[int, Query(ge=0, lt=2**62)] = 0, limit: Limit = 50, cursor: Cursor = None) -> Any:
        """List events, the oldest first: those with an id above `after`."""
        at = key_of(cursor, [int])[0] if cursor is not None else after
        found = ended(fleet.store.events(at, limit + 1), lambda row: cursor_of([row.id]), limit=limit)
        return {**found, "items": [event_row(row) for row in found["items"]]}

    @api.get("/audit", response_model=documents.Page[documents.ChangeShown], responses=TABLE, tags=["audit"])
    def audit(
        request: Request,
        fleet: Fleet,
        actor: Annotated[str | None, Query(max_length=64)] = None,
        model: ModelFilter = None,
        node: ModelFilter = None,
        since: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
        format: Format = None,
    ) -> Any:
        """List the changes of the fleet, the newest first, each with its actor. A page may have few rows and still name a next one."""
        wanted = partial(_is_wanted, actor=actor, model=model, node=node)
        if wants_csv(request, format):
            return csv_answer(csv_exports.changes(fleet, wanted, since=since))
        before = key_of(cursor, [int])[0] if cursor is not None else None
        rows, scanned = list[dict[str, Any]](), 0
        while len(rows) <= limit and scanned < SCAN_MAX:
            changes = fleet.store.changes(since=since, limit=1000, before_id=before)
            for one in changes:
                before, scanned = one.id, scanned + 1
                if wanted(one):
                    rows.append(_change(one))
                    if len(rows) > limit:
                        break
            if len(changes) < 1000 and len(rows) <= limit:
                return ended(rows, lambda row: "", limit=limit)
        if len(rows) > limit:
            return ended(rows, lambda row: cursor_of([row["id"]]), limit=limit)
        return {"items": rows, "next": cursor_of([before or 0])}

    return api


def _is_wanted(one: EventRow, *, actor: str | None, model: str | None, node: str | None) -> bool:
    nodes = {one.body.get("node"), one.body.get("name"), *one.body.get("nodes", ())}
    return actor in {None, one.actor} and model in {None, one.body.get("model")} and (node is None or node in nodes)


def _alert(number: int, alert: Any) -> dict[str, Any]:
    moments: Callable[[int | None], str | None] = lambda at: None if at is None else datetime.fromtimestamp(at, UTC).isoformat()  # noqa: E731
    named = {name: getattr(alert, name) for name in ("kind", "model", "version", "cohort", "node", "code", "text", "actor")}
    return {"id": number, "at": moments(alert.at), "since": moments(alert.since), "signals": [one.name for one in alert.signals], **named}


def _change(event: Any) -> dict[str, Any]:
    named = {name: event.body.get(name) for name in ("model", "version", "serial", "rollout", "node", "before", "after", "reason", "why")}
    at = datetime.fromtimestamp(event.at, UTC).isoformat()
    return {"id": event.id, "at": at, "actor": event.actor, "kind": event.kind, "what": event.text, **named}
