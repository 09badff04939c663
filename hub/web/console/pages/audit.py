"""Answer who did what: changes of the fleet, the newest first."""

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from hub.database.rows import EventRow
from hub.operations import csv_exports
from hub.operations.csv_exports import Table
from hub.web.console.moments import moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.alerts import before_of
from hub.web.console.pages.nodes import limit_of
from hub.web.console.sentence import path
from hub.web.pages import cursor_of, newest
from schemas.errors import Code, Refused

SCAN_MAX: Final = 10_000
PAGE: Final = 500
TEXT_MAX: Final = 64
VALUE: Final = r"[A-Za-z0-9._-]{1,63}"  # What a selector can hold: not `token:ci`.
FILTERS: Final = ("actor", "model", "node", "kind")


def load(view: View) -> Answer:
    """Return a page of changes."""
    asked = _asked(view)
    limit, before = limit_of(view.query), before_of(view.query)
    rows, more = newest(
        before,
        limit,
        read=lambda before, size: view.fleet.store.changes(limit=size, before_id=before),
        wanted=lambda row: _matches(row, asked),
        scan_max=SCAN_MAX,
        at_once=PAGE,
    )
    kept = {**{name: view.query.get(name) for name in FILTERS}, "limit": view.query.get("limit")}
    chips = [(f"{name} {text}", path("audit", **{**kept, name: None})) for name, text in asked.items()]
    return Answer(
        _sentence(asked),
        _cli(asked),
        {
            "rows": [_row(one, view.now) for one in rows],
            "chips": chips,
            "next": path("audit", **kept, cursor=cursor_of([rows[-1].id])) if more and rows else "",
            "first_page": path("audit", **kept) if before is not None else "",
        },
        title="audit",
        cli_besides="" if _selected(asked) is not None else "other changes",
    )


def _selected(asked: Mapping[str, str]) -> str | None:
    """Return the selector of the rows that the options of `fleetcast history` do not choose; None where no selector can have them."""
    chosen = {name: text for name, text in asked.items() if name in {"actor", "kind"}}
    if not all(re.fullmatch(VALUE, text) for text in chosen.values()):
        return None
    return ",".join(f"{name}={text}" for name, text in chosen.items())


def _cli(asked: Mapping[str, str]) -> str:
    options = [word for name in ("model", "node") if name in asked for word in (f"--{name}", asked[name])]
    where = _selected(asked)
    return shlex.join(["fleetcast", "history", *options, *(["--where", where] if where else [])])


def table(view: View) -> Table:
    """Return all changes that are asked for."""
    asked = _asked(view)
    return csv_exports.changes(view.fleet, lambda row: _matches(row, asked))


def _asked(view: View) -> dict[str, str]:
    asked = {name: view.query[name] for name in FILTERS if view.query.get(name)}
    for name, text in asked.items():
        if len(text) > TEXT_MAX or not text.isprintable():
            raise Refused(Code.REQUEST_INVALID, f"{name} has at most {TEXT_MAX} printable characters")
    return asked


def _sentence(asked: Mapping[str, str]) -> str:
    if not asked:
        return "Who did what"
    return "Changes with " + ", ".join(f"{name} {text}" for name, text in asked.items())


def _matches(row: EventRow, asked: Mapping[str, str]) -> bool:
    nodes = {row.body.get("node"), row.body.get("name"), *row.body.get("nodes", ())}
    return (
        asked.get("actor") in {None, row.actor}
        and asked.get("kind") in {None, row.kind}
        and asked.get("model") in {None, row.body.get("model")}
        and ("node" not in asked or asked["node"] in nodes)
    )


def _row(row: EventRow, now: int) -> dict[str, Any]:
    body = row.body
    model, node, version = body.get("model"), body.get("node"), body.get("version")
    if model and version:
        what, address = f"{model} {version}", path("models", str(model), "releases", str(version))
    elif model:
        what, address = str(model), path("models", str(model))
    else:
        what, address = (str(node), path("nodes", str(node))) if node else ("", "")
    before, after = body.get("before"), body.get("after")
    return {
        "id": row.id,
        "at": moment(row.at, now),
        "actor": row.actor or "",
        "actor_at": path("audit", actor=row.actor) if row.actor else "",
        "kind": row.kind,
        "text": row.text,
        "object": what,
        "object_at": address,
        "change": _change(before, after),
        "reason": str(body.get("why") or body.get("reason") or ""),
    }


def _change(before: Any, after: Any) -> str:
    """Return `state running → done, percent 50 → 100`; a field on one side alone was not there on the other."""
    sides = [one for one in (before, after) if one is not None]
    if not sides:
        return ""
    if not all(isinstance(one, Mapping) for one in sides):
        return f"{_short(before)} → {_short(after)}"
    then, now = (one if one is not None else {} for one in (before, after))
    names = dict.fromkeys([*then, *now])
    changed = [name for name in names if _short(then.get(name)) != _short(now.get(name))]
    return ", ".join(f"{str(name).replace('_', ' ')} {_short(then.get(name))} → {_short(now.get(name))}" for name in changed)


def _short(value: Any) -> str:
    """Return a value in words, one level of it after another."""
    match value:
        case _ if value in (None, "", [], {}, ()):
            return "nothing"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return "; ".join(f"{str(name).replace('_', ' ')} {_short(one)}" for name, one in value.items())
        case list() | tuple():
            return ", ".join(_short(one) for one in value)
        case _:
            return str(value)


PAGES: Final = (Page("/audit", "audit.html", load, "Audit", frozenset({*FILTERS, "cursor", "limit"}), table=table),)
