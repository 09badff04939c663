"""Answer what is with one node, and what to do."""

from typing import Any, Final

from markupsafe import Markup

from fleetcast.counted import counted as number_of
from fleetcast.error_help import MEANINGS
from hub.core.delivery.receipt_counts import Counts
from hub.core.rollouts.fleet import Node
from hub.core.rollouts.node_class import BY_NEED
from hub.database.enrolments import Enrolments
from hub.operations.byte_sums import DAY, Sum, of_day, sums, total
from hub.operations.node_changes import document_of
from hub.operations.node_classes import NodeLine
from hub.operations.node_findings import findings_by_node
from hub.operations.node_story import Step, evidence_of, receipt_lines, settings_of, way
from hub.operations.peers import peers_of, same_kind
from hub.web.console.moments import clock, counted, day, moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.node_words import does, megabytes, wanted
from hub.web.console.refusals import NotThere, Wrong
from hub.web.console.sentence import bold, code, link, path, said
from hub.web.pictures.bullet import bullet, planned_and_spent
from schemas.errors import Code
from schemas.names import sha256
from schemas.receipt import Evidence

RECEIPTS_SHOWN: Final = 10
FAILED: Final = ("refused", "rolled_back")


def load(view: View) -> Answer:
    """Return the page of a node."""
    name = view.params["node"]
    node = view.snapshot.seen.nodes.get(name)
    if node is None:
        audit = link("audit", path("audit", node=name))
        raise NotThere(Wrong(404, said("No node ", bold(name), ". It may have been forgotten: ", audit, "."), title="no node"))
    lines = sorted(view.snapshot.by_node.get(name, ()), key=lambda line: BY_NEED.index(line.found.name))
    line = lines[0] if lines else None
    versions = wanted(view)
    receipts = view.fleet.store.receipts(node=name, limit=RECEIPTS_SHOWN)
    failing = line is not None and line.found.name in FAILED
    return Answer(
        _sentence(node, line, versions.get((line.model, line.deployment), "") if line is not None else ""),
        f"fleetcast nodes {name}",
        {
            "node": node,
            "mend": _mend(view, node, line) if line is not None and line.found.code else None,
            "is_wrong": failing,
            "paths": [_path(view, node, one, versions) for one in lines],
            "serves": _serves(view, node),
            "findings": _findings(view, node),
            "receipts": [_receipt(one, view.now) for one in receipt_lines(view.fleet.store, receipts, node.public_key)],
            "budgets": _budgets(node),
            "day": _day(view, node),
            "settings": settings_of(view.fleet, node),
            "device": _device(view, node),
        },
        title=f"{name}{f' {line.found.name}' if line is not None else ''}".replace("_", " "),
        lead=_lead(view, node),
        needs=int(failing),
        crumbs=_crumbs(node),
    )


def _crumbs(node: Node) -> tuple[Markup, ...]:
    site = node.labels.get("site")
    shown = node.state.settings.display_name if node.state.settings is not None and node.state.settings.display_name else node.name
    return (link("Nodes", "/nodes"), *([link(site, path("nodes", where=f"site={site}"))] if site else []), said(shown))


def _sentence(node: Node, line: NodeLine | None, version: str) -> Markup:
    if line is None:
        return said(f"{node.name}: no deployment decides for it")
    serves = f"{line.model} {line.serves}" if line.serves else f"nothing of {line.model}"
    match line.found.name:
        case "refused":
            return said(f"{node.name} refused {line.model} {version}, and serves {line.serves or 'nothing'} as before")
        case "rolled_back":
            return said(f"{node.name} went back from {line.model} {version}, and serves {line.serves or 'nothing'}")
        case "serving":
            return said(f"{node.name} serves {serves}, as it should")
        case "unreachable":
            return said(f"{node.name} {line.found.sentence}; it served {serves}")
        case _:
            return said(f"{node.name} serves {serves}; {line.model} {version}: ", does(line, version))


