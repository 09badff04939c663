"""Chooses nodes by a selector in which the key `state` names a class: `site=jfk,state in (refused,waiting)`."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Final, TypeVar

from hub.core.rollouts.selector_help import nearest, unknown_key
from hub.core.rollouts.tally import CLASSES
from schemas.errors import Code, Refused
from schemas.selectors import NodeFacts, Requirement, matches, parse, text_of

STATE_KEY: Final = "state"
Line = TypeVar("Line")


def chosen(lines: Sequence[Line], where: str, *, facts: Callable[[Line], NodeFacts], state: Callable[[Line], str]) -> list[Line]:
    """Return the lines whose nodes match.

    Raises:
        Refused: SELECTOR_INVALID: not such a syntax, no such class, or a label that no node has.
    """
    selector = parse(where)
    states = tuple(one for one in selector if one.key == STATE_KEY)
    labels = tuple(one for one in selector if one.key != STATE_KEY)
    _check_states(states)
    nodes = [facts(line) for line in lines]
    if sentence := unknown_key(labels, nodes) if nodes else "":
        raise Refused(Code.SELECTOR_INVALID, sentence.strip())
    found = [line for line, node in zip(lines, nodes, strict=True) if matches(labels, node)]
    return [line for line in found if matches(states, NodeFacts("", {STATE_KEY: state(line)}))]


def _check_states(states: Sequence[Requirement]) -> None:
    for value in (value for one in states for value in one.values):
        if value not in CLASSES:
            close = get_close_matches(value, CLASSES, n=1, cutoff=0.5)
            meant = f" Did you mean {close[0]}?" if close else ""
            raise Refused(Code.SELECTOR_INVALID, f"there is no class {value}; classes are {', '.join(CLASSES)}.{meant}")


def nobody(where: str, nodes: Sequence[NodeFacts]) -> str:
    """Return the sentence for a selector that matches no node, with what is near."""
    labels = tuple(one for one in parse(where) if one.key != STATE_KEY)
    return f"No node matches {text_of(parse(where))}. {nearest(labels, nodes)}".strip()
