"""Say who changed last what a question is about, so that a form that is sent twice says that the first one was obeyed."""

from typing import Final

from fleetcast.sentence_end import ended
from hub.database.connection import HUB_ACTOR
from hub.database.rows import EventRow
from hub.web.console.moments import moment
from hub.web.console.page import View
from schemas.errors import FleetcastError

LOOKED_THROUGH_MAX: Final = 200  # Changes of the fleet, the newest first.


def last_change(view: View) -> str:
    """Return the sentence of a person's last change of what a question's address names; "" where none is among the newest."""
    me = view.session.actor if view.session is not None else ""
    for row in view.fleet.store.changes(limit=LOOKED_THROUGH_MAX):
        if row.actor not in {None, HUB_ACTOR} and _is_about(view, row):  # What the hub went on to do by itself is on the page already.
            who = "You" if row.actor == me else f"{row.actor}"
            return ended(f"{who} changed it last, at {moment(row.at, view.now)}: {row.text}")
    return ""


def _is_about(view: View, row: EventRow) -> bool:
    body, params = row.body, view.params
    nodes = {body.get("node"), body.get("name"), *(body.get("nodes") or ())}
    if "token" in params:
        return row.kind == "token" and body.get("token") == params["token"]
    if "node" in params:
        is_hold = row.kind == "rollout" and body.get("model") == params.get("model")
        return is_hold or (row.kind in {"device", "certificate", "enrolment"} and params["node"] in nodes)
    if "where" in view.query and "model" not in params:
        return row.kind == "device" and not nodes.isdisjoint(_matched(view))
    if "cohort" in params:
        return row.kind == "drift" and all(body.get(name) == params[name] for name in ("model", "version", "cohort"))
    return row.kind == "rollout" and all(body.get(name) == params[name] for name in ("model", "deployment") if name in params)


def _matched(view: View) -> set[str]:
    try:
        return {name for _, name in view.snapshot.nodes(view.query["where"], "node")[0]}
    except FleetcastError:
        return set()