def _lead(view: View, node: Node) -> Markup:
    at = clock(node.last_seen) if view.now - node.last_seen < 86_400 else moment(node.last_seen, view.now)
    parts = [f"Heard {at}, {node.status}. It reports every {node.report_seconds:g} s."]
    enrolled = Enrolments(view.fleet.store.database).node(node.name)
    if enrolled is not None:
        parts.append(f"Certificate good until {day(enrolled.standing.not_after)}, renews itself.")
    return said(" ".join(parts))


def _mend(view: View, node: Node, line: NodeLine) -> dict[str, Any]:
    """Return the code of what is wrong, what was measured, what peers made of it, and the mend."""
    found = line.found
    meaning, mend = MEANINGS.get(Code(found.code), ("", "")) if found.code in set(Code) else ("", "")
    peers, reason = "", ""
    digest = next((digest for (model, digest), one in node.failures.items() if model == line.model and one.code == found.code), None)
    if found.name in FAILED and digest is not None:
        names = same_kind(node, view.snapshot.seen.nodes.values())
        peers = peers_of(view.fleet.store.database, names, digest, code=found.code).in_words(found.code)
        mine = [row for row in view.fleet.store.receipts(node=node.name, limit=50) if row.digest == digest and row.code == found.code]
        reason = mine[0].reason if mine else ""
    return {"code": found.code, "reason": reason or meaning, "peers": peers, "mend": mend}


def _path(view: View, node: Node, line: NodeLine, versions: dict[tuple[str, str], str]) -> dict[str, Any]:
    slot = next((one for one in node.state.slots if one.model == line.model), None)
    failed = line.found.name if line.found.name in FAILED else ""
    steps = way(slot, failed=failed, code=line.found.code)
    if line.found.name == "serving":
        steps = [Step(one.name, "done") for one in steps]
    return {
        "model": line.model,
        "version": versions.get((line.model, line.deployment), ""),
        "deployment": line.deployment,
        "deployment_at": path("models", line.model, "deployments", line.deployment, "rollouts"),
        "steps": steps,
        "class": line.found.name,
        "does": does(line, versions.get((line.model, line.deployment), "")),
        "since": moment(line.since, view.now),
    }


def _serves(view: View, node: Node) -> list[dict[str, Any]]:
    rows = {row.model: row for row in view.fleet.store.serving([node.name])}
    found = []
    for model, one in sorted(node.serving.items()):
        evidence = evidence_of(rows[model]) if model in rows else None
        slot = next((each for each in node.state.slots if each.model == model), None)
        found.append(
            {
                "model": model,
                "model_at": path("models", model),
                "version": one.version,
                "release_at": path("models", model, "releases", one.version),
                "variant": (slot.variant if slot is not None else None) or (evidence.variant if evidence is not None else None) or "",
                "since": moment(one.since, view.now),
                "latency": f"{evidence.latency_ms:.3g} ms" if evidence is not None else "",
                "memory": f"{megabytes(evidence.memory_bytes)} MB" if evidence is not None else "",
            }
        )
    return found


def _findings(view: View, node: Node) -> list[dict[str, str]]:
    found = findings_by_node(view.fleet.directory, {node.name: node.state}, lambda: view.fleet.store)[node.name]
    return [
        {"kind": one.kind, "code": one.code, "reason": one.reason, "about": f"{one.model or ''} {one.version or ''}".strip()}
        for one in found
    ]


def _receipt(one: Any, now: int) -> dict[str, Any]:
    return {
        "at": moment(one.at, now),
        "outcome": one.outcome,
        "release": f"{one.model} {one.version}".strip() or "a message",
        "code": one.code,
        "reason": one.reason,
        "figures": _figures(one.evidence, one.moved),
        "signer": one.signer,
    }


def _figures(evidence: Evidence | None, moved: Counts) -> str:
    """Return what a receipt measured, and the bytes of its own move."""
    if evidence is None:
        return ""
    found = [f"{evidence.latency_ms:.3g} ms"] if evidence.latency_ms else []
    found += [f"{megabytes(evidence.memory_bytes)} MB"] if evidence.memory_bytes else []
    if evidence.bytes_planned:
        here = f"{megabytes(moved.reused)} reused" if moved.planned else "all was here"
        found.append(f"{megabytes(moved.received)} MB fetched, {here}")
    return ", ".join(found)


