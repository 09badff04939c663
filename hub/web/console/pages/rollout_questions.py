"""Ask before a rollout is halted, taken back, approved, retried or resumed: what happens, to how many nodes, at what cost."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from hub.core.rollouts import commands, going_back
from hub.core.rollouts.tally import retries_of
from hub.operations import planning, rollouts
from hub.operations.node_classes import NodeLine
from hub.operations.queueing import queue
from hub.web.console.moments import counted
from hub.web.console.page import Asking, Done, Given, Question, View, etag_of, serial_of
from hub.web.console.pages.release_plan import cost_in_words
from hub.web.console.pages.rollout import PATH
from hub.web.console.pages.rollout_facts import RolloutFacts, rollout_of
from hub.web.console.sentence import named
from schemas.errors import Code, Refused


def ask_halt(view: View) -> Asking:
    """Return the question behind Halt."""
    facts = _facts(view, {"running"}, "halted")
    serving = {line.node.name for line in facts.serving}
    others = [line for line in facts.lines if line.node.name not in serving]
    begun = sum(line.found.name == "moving" and _has_begun(line) for line in others)
    keep = f"{number_of(len(facts.serving), 'node')} {verb(len(facts.serving), 'keep')} {facts.deployment.release.version}"
    stay = (
        f"{counted(len(others))} {verb(len(others), 'stay')} on what {'it serves' if len(others) == 1 else 'they serve'}{_versions(others)}"
    )
    stop = f" {begun} of them {'has' if begun == 1 else 'have'} begun to fetch and will stop." if begun else ""
    return _asking(
        facts,
        "halt",
        heading=f"Halt {facts.title}?",
        text=f"{keep}, {stay}.{stop} Nothing is removed; you can resume.",
        no="Leave it running",
        yes=f"Halt {facts.title}",
        is_stop=True,
    )


def ask_back(view: View) -> Asking:
    """Return the question behind Take back."""
    facts = _facts(view, {"running", "halted", "done"}, "taken back")
    serving, rest = facts.serving, len(facts.lines) - len(facts.serving)
    nodes = [line.node for line in facts.lines]
    progress = facts.model.get(facts.deployment.name)
    if progress is not None:
        going_back.check_possible(facts.model, progress, nodes)
    to = going_back.destinations(facts.deployment, nodes, facts.model.name)
    versions = view.fleet.repository.versions_by_digest(facts.model.name)
    where = ", ".join(f"{count} to {going_back.named(digest, versions.get)}" for digest, count in to.most_common())
    holds = sum(_holds(line, going_back.destination(facts.deployment, line.node, line.model)) for line in serving)
    missing = len(serving) - holds
    cost = "0 bytes: all hold it." if not missing else f"{holds} of {len(serving)} hold it, the others fetch it."
    each = (
        f"Each goes back to what it served before: {where}. {cost}"
        if len(serving) > 1
        else f"It goes back to what it served before: {where}. {cost}"
    )
    later = " Nodes that begin to serve it meanwhile go back, too." if facts.deployment.state == "running" else ""
    text = f"{each}{later}" if serving else "No node serves it yet. Those that fetch it stop."
    return _asking(
        facts,
        "back",
        heading=f"Take {number_of(len(serving), 'node')} back?" if serving else f"Take {facts.title} back?",
        text=f"{text} {number_of(rest, 'node')} {'is' if rest == 1 else 'are'} not touched.",
        no="Leave it" if len(serving) == 1 else "Leave them",
        yes=f"Take {len(serving)} back" if serving else "Take it back",
        is_stop=True,
        needs_reason=True,
    )


def ask_approve(view: View) -> Asking:
    """Return the question behind Approve."""
    facts = _facts(view, {"running", "halted"}, "approved")
    if not facts.may_approve:
        raise Refused(Code.ROLLOUT_INVALID, f"no stage of {facts.name} waits for approval now")
    at = facts.deployment.stage + 1
    mine, version = facts.of_stage[at], facts.deployment.release.version
    move = f"{number_of(len(mine), 'node')} {verb(len(mine), 'move')} to {version}"
    return _asking(
        facts,
        "approve",
        heading=f"Approve stage {at + 1}?",
        text=f"When stage {at} has passed, {move}{_cost(view, facts, mine)}.",
        no="Not yet",
        yes=f"Approve {number_of(len(mine), 'node')}",
        of=[len(mine)],
        figure=move,
    )


def ask_retry(view: View) -> Asking:
    """Return the question behind Retry."""
    facts = _facts(view, {"running", "halted", "done"}, "retried")
    failed = sorted(facts.failed, key=lambda line: line.node.name)
    if not failed:
        raise Refused(Code.ROLLOUT_INVALID, f"no node of {facts.name} has failed, so that there is nothing to try again")
    names = [line.node.name for line in failed]
    own = retries_of(facts.deployment)
    tries = f" Beside that, each tries again by itself up to {own} times." if own else ""
    return _asking(
        facts,
        "retry",
        heading=f"Retry {len(failed)} failed?",
        text=f"{named(names)} {verb(len(failed), 'try') if len(failed) > 1 else 'tries'} once more. Their failures count again.{tries}",
        no="Leave it" if len(failed) == 1 else "Leave them",
        yes=f"Retry {len(failed)}",
        of=names,
        figure=f"{named(names)} failed",
    )


def ask_resume(view: View) -> Asking:
    """Return the question behind Resume."""
    facts = _facts(view, {"halted"}, "resumed")
    mine = [line for at in range(facts.deployment.stage + 1) for line in facts.of_stage[at]]
    begun = sum(_has_begun(line) for line in mine if line.found.name in {"moving", "waiting"})
    rest = sum(line.found.name in {"moving", "waiting"} for line in mine) - begun
    fetch = (
        f"{number_of(begun, 'node')} {'fetches' if begun == 1 else 'fetch'} on, {counted(rest)} {verb(rest, 'begin')} when their turn comes"
    )
    return _asking(
        facts,
        "resume",
        heading=f"Resume {facts.title}?",
        text=f"It goes on in stage {facts.deployment.stage + 1}: {fetch}. What failed and what drifted before halts it no more.",
        no="Leave it halted",
        yes=f"Resume {facts.title}",
    )


def _asking(
    facts: RolloutFacts,
    word: str,
    *,
    is_stop: bool = False,
    needs_reason: bool = False,
    heading: str,
    text: str,
    no: str,
    yes: str,
    of: Sequence[object] = (),
    figure: str = "",
) -> Asking:
    """Return a question about a rollout, whose command is `fleetcast rollout WORD`.

    `of` is what its words were counted by, besides the model's statement, and `figure` what that is in words. What stops nodes has none:
    while a rollout runs its figures change every second, and nobody could stop it.
    """
    return Asking(
        heading=heading,
        text=text,
        no=no,
        yes=yes,
        cli=facts.model.command(word, facts.deployment.name),
        back_to=facts.href,
        etag=etag_of(facts.model.serial, of),
        is_stop=is_stop,
        needs_reason=needs_reason,
        figure=f"{_figure(facts)}{f'; {figure}' if figure else ''}",
    )


def _facts(view: View, states: set[str], done: str) -> RolloutFacts:
    """Return the rollout that a question is about.

    Raises:
        Refused: there is none, or its state does not allow it.
    """
    facts = rollout_of(view, view.params["model"], view.params["deployment"])
    if facts.deployment.state not in states:
        state = facts.deployment.state.replace("_", " ")
        raise Refused(
            Code.ROLLOUT_INVALID,
            f"the rollout of {facts.name} is {state}, and only one that is {' or '.join(sorted(states))} can be {done}",
        )
    return facts


def _figure(facts: RolloutFacts) -> str:
    count, state = len(facts.serving), facts.deployment.state.replace("_", " ")
    return f"{facts.stage}, {state}, {number_of(count, 'node')} {verb(count, 'serve')} {facts.deployment.release.version}"


def _has_begun(line: NodeLine) -> bool:
    slots = [one for one in line.node.state.slots if one.model == line.model]
    return any(one.state in {"fetching", "staged", "testing", "shadow"} and one.target != one.serving for one in slots)


def _versions(lines: Sequence[NodeLine]) -> str:
    found = Counter(line.serves or "none" for line in lines)
    parts = [f"{count} on {version}" for version, count in found.most_common(4)]
    return f" ({', '.join(parts)})" if parts else ""


def _holds(line: NodeLine, digest: bytes | None) -> bool:
    """Return whether a node needs to fetch nothing to serve a release: it is on its disk."""
    return digest is None or any(slot.model == line.model and digest in {slot.serving, slot.last_good} for slot in line.node.state.slots)


def _cost(view: View, facts: RolloutFacts, lines: Sequence[NodeLine]) -> str:
    """Return what the move of nodes costs, by the same reckoning as the plan and the question before the start; "" where none moves."""
    if not lines:
        return ""
    states = [line.node.state for line in lines]
    fetched = planning.fetched_by(view.fleet, facts.model.name, facts.deployment.release.version, states)
    return f": {cost_in_words(fetched.total_bytes, fetched.roaming_bytes)}"


def _done(kind: type[commands.OfDeployment]) -> Callable[[View, Given], Done]:
    def do(view: View, given: Given) -> Done:
        facts = rollout_of(view, view.params["model"], view.params["deployment"])
        wish = {"deployment": facts.deployment.name, "if_serial": serial_of(given.etag), **({"why": given.reason} if given.reason else {})}
        prepared = rollouts.change(view.fleet, facts.model.name, commands.read_as(kind, json.dumps(wish)))
        return Done(facts.href, queue(view.fleet, prepared.model, prepared.command))

    return do


QUESTIONS: Final = (
    Question(f"{PATH}/halt", "Halting", "operator", ask_halt, _done(commands.Halt)),
    Question(f"{PATH}/back", "Taking nodes back", "operator", ask_back, _done(commands.Rollback)),
    Question(f"{PATH}/approve", "Approving", "operator", ask_approve, _done(commands.Approve)),
    Question(f"{PATH}/retry", "Retrying", "operator", ask_retry, _done(commands.Retry)),
    Question(f"{PATH}/resume", "Resuming", "operator", ask_resume, _done(commands.Resume)),
)
