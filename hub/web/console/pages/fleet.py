"""Answer whether all is well, and if not, what needs somebody."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from hub.core.rollouts.node_class import CLASSES, ClassName
from hub.operations.node_classes import NodeLine
from hub.web.console.moments import counted, moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.matters import SITE, Matter, drift_of, is_open, matters, site_of
from hub.web.console.pages.releases_words import picture_of, serving
from hub.web.console.pages.rollout_facts import RolloutFacts, rollouts_of
from hub.web.console.sentence import bold, code, link, listed, nodes_where, path, said, toned

ROLLOUTS_MAX: Final = 6
MATTERS_MAX: Final = 5
STREAMS_MAX: Final = 4
MODELS_MAX: Final = 6
FAILED: Final = ("refused", "rolled_back")
WEEK_SECONDS: Final = 7 * 86_400
MEGABYTE: Final = 1_000_000
LINKS: Final = ("free", "metered", "roaming")


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """Hold the line of one rollout."""

    facts: RolloutFacts
    cells: Sequence[tuple[str, int, str, str]]
    waits: str
    danger: str
    since: int


def load(view: View) -> Answer:
    """Return the first page."""
    worst = list(view.snapshot.worst.values())
    counts = Counter(line.found.name for line in worst)
    rollouts, drift, opened = rollouts_of(view), drift_of(view), matters(view)
    moving = [one for one in rollouts if one.deployment.state in {"running", "halted"}]
    drifting = sum(is_open(row) for row in drift)
    failed = counts["refused"] + counts["rolled_back"]
    wrong = sum(one.trouble is not None for one in opened)
    approvals = sum(one.waits_for_approval for one in moving)
    halted = sum(one.deployment.state == "halted" for one in moving)
    name = view.fleet.settings.fleet
    return Answer(
        sentence=_sentence(view, counts, drifting, approvals, halted, wrong),
        title=f"{name}: {_title(counts, drifting, approvals, halted, wrong)}",
        lead=_lead(view, worst, moving),
        cli="fleetcast nodes; fleetcast rollout status; fleetcast drift",
        needs=failed + counts["expired"] + drifting + approvals + halted + wrong,
        refreshes=True,
        values={
            "since": _since(view, worst),
            "cells": [(one, counts[one], nodes_where(f"state={one}"), _note(one, worst)) for one in CLASSES],
            "total": len(view.snapshot.seen.nodes),
            "undecided": len(view.snapshot.seen.nodes) - len(worst),
            "rollouts": [_rollout(one) for one in moving[:ROLLOUTS_MAX]],
            "more_rollouts": max(0, len(moving) - ROLLOUTS_MAX),
            "ended": _ended(view, rollouts),
            "coming": _coming(view, moving),
            "matters": len(opened),
            "opened": [matter_row(view, one) for one in opened[:MATTERS_MAX]],
            "drift": drift[:STREAMS_MAX],
            "streams": len(drift),
            "flow": _flow(view, moving or rollouts),
            "models": _models(view),
            "bytes": _bytes(view),
        },
    )


def wall_pages(view: View) -> list[str]:
    """Return the pages that a screen on a wall shows one after another: this one, rollouts that move, and drift if any."""
    moving = [one.href for one in rollouts_of(view) if one.deployment.state in {"running", "halted"}]
    return ["/", *moving[:ROLLOUTS_MAX], *(["/drift"] if any(is_open(row) for row in drift_of(view)) else [])]


def _sentence(view: View, counts: Counter[ClassName], drifting: int, approvals: int, halted: int, wrong: int) -> Markup:
    """Return the heading: all is well, or what is not, each part a link to it."""
    if not view.snapshot.seen.nodes and not wrong:
        return said("No node has joined")
    parts = list[Markup]()
    if wrong:
        parts.append(link("the hub has trouble" if wrong == 1 else f"the hub has {wrong} troubles", "/alerts", "bad"))
    failed, silent = counts["refused"] + counts["rolled_back"], counts["unreachable"]
    if failed:
        parts.append(link(f"{number_of(failed, 'node')} failed", nodes_where("state in (refused,rolled_back)"), "bad"))
    if drifting:
        parts.append(link(f"{number_of(drifting, 'stream')} {verb(drifting, 'drift')}", "/drift", "bad"))
    if halted:
        parts.append(link(f"{number_of(halted, 'rollout')} {'is' if halted == 1 else 'are'} halted", "#rollouts", "bad"))
    if counts["expired"]:
        parts.append(link(f"{number_of(counts['expired'], 'node')} missed a deadline", nodes_where("state=expired"), "warn"))
    if silent:
        parts.append(
            link(f"{number_of(silent, 'node')} {'is' if silent == 1 else 'are'} unreachable", nodes_where("state=unreachable"), "warn")
        )
    if approvals:
        parts.append(link(f"{number_of(approvals, 'rollout')} {verb(approvals, 'wait')} for approval", "#rollouts"))
    if not parts:
        return said("All is well")
    waits_alone = approvals and len(parts) == 1
    return said("All is well, and " if waits_alone else "Not all is well: ", listed(parts))


def _title(counts: Counter[ClassName], drifting: int, approvals: int, halted: int, wrong: int) -> str:
    failed = counts["refused"] + counts["rolled_back"]
    parts = ["the hub has trouble"] if wrong else []
    parts += [f"{number_of(failed, 'node')} failed"] if failed else []
    parts += [f"{drifting} drift"] if drifting else []
    parts += [f"{halted} halted"] if halted else []
    parts += [f"{counts['unreachable']} unreachable"] if counts["unreachable"] else []
    parts += [f"{approvals} to approve"] if approvals else []
    return ", ".join(parts) or "all is well"


def _lead(view: View, worst: Sequence[NodeLine], moving: Sequence[RolloutFacts]) -> Markup:
    total = len(view.snapshot.seen.nodes)
    if not total:
        return said(
            "Make a token with ",
            code("fleetcast enroll token --node gateway-17"),
            ", and it appears here within a second of its first word.",
        )
    if not view.fleet.repository.models():
        return said("Nothing is published. ", code("fleetcast publish model.onnx --name delay --version 1.0.0"))
    good = [line for line in worst if line.found.name in {"serving", "moving", "waiting"}]
    busy = sum(line.found.name != "serving" for line in good)
    first = f"{counted(len(good))} of {counted(total)} {'node serves' if total == 1 else 'nodes serve'} what they should"
    if not busy:
        return said(f"{first}.")
    those = f"{counted(busy)} of those {'moves or waits' if busy == 1 else 'move or wait'}"
    where = f" in {number_of(len(moving), 'rollout')}" if moving else ""
    return said(f"{first}; {those}{where}, and {'serves' if busy == 1 else 'serve'} what {'it' if busy == 1 else 'they'} had meanwhile.")


def _since(view: View, worst: Sequence[NodeLine]) -> dict[str, Any] | None:
    """Return what has happened since the visit before; None where there was none, or nothing did."""
    before = view.session.before_at if view.session is not None else None
    if before is None:
        return None
    moved = sum(line.found.name == "serving" and (line.since or 0) >= before for line in worst)
    failed = sum(line.found.name in FAILED and (line.since or 0) >= before for line in worst)
    silent = sum(line.found.name == "unreachable" and line.node.last_seen >= before for line in worst)
    parts = [bold(f"{number_of(moved, 'node')} moved")] if moved else []
    parts += [toned(f"{counted(failed)} failed", "bad")] if failed else []  # No list has the nodes of a time.
    parts += [said(f"{counted(silent)} fell silent")] if silent else []
    return {"at": moment(before, view.now), "what": said(listed(parts), ".") if parts else said("nothing changed.")}


def _note(name: ClassName, worst: Sequence[NodeLine]) -> str:
    mine = [line for line in worst if line.found.name == name]
    if not mine:
        return ""
    if name == "serving":
        return "what they should"
    if name == "waiting":
        waits = Counter(line.found.waits_for or "other" for line in mine)
        shown = waits.most_common(2)
        other = len(mine) - sum(count for _, count in shown)
        return ", ".join([*(f"{count} {wait}" for wait, count in shown), *([f"{other} other"] if other else [])])
    if name in FAILED:
        return ", ".join(found for found, _ in Counter(line.found.code for line in mine).most_common(2))
    if name == "moving":
        return _steps(mine)
    return _where(mine) if name == "unreachable" else "stay on what they serve"


def _steps(lines: Sequence[NodeLine]) -> str:
    fetch = sum(slot.state == "fetching" for line in lines for slot in line.node.state.slots if slot.model == line.model)
    return f"{fetch} fetch, {len(lines) - fetch} further" if fetch and fetch < len(lines) else f"{fetch} fetch" if fetch else ""


def _where(lines: Sequence[NodeLine]) -> str:
    site, count = Counter(site_of(line) for line in lines).most_common(1)[0]
    return f"{count} of them at site {site}" if site and len(lines) > 1 else ""


def _rollout(facts: RolloutFacts) -> RolloutLine:
    cells = [(name, facts.counts[name], "", "") for name in CLASSES]
    waits = facts.waits.removeprefix(f"{facts.stage} ").removeprefix("waits for ")
    since = facts.kept.stage_entered_at if facts.kept is not None else facts.deployment.started
    return RolloutLine(facts, cells, waits, facts.danger, since)


def _ended(view: View, rollouts: Sequence[RolloutFacts]) -> str:
    """Return the sentence for when no rollout moves: what the last one ended with."""
    ended = [one for one in rollouts if one.deployment.state in {"done", "rolled_back"} and one.kept is not None]
    if not ended:
        return "No rollout moves."
    last = max(ended, key=lambda one: one.kept.updated_at if one.kept is not None else 0)
    return f"No rollout moves. The last one, {last.title}, ended with {len(last.serving)} of {len(last.lines)}."


def _coming(view: View, moving: Sequence[RolloutFacts]) -> str:
    """Return what happens next without anybody."""
    found = [(one.deployment.deadline, f"the deadline of {one.title}") for one in moving if one.deployment.deadline]
    return " · ".join(f"{moment(at, view.now)} {what}" for at, what in sorted(found)[:3] if at > view.now)


def matter_row(view: View, one: Matter) -> dict[str, Any]:
    """Return what is open as a line: since when, its class, and what it is about."""
    if one.stream is not None:
        row = one.stream
        return {
            "class": "refused",
            "at": "",
            "text": said(link(f"{row['model']} {row['version']} drifts", "/drift"), f" in {row['cohort']}"),
        }
    at = moment(one.since, view.now) if one.since is not None else ""
    if one.trouble is not None:
        return {"class": "refused", "at": at, "text": said(f"{one.trouble['text']} ", code(one.trouble["code"]))}
    if one.name == "unreachable" and len(one.lines) > 1:
        site = f" of {one.site}" if one.site else ""
        has_sites = any(SITE in node.labels for node in view.snapshot.seen.nodes.values())
        site = f",{SITE}={one.site}" if one.site else f",!{SITE}" if has_sites else ""
        where = f"state=unreachable{site}"
        return {
            "class": one.name,
            "at": at,
            "text": said(link(f"{number_of(len(one.lines), 'node')}{site}", nodes_where(where)), " are unreachable"),
        }
    line = one.lines[0]
    node = link(line.node.name, path("nodes", line.node.name))
    words = {"refused": " refused ", "rolled_back": " rolled back ", "expired": " missed the deadline", "unreachable": " is unreachable"}
    return {"class": one.name, "at": at, "text": said(node, words[one.name], code(line.found.code) if line.found.code else "")}


def _flow(view: View, rollouts: Sequence[RolloutFacts]) -> dict[str, Any] | None:
    """Return the picture of one model's way through the fleet: that of the first rollout that moves, else of the first that there is."""
    if not rollouts:
        return None
    one = rollouts[0].deployment
    present = one.fallback.version if one.fallback is not None and one.state != "done" else one.release.version
    coming = one.release.version if one.state != "done" else ""
    name = rollouts[0].model.name
    if not serving(view, name):
        return None
    picture = picture_of(view, name, coming, present)
    return {"model": name, "href": path("models", name), "picture": picture} if picture is not None else None


