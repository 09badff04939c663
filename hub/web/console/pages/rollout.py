"""Answer whether a rollout goes on, and what holds it: stages as cells, gates as figures and limits, failures with their codes."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from hub.core.rollouts.node_class import CLASSES, ClassName
from hub.database.rows import ReceiptRow
from hub.operations.node_classes import NodeLine
from hub.web.console.moments import lasting, moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.matters import site_of
from hub.web.console.pages.rollout_facts import RolloutFacts, gate_line, rollout_of, stage_words
from hub.web.console.sentence import code, link, listed, path, said, short, toned
from hub.web.pictures.cells import Cell, stages
from hub.web.pictures.svg import DEFS
from schemas import codec
from schemas.errors import Code, Refused
from schemas.receipt import Receipt, SealedReceipt
from schemas.selectors import text_of

FAILED: Final = ("refused", "rolled_back")
FAILED_MAX: Final = 20  # Failures that the page lists; the others are behind "as a list".
ID_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class Column:
    """Hold what a stage's column shows."""

    number: int
    title: str
    whom: str
    progress: str
    is_past: bool
    is_now: bool
    picture: Any


def load(view: View) -> Answer:
    """Return the page of a rollout."""
    facts = rollout_of(view, view.params["model"], view.params["deployment"])
    _check_number(view, facts)
    deployment = facts.deployment
    before = deployment.fallback.version if deployment.fallback is not None else "nothing"
    drawn = stages([[_cell(line) for line in mine] for mine in facts.of_stage])
    where = text_of(deployment.selector)
    others = len(facts.model.deployments) > 1
    return Answer(
        sentence=f"{facts.name} {before} → {deployment.release.version}: {facts.waits}",
        title=f"{facts.title}: {facts.stage}" if deployment.state == "running" else f"{facts.title} {facts.waits.partition(':')[0]}",
        lead=_lead(facts),
        cli=shlex.join(["fleetcast", "rollout", "status", facts.model.name, "--nodes", *(["--where", where] if where else [])]),
        cli_besides="nodes of other deployments" if others else "",
        needs=len(facts.failed) + facts.waits_for_approval + (deployment.state == "halted"),
        crumbs=(link("Models", "/models"), link(facts.model.name, path("models", facts.model.name)), said(deployment.name, _whom(facts))),
        refreshes=deployment.state == "running",
        values={
            "facts": facts,
            "cells": [(name, facts.counts[name], _nodes_of(facts, f"state={name}"), _note(name, facts)) for name in CLASSES],
            "columns": [_column(facts, at, picture, view.now) for at, picture in enumerate(drawn.pictures)],
            "figures": drawn.figures,
            "defs": DEFS,
            "gates": [gate_line(one, facts) for one in facts.verdicts],
            "failed": [_failure(view, facts, line) for line in facts.failed[:FAILED_MAX]],
            "failed_list": _nodes_of(facts, "state in (refused,rolled_back)"),
            "waiting": _waiting(facts),
            "actions": actions(facts),
        },
    )


def _check_number(view: View, facts: RolloutFacts) -> None:
    number = view.params.get("number")
    if number is not None and number != facts.deployment.rollout.hex()[:ID_DIGITS]:
        now = facts.deployment.rollout.hex()[:ID_DIGITS]
        raise Refused(
            Code.REQUEST_UNKNOWN, f"rollout {number[:40]} is over; the one of {facts.name} is {now} now, and the audit has what was before"
        )


def _whom(facts: RolloutFacts) -> str:
    if facts.deployment.name == "default":
        return " · matches every node"
    return f" · {text_of(facts.deployment.selector) or 'matches every node'} · priority {facts.deployment.priority}"


def _nodes_of(facts: RolloutFacts, where: str) -> str:
    """Return the address of the nodes that the deployment decides for and that a selector matches, in the classes that they have there."""
    return path("nodes", deployment=f"{facts.model.name}/{facts.deployment.name}", where=where)


def _lead(facts: RolloutFacts) -> Markup:
    """Return what the other nodes of the stage do."""
    deployment = facts.deployment
    if deployment.state != "running":
        return said(f"{facts.stage} · {facts.reason}" if facts.reason and facts.reason not in facts.waits else facts.stage)
    mine = facts.of_stage[deployment.stage]
    counts = Counter(line.found.name for line in mine)
    others = len(mine) - counts["serving"]
    if not mine:
        return said("The stage adds no node.")
    if not others:
        return said(f"All {len(mine)} nodes of the stage serve it." if len(mine) > 1 else "The one node of the stage serves it.")
    words: Sequence[tuple[ClassName, str]] = (
        ("moving", "move"),
        ("waiting", "wait"),
        ("unreachable", "unreachable"),
        ("expired", "expired"),
    )
    parts = [
        (f"{count} {'is' if count == 1 else 'are'} {word}" if word in {"unreachable", "expired"} else f"{count} {verb(count, word)}")
        for name, word in words
        if (count := counts[name])
    ]
    failed = counts["refused"] + counts["rolled_back"]
    parts += [f"{failed} failed"] if failed else []
    first = f"Of the other {number_of(others, 'node')} of the stage, " if others > 1 else "Of the other node of the stage: "
    danger = toned("One more failure halts it.", "warn") if facts.danger else ""
    return said(first, listed(parts, " and "), ". ", danger)


def _note(name: ClassName, facts: RolloutFacts) -> str:
    mine = [line for line in facts.lines if line.found.name == name]
    if not mine:
        return ""
    if name == "serving":
        return f"{facts.deployment.release.version}, by receipt" if facts.deployment.state != "rolled_back" else "what they had before"
    if name in FAILED:
        return ", ".join(one.partition(".")[2] or one for one, _ in Counter(line.found.code for line in mine).most_common(2))
    return {"waiting": _waits, "unreachable": _where, "moving": _furthest, "expired": _stay}[name](mine)


