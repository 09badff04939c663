"""Says what an operator may have meant by a selector that matches no node: labels and values that there are, near what was written."""

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from schemas.selectors import ARCH_KEY, NODE_KEY, NodeFacts, Requirement, matches, text_of

KEYS_SHOWN = 5


def nearest(selector: tuple[Requirement, ...], nodes: Sequence[NodeFacts]) -> str:
    """Return a sentence such as `54 match site=jfk. `, or an empty text where nothing is near."""
    for one in selector:
        if one.operator in {"in", "exists"} and not any(matches((one,), node) for node in nodes):
            return _near_value(one, nodes) or _near_key(one, nodes)
    return ""


def unknown_key(selector: tuple[Requirement, ...], nodes: Sequence[NodeFacts]) -> str:
    """Return a sentence about the first label that no node has; empty where each is known."""
    return next((found for one in selector if (found := _near_key(one, nodes))), "")


def _near_value(one: Requirement, nodes: Sequence[NodeFacts]) -> str:
    counts = Counter(value for node in nodes if (value := _value(one.key, node)) is not None)
    for wanted in one.values:
        for near in get_close_matches(wanted, sorted(counts), n=1, cutoff=0.5):
            count = counts[near]
            return f"{count} match{'es' if count == 1 else ''} {text_of((Requirement(one.key, 'in', (near,)),))}. "
    return ""


def _near_key(one: Requirement, nodes: Sequence[NodeFacts]) -> str:
    keys = sorted({key for node in nodes for key in node.labels})
    if one.key in {*keys, NODE_KEY, ARCH_KEY}:
        return ""
    close = get_close_matches(one.key, keys, n=1, cutoff=0.5)
    if close:
        return f"No node has a label {one.key}. Did you mean {close[0]}? "
    known = ", ".join(keys[:KEYS_SHOWN]) + (" and more" if len(keys) > KEYS_SHOWN else "")
    return f"No node has a label {one.key}; there are {known or 'none'}. "


def _value(key: str, node: NodeFacts) -> str | None:
    if key == NODE_KEY:
        return node.node
    return (node.arch or None) if key == ARCH_KEY else node.labels.get(key)