def _budgets(node: Node) -> list[dict[str, Any]]:
    telemetry, found = node.state.telemetry, []
    if telemetry is not None and telemetry.rho_day_max:
        rho, most = telemetry.rho_spent, telemetry.rho_day_max
        picture = bullet(rho, most, label=f"{rho:.2g} of {most:.2g}")
        found.append({"name": "privacy, rho a day", "picture": picture, "spent": f"{rho:.2g}", "limit": f"{most:.2g}"})
    for slot in node.state.slots:
        if slot.bytes_planned:
            spent, limit = megabytes(slot.bytes_received), megabytes(slot.bytes_planned)
            picture = bullet(slot.bytes_received, slot.bytes_planned, label=f"{spent} of {limit} MB")
            found.append(
                {"name": f"fetch of {slot.model} {slot.target_version or ''}", "picture": picture, "spent": spent, "limit": f"{limit} MB"}
            )
    return found


def _day(view: View, node: Node) -> dict[str, Any]:
    """Return what the node has received today, planned against spent, by its receipts and what is under way."""
    begin = view.now - view.now % DAY
    found = of_day(view.fleet.store.database, view.snapshot.seen.nodes, day=begin, now=view.now, node=node.name)
    rows = sums(found.transfers, "release")
    every = total("all", found.transfers)
    full = max((max(one.received, one.planned - one.reused) for one in rows), default=0)
    shown = [_day_row(one, full) for one in rows]
    return {
        "rows": shown,
        "every": _day_row(every, 0),
        "at": path("bytes", by="node"),
        "budget": _day_budget(view, node, every.received),
    }


def _day_row(one: Sum, full: int) -> dict[str, Any]:
    planned = one.planned - one.reused  # What was to come over the road.
    spent, limit = megabytes(one.received), megabytes(planned)
    picture = planned_and_spent(one.received, planned, full=full, label=f"{spent} of {limit} MB") if full else None
    return {
        "name": one.name.replace("@", " "),
        "picture": picture,
        "spent": spent,
        "planned": limit,
        "wasted": megabytes(one.wasted) if one.wasted else "",
        "is_over": one.received > planned,
    }


def _day_budget(view: View, node: Node, spent: int) -> str:
    """Return how much of the day's budget that is, where the hub has set one for the node's class of link."""
    document = document_of(view.fleet.repository, node.name)
    budget = (document.budgets or {}).get(node.state.link or "") if document is not None else None
    if budget is None or budget.bytes_day_max is None:
        return ""
    return f"{megabytes(spent)} of {megabytes(budget.bytes_day_max)} MB a day that the hub allows over {node.state.link} links"


def _device(view: View, node: Node) -> list[tuple[str, str | Markup]]:
    state, profile = node.state, node.state.profile
    found: list[tuple[str, str | Markup]] = []
    if profile is not None:
        memory = f"{counted(round(profile.memory_bytes / 2**20))} MiB"
        found.append(("hardware", f"{profile.arch}, {number_of(profile.cores, 'core')}, {memory}"))
        found.append(("providers", ", ".join(profile.providers) or "none reported"))
    found.append(("agent", state.software or "not reported"))
    found.append(("link", state.link or "not reported"))
    found.append(
        (
            "trust",
            f"timestamp {state.timestamp_version}, root {state.root_version}{', expired: nothing new is activated' if state.stale else ''}",
        )
    )
    if node.public_key:
        found.append(("key", code(sha256(node.public_key).hex()[:16])))
    enrolled = Enrolments(view.fleet.store.database).node(node.name)
    if enrolled is not None:
        found.append(("enrolled", day(enrolled.enrolled_at)))
    return found


PAGES: Final = (Page("/nodes/{node}", "node.html", load, "Nodes"),)