def _models(view: View) -> list[dict[str, Any]]:
    """Return for each model how many nodes serve which release."""
    found = []
    for name in view.fleet.repository.models()[:MODELS_MAX]:
        served = Counter(now.version for node in view.snapshot.seen.nodes.values() if (now := node.serving.get(name)) is not None)
        total = sum(served.values())
        found.append({"model": name, "href": path("models", name), "total": total, "releases": served.most_common(3)})
    return found


def _bytes(view: View) -> list[dict[str, Any]]:
    """Return what nodes have received of what they fetch now, by the class of their link, by their own reports."""
    found = {link_class: [0, 0, 0] for link_class in LINKS}
    for node in view.snapshot.seen.nodes.values():
        mine = found.setdefault(node.state.link or "free", [0, 0, 0])
        for slot in node.state.slots:
            mine[0] += slot.bytes_received
            mine[1] += slot.bytes_planned
            mine[2] += slot.bytes_wasted
    rows = [{"link": name, "spent": spent / MEGABYTE, "planned": planned / MEGABYTE} for name, (spent, planned, _) in found.items()]
    wasted = sum(one[2] for one in found.values()) / MEGABYTE
    return [*rows, {"link": "wasted", "spent": wasted, "planned": None}]


PAGES: Final = (Page("/", "fleet.html", load, "Fleet"),)
