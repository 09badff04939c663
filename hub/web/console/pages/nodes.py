"""Answer which nodes there are, and why they are so: a selector, what they have in common, and a row each, the worst first."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from markupsafe import Markup

from fleetcast.counted import named, verb
from hub.core.rollouts.node_class import BY_NEED
from hub.core.rollouts.node_filter import STATE_KEY
from hub.operations import csv_exports
from hub.operations.csv_exports import Table
from hub.operations.node_listing import DEFAULT_SORT, Asked, Facet, Listing, Place, cut, listing, narrowed
from hub.operations.snapshot import Snapshot
from hub.web.console.moments import counted, moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.node_words import bytes_of, does, link_of, wanted
from hub.web.console.refusals import Wrong, of_refused
from hub.web.console.sentence import bold, code, link, listed, path, said
from hub.web.pages import CURSOR_CHARACTERS_MAX, cursor_of, key_of
from schemas.errors import Code, Refused
from schemas.selectors import Requirement, parse, text_of

LIMITS: Final = (20, 50, 100, 200)
LIMIT: Final = 50
SORTS: Final = {"state": "class", "node": "node", "last_seen": "heard", "-last_seen": "heard"}
CHOICES: Final = ("serves", "waits", "deployment")  # Besides the selector.
LISTINGS_MAX: Final = 16  # Selectors whose nodes are kept: each holds the names of all that match.
SECONDS: Final = 2.0  # How long what was counted is kept for all viewers.
QUERY: Final = frozenset({"where", "serves", "waits", "deployment", "sort", "cursor", "limit", "more"})
CLI_SORTS: Final = ("node", "last_seen", "-last_seen")  # Columns of `fleetcast nodes`, which has none of the class.
TONES: Final = {"refused": "bad", "rolled_back": "bad", "unreachable": "warn", "expired": "warn"}
VERBS: Final = {"moving": "move", "waiting": "wait", "serving": "serve"}


def load(view: View) -> Answer:
    """Return the list of nodes."""
    query = view.query
    asked = Asked(query.get("where", "").strip(), *(query.get(name, "") for name in CHOICES))
    sort, limit, more = query.get("sort", DEFAULT_SORT), limit_of(query), query.get("more", "")
    seen = view.snapshot
    wrong: Wrong | None = None
    try:
        found = view.shared.get(
            ("nodes", seen.at, id(seen), asked, sort, more),
            lambda: listing(seen, asked, sort, expanded=more),
            seconds=SECONDS,
            at_most=LISTINGS_MAX,
        )
    except Refused as refused:
        if refused.code != Code.SELECTOR_INVALID:
            raise
        wrong, found = of_refused(refused), Listing((), len(seen.seen.nodes), {}, (), "")  # What was typed stays in its field.
    page = cut(found.places, _place_of(query, sort), limit)
    address = _address(query)
    shown = narrowed(seen, asked)
    rows = [_row(view, shown, name) for name in page.nodes]
    cli, besides = ("fleetcast nodes", "") if wrong is not None else _cli(asked, query)
    return Answer(
        wrong.sentence if wrong is not None else _sentence(found, asked),
        cli,
        {
            "asked": asked,
            "chips": _chips(asked, address),
            "facets": [_facet(one, query) for one in found.facets],
            "rows": rows,
            "sort": sort,
            "sorts": {name: address(sort=name, cursor=None) for name in ("state", "node", "last_seen", "-last_seen")},
            "page": _pager(found, page, limit, address, sort),
            "nobody": wrong.mend if wrong is not None else _nobody(found),
            "label_at": _label_at(asked) if wrong is None else "",
        },
        title=_title(found, asked),
        lead=_lead(found, asked) if wrong is None else "",
        cli_besides=besides,
        status=wrong.status if wrong is not None else 200,
    )


def _cli(asked: Asked, query: Mapping[str, str]) -> tuple[str, str]:
    """Return the command that prints these nodes, and what it prints besides."""
    where = ["--where", asked.where] if asked.where else []
    if asked.deployment:
        model = asked.deployment.partition("/")[0]
        return shlex.join(["fleetcast", "rollout", "status", model, "--nodes", *where]), "other nodes"
    sort = query.get("sort", "")
    ordered = ["--sort", sort] if sort in CLI_SORTS else []
    limit = ["--limit", query["limit"]] if "limit" in query and ordered else []
    besides = "other nodes" if asked.serves or asked.waits else ""
    return shlex.join(["fleetcast", "nodes", *(["list"] if ordered else []), *where, *ordered, *limit]), besides


def table(view: View) -> Table:
    """Return all nodes that are asked for."""
    query = view.query
    asked = Asked(query.get("where", "").strip(), *(query.get(name, "") for name in CHOICES))
    found = listing(view.snapshot, asked, query.get("sort", DEFAULT_SORT))
    return csv_exports.nodes(view.fleet, view.snapshot, [one.node for one in found.places])


def limit_of(query: Mapping[str, str]) -> int:
    """Return how many rows a page has.

    Raises:
        Refused: REQUEST_INVALID.
    """
    text = query.get("limit", str(LIMIT))
    if text not in {str(one) for one in LIMITS}:
        raise Refused(Code.REQUEST_INVALID, f"limit is one of {', '.join(map(str, LIMITS))}, not {text[:20]!r}")
    return int(text)


def _place_of(query: Mapping[str, str], sort: str) -> Place | None:
    cursor = query.get("cursor")
    if cursor is None:
        return None
    if len(cursor) > CURSOR_CHARACTERS_MAX:
        raise Refused(Code.REQUEST_INVALID, "cursor is not one that this list has given: begin without one")
    of, rank, name = key_of(cursor, [str, int, str])
    if of != sort:
        raise Refused(Code.REQUEST_INVALID, f"cursor is of a list in the order {of[:20]!r}: begin without one")
    return Place(rank, name)


def _address(query: Mapping[str, str]) -> Any:
    def address(**changes: str | None) -> str:
        return path("nodes", **{**{name: query.get(name) for name in sorted(QUERY - {"more"})}, **changes})

    return address


def _pager(found: Listing, page: Any, limit: int, address: Any, sort: str) -> dict[str, Any]:
    def at(place: Place | None) -> Any:
        return address(cursor=cursor_of([sort, *place]) if place is not None else None)

    return {
        "first": page.first if page.nodes else 0,
        "last": page.first + len(page.nodes) - 1 if page.nodes else 0,
        "total": len(found.places),
        "first_page": address(cursor=None) if page.has_before else "",
        "before": at(page.before) if page.has_before else "",
        "next": at(page.next) if page.next is not None else "",
        "limits": [(one, "" if one == limit else address(limit=str(one), cursor=None)) for one in LIMITS],
    }


def _asked(asked: Asked) -> dict[str, str | None]:
    return {name: value or None for name, value in asdict(asked).items()}


def _facet(one: Facet, query: Mapping[str, str]) -> dict[str, Any]:
    kept = {"sort": query.get("sort"), "limit": query.get("limit")}
    values = [(each.text, each.nodes, path("nodes", **_asked(each.asked), **kept), each.is_chosen) for each in one.values]
    more = path("nodes", **{name: query.get(name) for name in ("where", *CHOICES, "sort", "limit")}, more=one.name)
    return {"name": one.name, "values": values, "more": more if one.left_out else "", "left_out": one.left_out}


def _chips(asked: Asked, address: Any) -> list[tuple[str, str]]:
    """Return what is asked for besides the selector, each with the address of the list without it."""
    words = {"serves": asked.serves.replace("@", " "), "waits for": asked.waits, "of deployment": asked.deployment}
    names = dict(zip(words, CHOICES, strict=True))
    return [(f"{word} {text}", address(**{names[word]: None, "cursor": None})) for word, text in words.items() if text]


def _row(view: View, seen: Snapshot, name: str) -> dict[str, Any]:
    node, line = seen.seen.nodes[name], seen.worst.get(name)
    model = line.model if line is not None else ""
    settings = node.state.settings
    version = wanted(view).get((model, line.deployment), "") if line is not None else ""
    return {
        "name": name,
        "class": line.found.name if line is not None else "",
        "display_name": settings.display_name if settings is not None else "",
        "site": node.labels.get("site", ""),
        "serves": f"{line.model} {line.serves}" if line is not None and line.serves else "",
        "does": does(line, version),
        "since": moment(line.since if line is not None else None, view.now),
        "heard": moment(node.last_seen, view.now),
        "link": link_of(node),
        "bytes": bytes_of(node, model),
        "others": max(0, len(view.snapshot.by_node.get(name, ())) - 1),
    }


def _label_at(asked: Asked) -> str:
    """Return where these nodes are labelled; "" where what is asked for is not of labels alone, by which the hub chooses them again."""
    if not asked.where or asked != Asked(asked.where) or any(one.key == STATE_KEY for one in parse(asked.where)):
        return ""
    return path("nodes", "label", where=asked.where)


def _sentence(found: Listing, asked: Asked) -> Markup:
    matched, total = len(found.places), found.total
    if not total:
        return said("No node has joined")
    wrong = [
        link(f"{counted(found.classes[name])} {name.replace('_', ' ')}", _of_class(asked, name), tone)
        for name, tone in TONES.items()
        if found.classes.get(name)
    ]
    ends = [": ", listed(wrong)] if wrong else []
    if asked == Asked():
        return said(f"{counted(total)} {named(total, 'node')}", *(ends or [", none refused or unreachable"]))
    return said(
        f"{counted(matched)} of {counted(total)} {named(total, 'node')} {verb(matched, 'match') if matched != 1 else 'matches'}", *ends
    )


def _lead(found: Listing, asked: Asked) -> Markup:
    """Return the sentence of the other classes, so that all add up to the nodes that match."""
    parts: list[str | Markup] = [
        link(f"{counted(found.classes[name])} {verb(found.classes[name], word)}", _of_class(asked, name))
        for name, word in VERBS.items()
        if found.classes.get(name)
    ]
    if found.classes.get(""):
        undecided = Requirement(STATE_KEY, "notin", BY_NEED)
        text = f"{'for' if parts else 'For'} {counted(found.classes[''])} no deployment decides"
        parts.append(link(text, path("nodes", **_asked(_narrowed(asked, undecided)))))
    return said(listed(parts), ".") if parts else Markup("")


def _of_class(asked: Asked, name: str) -> str:
    return path("nodes", **_asked(_narrowed(asked, Requirement(STATE_KEY, "in", (name,)))))


def _narrowed(asked: Asked, to: Requirement) -> Asked:
    """Return what is asked for, with another requirement of the class."""
    others = tuple(one for one in parse(asked.where) if one.key != STATE_KEY)
    return replace(asked, where=text_of(tuple(sorted((*others, to)))))


def _title(found: Listing, asked: Asked) -> str:
    what = ", ".join(one for one in (asked.where, asked.serves, asked.waits, asked.deployment) if one)
    count = len(found.places)
    return f"{counted(count)} {named(count, 'node')}{f': {what}' if what else ''}"


def _nobody(found: Listing) -> Markup:
    if not found.total:
        return said(
            "No node has joined. Make a token with ", code("fleetcast enroll token --node gateway-17"),
            ", and it appears here within a second of its first word.",
        )  # fmt: skip
    return marked(found.nobody)


def marked(sentence: str) -> Markup:
    """Return the sentence about a selector that matches nobody, with selectors that stand out and lead to their nodes."""
    if not sentence.startswith("No node matches "):
        return said(sentence)
    first, _, near = sentence.removeprefix("No node matches ").partition(". ")
    if not near:
        return said("No node matches ", bold(first.removesuffix(".")), ".")
    count, _, offer = near.removesuffix(".").partition(" match")
    if count.isdigit() and offer:
        where = offer.removeprefix("es").strip()
        return said(
            "No node matches ", bold(first), f". {count} match{'es' if count == '1' else ''} ", link(where, path("nodes", where=where)), "."
        )
    return said("No node matches ", bold(first), ". ", near)


PAGES: Final = (Page("/nodes", "nodes.html", load, "Nodes", QUERY, table=table),)
assert set(TONES) | set(VERBS) == set(BY_NEED)  # noqa: S101  # the sentence and the one below it count every class
