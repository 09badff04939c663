"""Answer whether we paid what we planned: bytes planned against spent, by class of link, by release and by site."""

import shlex
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, Final, get_args

from fleetcast.counted import counted as number_of
from hub.operations import byte_sums, csv_exports
from hub.operations.byte_sums import DAY, By, Day, Sum, of_day, sums, total
from hub.operations.csv_exports import Table
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.node_words import megabytes
from hub.web.console.sentence import path
from hub.web.pictures.bullet import planned_and_spent
from schemas.errors import Code, Refused
from schemas.state import LinkClass

SECONDS: Final = 5.0
ROWS_MAX: Final = 100
DAYS_MAX: Final = 4  # Days whose transfers are kept in memory.
FILTERS: Final = ("link", "release", "site")
KINDS: Final[tuple[By, ...]] = get_args(By)
ADDS_UP: Final = "Planned is received, reused and missing; wasted comes on top."
NAMES: Final = {"link": "class of link", "release": "release", "site": "site", "node": "node"}


def load(view: View) -> Answer:
    """Return the bytes of a day."""
    day, by = _day(view), _by(view)
    is_today = byte_sums.begin_of(day) <= view.now < byte_sums.begin_of(day) + DAY
    found = day_of(view, day)
    every = total("all", found.transfers)
    links = {one.name: one for one in sums(found.transfers, "link")}
    shown = [links.get(name, Sum(name, 0, 0, 0, 0, 0)) for name in get_args(LinkClass)]
    shown += [one for name, one in links.items() if name not in get_args(LinkClass)]
    only = {name: view.query[name] for name in FILTERS if name in view.query}
    chosen = [one for one in found.transfers if all(getattr(one, name) == text for name, text in only.items())]
    rows = sums(chosen, by)
    full = max((max(one.planned, one.received) for one in shown), default=0)
    out = _out_of_budget(view) if is_today else []
    return Answer(
        _sentence(every, day, is_today=is_today),
        shlex.join(["fleetcast", "bytes", *([] if is_today else ["--day", day.isoformat()]), "--by", by]),
        {
            "links": [{**_row(one, full), "nodes_at": _nodes_at(day, {"link": one.name})} for one in shown],
            "chips": _chips(day, by, only),
            "every": _row(every, 0),
            "by": by,
            "kinds": [(kind, NAMES[kind], path("bytes", day=day.isoformat(), by=kind, **only)) for kind in KINDS],
            "rows": [
                {**_named(view, one, by), "nodes_at": _nodes_at(day, {**only, by: one.name}) if by != "node" else ""}
                for one in rows[:ROWS_MAX]
            ],
            "left_out": max(0, len(rows) - ROWS_MAX),
            "is_cut": found.is_cut,
            "out": out[:ROWS_MAX],
            "out_count": len(out),
            "out_at": path("nodes", waits="budget"),
            "before": path("bytes", day=(day - timedelta(days=1)).isoformat(), by=by),
            "after": "" if is_today else path("bytes", day=(day + timedelta(days=1)).isoformat(), by=by),
            "day": day.isoformat(),
            "receipts_max": byte_sums.RECEIPTS_MAX,
        },
        title=f"bytes {'today' if is_today else day.isoformat()}",
        cli_besides=f"bytes of other {' and '.join(f'{name}s' for name in only)}" if only else "",
        lead=f"By receipts{' and reports' if is_today else ''} of {number_of(every.nodes, 'node')}, day of UTC. {ADDS_UP}",
    )


def day_of(view: View, day: date) -> Day:
    """Return the transfers of a day, which are read once for all viewers."""
    begin, nodes = byte_sums.begin_of(day), view.snapshot.seen.nodes
    return view.shared.get(
        ("bytes", begin), lambda: of_day(view.fleet.store.database, nodes, day=begin, now=view.now), seconds=SECONDS, at_most=DAYS_MAX
    )


def table(view: View) -> Table:
    """Return all sums of a day that are asked for."""
    day, only = _day(view), {name: view.query[name] for name in FILTERS if name in view.query}
    return csv_exports.bytes_of(day_of(view, day), day.isoformat(), _by(view), only=only)


def _nodes_at(day: date, only: Mapping[str, str]) -> str:
    """Return the address of the nodes that a sum is of."""
    return path("bytes", day=day.isoformat(), by="node", **only)


def _chips(day: date, by: By, only: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what is asked for, each with the address of the page without it."""
    found = []
    for name, text in only.items():
        rest = {other: value for other, value in only.items() if other != name}
        found.append((f"{name} {text.replace('@', ' ') or 'none'}", path("bytes", day=day.isoformat(), by=by, **rest)))
    return found


def _day(view: View) -> date:
    return byte_sums.day_of(view.query.get("day"), view.now)


def _by(view: View) -> By:
    text = view.query.get("by", "release")
    found = next((kind for kind in KINDS if kind == text), None)
    if found is None:
        raise Refused(Code.REQUEST_INVALID, f"by is one of {', '.join(KINDS)}, not {text[:20]!r}")
    return found


def _sentence(every: Sum, day: date, *, is_today: bool) -> str:
    when = "today" if is_today else f"on {day.day} {day:%b}"
    if not every.planned:
        return f"Nothing was fetched {when}"
    received, planned = megabytes(every.received), megabytes(every.planned - every.reused)
    return f"{received} MB received of {planned} planned {when}, {megabytes(every.wasted)} wasted"


def _row(one: Sum, full: int) -> dict[str, Any]:
    planned = one.planned - one.reused  # What was to come over the road.
    label = f"{megabytes(one.received)} of {megabytes(planned)} MB"
    return {
        "name": one.name,
        "nodes": one.nodes,
        "picture": planned_and_spent(one.received, planned, full=full, label=label) if full else None,
        "received": megabytes(one.received),
        "planned": megabytes(planned),
        "reused": megabytes(one.reused),
        "wasted": megabytes(one.wasted),
        "is_over": one.received > planned,
    }


def _named(view: View, one: Sum, by: By) -> dict[str, Any]:
    address = ""
    if by == "release":
        model, _, version = one.name.partition("@")
        address = path("models", model, "releases", version)
    elif by == "site" and one.name:
        address = path("nodes", where=f"site={one.name}")
    elif by == "node":
        address = path("nodes", one.name)
    return {**_row(one, 0), "name": one.name.replace("@", " ") or "no site", "address": address}


def _out_of_budget(view: View) -> list[Any]:
    """Return the nodes that wait for their budget, each with its code."""
    lines = [line for line in view.snapshot.worst.values() if line.found.name == "waiting" and line.found.code.startswith("budget")]
    return [
        {"name": line.node.name, "address": path("nodes", line.node.name), "code": line.found.code, "link": line.node.state.link or ""}
        for line in sorted(lines, key=lambda line: line.node.name)
    ]


PAGES: Final = (Page("/bytes", "bytes.html", load, "Bytes", frozenset({"day", "by", *FILTERS}), table=table),)