def _waits(lines: Sequence[NodeLine]) -> str:
    counts = Counter(line.found.waits_for or "other" for line in lines)
    return ", ".join(f"{count} {wait}" for wait, count in counts.most_common(4))


def _where(lines: Sequence[NodeLine]) -> str:
    site, count = Counter(site_of(line) for line in lines).most_common(1)[0]
    return f"{count} of them at site {short(site)}" if site and len(lines) > 1 else ""


def _stay(lines: Sequence[NodeLine]) -> str:
    return "stay on what they serve" if len(lines) > 1 else "stays on what it serves"


def _furthest(lines: Sequence[NodeLine]) -> str:
    slots = [slot.state for line in lines for slot in line.node.state.slots if slot.model == line.model]
    order = ("probation", "shadow", "testing", "staged", "fetching")
    return next((f"furthest: {state}" for state in order if state in slots), "")


def _cell(line: NodeLine) -> Cell:
    """Return a node's cell."""
    slot = next((one for one in line.node.state.slots if one.model == line.model), None)
    done = min(1.0, slot.bytes_received / slot.bytes_planned) if slot is not None and slot.bytes_planned else 0.0
    title = line.found.code or line.found.sentence.removeprefix("is ")
    return Cell(line.node.name, site_of(line), line.found.name, title, done)


def _column(facts: RolloutFacts, at: int, picture: Any, now: int) -> Column:
    deployment, mine = facts.deployment, facts.of_stage[at]
    stage = deployment.stages[at]
    total = sum(len(one) for one in facts.of_stage[: at + 1])
    is_past = at < deployment.stage or deployment.state == "done"
    is_now = at == deployment.stage and deployment.state in {"running", "halted"}
    whom = f"{text_of(stage.selector)}, {number_of(len(mine), 'node')}" if stage.selector else f"{len(mine)} more, {total} in all"
    if at == 0 and not stage.selector:
        whom = number_of(total, "node")
    entered = facts.kept.stage_entered_at if facts.kept is not None else deployment.started
    if is_past:
        progress = "passed"
    elif is_now:
        soak = f"; soak {lasting(facts.gate.soak_seconds)} begins when all gates hold" if facts.gate.soak_seconds else ""
        progress = f"began {moment(entered, now)}{soak}" if deployment.state == "running" else "halted here"
    elif deployment.state == "rolled_back":
        progress = "was not reached" if at > deployment.stage else "went back"
    else:
        progress = f"waits for stage {at}" + (", then for approval" if stage.approve else "")
    return Column(at + 1, stage_words(facts, at), whom, progress, is_past, is_now, picture)


def _failure(view: View, facts: RolloutFacts, line: NodeLine) -> dict[str, Any]:
    """Return the row of a failure: its code, and what the node measured, by its own receipt."""
    return {
        "node": line.node.name,
        "class": line.found.name,
        "code": line.found.code,
        "why": _why(view, facts, line),
        "serves": line.serves,
        "at": line.since,
    }


def _why(view: View, facts: RolloutFacts, line: NodeLine) -> str:
    def read() -> str:
        rows: list[ReceiptRow] = view.fleet.store.receipts(model=facts.model.name, node=line.node.name, limit=5)
        for row in rows:
            if row.outcome in {"refused", "rolled_back"} and row.digest == facts.deployment.release.digest:
                return codec.decode(Receipt, codec.decode(SealedReceipt, row.sealed).body).reason
        return ""

    return view.shared.get(("why", line.model, line.node.name, line.since, line.found.code), read, seconds=3600)


_WAITS: Final = {
    "stage": "begins when the stage before has passed",
    "approval": "needs an operator's word",
    "window": "their own time of the week has not come",
    "budget": "goes on when their day is over",
    "clock": "their clocks are wrong",
    "halt": "goes on when the rollout does",
    "release": "another rollout has to give them one",
}


def _waiting(facts: RolloutFacts) -> list[tuple[int, str, Markup]]:
    """Return what nodes wait for, the most first: how many, in one word, and a sentence."""
    mine = [line for line in facts.lines if line.found.name == "waiting"]
    counts = Counter(line.found.waits_for or "other" for line in mine)
    found = list[tuple[int, str, Markup]]()
    for wait, count in counts.most_common():
        codes = sorted({line.found.code for line in mine if (line.found.waits_for or "other") == wait and line.found.code})
        found.append((count, wait, said(*[part for one in codes[:3] for part in (code(one), " ")], _WAITS.get(wait, ""))))
    return found


@dataclass(frozen=True, slots=True)
class Action:
    """Hold a link to a question."""

    label: str
    href: str
    is_stop: bool = False


def actions(facts: RolloutFacts) -> list[Action]:
    """Return what can be done with a rollout now."""
    found, state, serving = list[Action](), facts.deployment.state, len(facts.serving)
    if facts.may_approve:
        found.append(Action(f"Approve stage {facts.deployment.stage + 2}…", f"{facts.href}/approve"))
    if facts.failed and state != "rolled_back":
        found.append(Action(f"Retry {len(facts.failed)} failed…", f"{facts.href}/retry"))
    if state == "halted":
        found.append(Action("Resume…", f"{facts.href}/resume"))
    if state != "rolled_back":
        found.append(Action(f"Take {serving} back…" if serving else "Take back…", f"{facts.href}/back"))
    if state == "running":
        found.append(Action("Halt…", f"{facts.href}/halt", is_stop=True))
    return found


PATH: Final = "/models/{model}/deployments/{deployment}/rollouts"
PAGES: Final = (
    Page(PATH, "rollout.html", load, "Models"),
    Page(f"{PATH}/{{number}}", "rollout.html", load, "Models"),
)
