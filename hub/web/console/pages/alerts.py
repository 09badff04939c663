"""Show alerts, the open ones first, each with the receivers that it went to."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fleetcast.counted import counted as number_of
from hub.database.rows import AlertRow
from hub.operations.alert_states import WEEK_SECONDS, deliveries_of, is_open
from hub.web.console.moments import moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.fleet import matter_row
from hub.web.console.pages.matters import matters
from hub.web.console.pages.nodes import limit_of
from hub.web.console.sentence import path
from hub.web.pages import CURSOR_CHARACTERS_MAX, cursor_of, key_of, newest
from schemas.errors import Code, Refused

OPEN_MAX: Final = 50
PAGE: Final = 200
SCAN_MAX: Final = 2000  # Alerts that one page looks through for those in the state that was asked for.
STATES: Final = ("open", "ended", "all")
SHAPES: Final = {
    "drift": "refused",
    "refused": "refused",
    "rollout_halted": "refused",
    "node_silent": "unreachable",
    "key_expiring": "expired",
}


def load(view: View) -> Answer:
    """Return a page of alerts."""
    state, limit = view.query.get("state", "all"), limit_of(view.query)
    if state not in STATES:
        raise Refused(Code.REQUEST_INVALID, f"state is one of {', '.join(STATES)}, not {state[:20]!r}")
    before = before_of(view.query)
    now_open = view.shared.get(("open alerts", view.snapshot.at), lambda: frozenset(matters_of(view)), seconds=2.0)
    rows, more = newest(
        before,
        limit,
        read=view.fleet.store.alerts_before,
        wanted=lambda row: state == "all" or is_open(row.alert, now_open) == (state == "open"),
        scan_max=SCAN_MAX,
        at_once=PAGE,
    )
    told = deliveries_of(view.fleet.store.database, [row.id for row in rows])
    ended = _ended_lately(view, now_open)
    opened = matters(view)
    count = len(opened)
    kept = {name: view.query.get(name) for name in ("state", "limit")}
    return Answer(
        _sentence(count, ended),
        "fleetcast watch --history --kind alert",
        {
            "rows": [_row(row, now_open, told, view.now) for row in _open_first(rows, now_open)],
            "state": state,
            "states": [(one, path("alerts", state=one)) for one in STATES],
            "next": path("alerts", **kept, cursor=cursor_of([rows[-1].id])) if more and rows else "",
            "first_page": path("alerts", **kept) if before is not None else "",
            "opened": [matter_row(view, one) for one in opened[:OPEN_MAX]],
            "left_out": max(0, count - OPEN_MAX),
        },
        title="alerts",
        cli_besides="" if state == "all" else "other alerts",
        needs=count,
    )


def matters_of(view: View) -> list[tuple[str, str, str]]:
    """Return what is open now: the kind, and the node or the model and cohort that it is about."""
    found: list[tuple[str, str, str]] = []
    for one in matters(view):
        if one.name == "drifts":
            found.append(("drift", f"{one.stream['model']}@{one.stream['version']}", one.stream["cohort"]))
        elif one.name == "troubles":
            found.append(("refused", "", one.trouble["code"]))
        else:
            kind = "node_silent" if one.name == "unreachable" else "refused"
            found += [(kind, line.node.name, "") for line in one.lines]
    return found


def _sentence(count: int, ended: int) -> str:
    lately = f"{number_of(ended, 'alert')} ended in the last 7 days."
    return f"{count} {'thing is' if count == 1 else 'things are'} open. {lately}" if count else f"Nothing is open. {lately}"


def before_of(query: Mapping[str, str]) -> int | None:
    """Return the number before which a page of a list begins, newest first; None where it is the first page.

    Raises:
        Refused: REQUEST_INVALID: this list has not given such a cursor.
    """
    cursor = query.get("cursor")
    if cursor is None:
        return None
    if len(cursor) > CURSOR_CHARACTERS_MAX:
        raise Refused(Code.REQUEST_INVALID, "cursor is not one that this list has given: begin without one")
    return int(key_of(cursor, [int])[0])


def _open_first(rows: Sequence[AlertRow], now_open: frozenset[Any]) -> list[AlertRow]:
    return sorted(rows, key=lambda row: not is_open(row.alert, now_open))


def _ended_lately(view: View, now_open: frozenset[Any]) -> int:
    def read() -> int:
        rows = [row.alert for row in view.fleet.store.alerts_before(None, 1000)]
        return sum(one.at >= view.now - WEEK_SECONDS and not is_open(one, now_open) and one.kind != "drift_over" for one in rows)

    return view.shared.get(("ended alerts", now_open), read, seconds=10.0)


def _row(row: AlertRow, now_open: frozenset[Any], told: Mapping[int, Sequence[str]], now: int) -> dict[str, Any]:
    one = row.alert
    return {
        "id": row.id,
        "is_open": is_open(one, now_open),
        "kind": one.kind.replace("_", " "),
        "shape": SHAPES.get(one.kind, ""),
        "text": one.text,
        "code": one.code,
        "at": moment(one.at, now),
        "since": moment(one.since, now) if one.since is not None else "",
        "address": _address(one),
        "told": told.get(row.id, ()),
        "actor": one.actor or "",
    }


def _address(one: Any) -> str:
    if one.kind in {"drift", "drift_over"} and one.model and one.version and one.cohort:
        return path("drift", one.model, one.version, one.cohort)
    if one.node:
        return path("nodes", one.node)
    return path("models", one.model) if one.model else ""


PAGES: Final = (Page("/alerts", "alerts.html", load, "Alerts", frozenset({"state", "cursor", "limit"})),)
