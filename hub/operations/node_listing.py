"""Choose nodes as lists of them do: by a selector, by what they serve or wait for; count them by what they have in common; cut pages."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from hub.core.rollouts.node_class import BY_NEED, NodeClass
from hub.core.rollouts.node_filter import STATE_KEY, nobody
from hub.operations.node_classes import NodeLine
from hub.operations.snapshot import Snapshot, check_sort
from schemas.errors import Code, Refused
from schemas.selectors import ARCH_KEY, Requirement, parse, text_of

DEFAULT_SORT: Final = "state"
VALUES_SHOWN: Final = 6
KEYS_SHOWN: Final = 4  # Labels that have facets, besides the site.
VALUES_MAX: Final = 200  # A label of more values tells nodes apart rather than together.
SITE: Final = "site"
WAITS: Final = ("stage", "approval", "window", "budget", "clock", "halted", "other")


class Place(NamedTuple):
    """Name a node's place in an order."""

    rank: int
    node: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Hold what a list of nodes is asked for.

    A selector, a release that they serve (model@version, or model for any), what they wait for, and the deployment that decides for them
    (model/name).
    """

    where: str = ""
    serves: str = ""
    waits: str = ""
    deployment: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """Hold one value of a facet: how many nodes have it, and what would be asked for to see them."""

    text: str
    nodes: int
    asked: Asked
    is_chosen: bool = False


@dataclass(frozen=True, slots=True)
class Facet:
    """Hold the values that nodes have in common, most nodes first; `left_out` of them are not shown."""

    name: str
    values: tuple[Value, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """Hold the nodes that were asked for, in their order, and how many of them are in each class."""

    places: tuple[Place, ...]
    total: int  # All nodes.
    classes: Mapping[str, int]  # Those for which no deployment decides are in none: "".
    facets: tuple[Facet, ...]
    nobody: str  # The sentence for when there are none.


@dataclass(frozen=True, slots=True)
class Cut:
    """Hold one page of a list: its nodes, the number of the first of them, and the keys from which its neighbours are cut."""

    nodes: tuple[str, ...]
    first: int
    before: Place | None  # The page before begins behind this one; None where that is the first.
    has_before: bool
    next: Place | None


def waits_for(found: NodeClass) -> str:
    """Return in one word what a node waits for; "" where it does not wait."""
    if found.name != "waiting":
        return ""
    if found.code == Code.WINDOW_CLOSED:
        return "window"
    if found.code:
        return next((word for word in ("budget", "clock") if found.code.startswith(word)), "other")
    if "halted" in found.sentence:
        return "halted"
    return "approval" if "needs approval" in found.sentence else "stage" if "later stage" in found.sentence else "other"


def listing(seen: Snapshot, asked: Asked, sort: str = DEFAULT_SORT, *, expanded: str = "") -> Listing:
    """Return the nodes that are asked for; `expanded` names the facet of which more values are shown.

    Raises:
        Refused: SELECTOR_INVALID, or there is no such order, release or reason.
    """
    if asked.waits and asked.waits not in WAITS:
        raise Refused(Code.REQUEST_INVALID, f"nodes wait for one of {', '.join(WAITS)}, not for {asked.waits[:40]!r}")
    check_sort(sort)
    seen = narrowed(seen, asked)
    names = _names(seen, asked)
    places = tuple(Place(*one) for one in seen.ordered(sort, names))
    classes = Counter(_class(seen, name) for name in names)
    sentence = "" if places else _nobody(seen, asked)
    return Listing(places, len(seen.seen.nodes), classes, tuple(_facets(seen, asked, names, expanded)), sentence)


def narrowed(seen: Snapshot, asked: Asked) -> Snapshot:
    """Return the nodes in the classes of the deployment that is asked for, else of the model that needs somebody most."""
    model, _, name = asked.deployment.partition("/")
    return seen.of_deployment(model, name) if asked.deployment else seen


def cut(found: Sequence[Place], after: Place | None, limit: int) -> Cut:
    """Return the page behind a place. A node that is gone leaves its place behind, so that a page goes on from there."""
    start = bisect_right(found, after) if after is not None else 0
    page = found[start : start + limit]
    is_more = start + limit < len(found)
    back = max(0, start - limit)
    before = found[back - 1] if back > 0 else None
    return Cut(tuple(one.node for one in page), start + 1, before, start > 0, page[-1] if page and is_more else None)


def position(found: Sequence[Place], place: Place) -> int:
    """Return how many nodes come before a place."""
    return bisect_left(found, place)


def _names(seen: Snapshot, asked: Asked) -> list[str]:
    keys, _ = seen.nodes(asked.where or None, "node")
    names = [name for _, name in keys]
    if asked.serves:
        model, _, version = asked.serves.partition("@")
        names = [name for name in names if (serves := _version(seen, name, model)) is not None and version in {"", serves}]
    if asked.deployment:
        names = [name for name in names if name in seen.worst]
    if asked.waits:
        names = [name for name in names if (line := seen.worst.get(name)) is not None and waits_for(line.found) == asked.waits]
    return names


def _version(seen: Snapshot, name: str, model: str) -> str | None:
    serving = seen.seen.nodes[name].serving.get(model)
    return serving.version if serving is not None else None


def _class(seen: Snapshot, name: str) -> str:
    line: NodeLine | None = seen.worst.get(name)
    return line.found.name if line is not None else ""


def _nobody(seen: Snapshot, asked: Asked) -> str:
    if replace(asked, where="") == Asked():
        return nobody(asked.where, [node.facts for node in seen.seen.nodes.values()]) if asked.where else ""
    what = [f"serves {asked.serves.replace('@', ' ')}"] if asked.serves else []
    what += [f"waits for {asked.waits}"] if asked.waits else []
    what += [f"is of deployment {asked.deployment}"] if asked.deployment else []
    return f"No node{f' that matches {asked.where}' if asked.where else ''} {' and '.join(what)}."


def _facets(seen: Snapshot, asked: Asked, names: Sequence[str], expanded: str) -> list[Facet]:
    selector = parse(asked.where)
    found = [_class_facet(seen, asked, selector, names)]
    waits = Counter(waits_for(seen.worst[name].found) for name in _without(seen, asked, names, "waits") if name in seen.worst)
    values = [
        Value(word, waits[word], replace(asked, waits="" if asked.waits == word else word), asked.waits == word)
        for word in WAITS
        if waits[word] or asked.waits == word
    ]
    found += [Facet("waits for", tuple(values))] if values else []
    for key in _keys(seen, selector):
        found.append(_label_facet(seen, asked, selector, names, key, expanded))
    return [*found, *_serves_facet(seen, asked, names, expanded)]


def _class_facet(seen: Snapshot, asked: Asked, selector: tuple[Requirement, ...], names: Sequence[str]) -> Facet:
    counts = Counter(_class(seen, name) for name in _without(seen, asked, names, STATE_KEY))
    return Facet("class", tuple(_value(asked, selector, STATE_KEY, one, counts[one]) for one in BY_NEED if counts[one] or not asked.where))


def _label_facet(seen: Snapshot, asked: Asked, selector: tuple[Requirement, ...], names: Sequence[str], key: str, expanded: str) -> Facet:
    counts = Counter(value for name in _without(seen, asked, names, key) if (value := _label(seen, name, key)))
    values = [_value(asked, selector, key, text, nodes) for text, nodes in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]
    return _bounded(key, values, expanded)


def _serves_facet(seen: Snapshot, asked: Asked, names: Sequence[str], expanded: str) -> list[Facet]:
    here = _without(seen, asked, names, "serves")
    counts = Counter(f"{model}@{one.version}" for name in here for model, one in seen.seen.nodes[name].serving.items())
    values = [
        Value(name, nodes, replace(asked, serves="" if asked.serves == name else name), asked.serves == name)
        for name, nodes in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    ]
    return [_bounded("serves", values, expanded)] if values else []


def _bounded(name: str, values: Sequence[Value], expanded: str) -> Facet:
    shown = VALUES_MAX if expanded == name else VALUES_SHOWN
    first = [one for at, one in enumerate(values) if at < shown or one.is_chosen]
    return Facet(name, tuple(first), len(values) - len(first))


def _without(seen: Snapshot, asked: Asked, names: Sequence[str], key: str) -> Sequence[str]:
    """Return the nodes that would be shown if nothing were asked of this key: a facet counts what it offers to choose instead."""
    if key in {"serves", "waits"}:
        return names if not getattr(asked, key) else _names(seen, replace(asked, **{key: ""}))
    selector = parse(asked.where)
    left = tuple(one for one in selector if one.key != key)
    return names if len(left) == len(selector) else _names(seen, replace(asked, where=text_of(left)))


def _keys(seen: Snapshot, selector: tuple[Requirement, ...]) -> list[str]:
    """Return the labels that have facets: the site first, then those of the selector, then the commonest, and the processor."""
    counts, values = Counter[str](), dict[str, set[str]]()
    for node in seen.seen.nodes.values():
        for key, value in node.labels.items():
            counts[key] += 1
            values.setdefault(key, set()).add(value)
    asked = [one.key for one in selector if one.key in counts]
    common = [key for key, _ in counts.most_common() if key != SITE and key not in asked and _is_common(counts[key], len(values[key]))]
    keys = [*([SITE] if SITE in counts else []), *(key for key in asked if key != SITE), *common[:KEYS_SHOWN]]
    return [*dict.fromkeys(keys), *([ARCH_KEY] if any(node.arch for node in seen.seen.nodes.values()) else [])]


def _is_common(nodes: int, values: int) -> bool:
    """Return whether a label puts nodes into groups, rather than telling each from the others."""
    return 1 < values <= min(VALUES_MAX, nodes // 2)


def _label(seen: Snapshot, name: str, key: str) -> str:
    node = seen.seen.nodes[name]
    return node.arch if key == ARCH_KEY else node.labels.get(key, "")


def _value(asked: Asked, selector: tuple[Requirement, ...], key: str, text: str, nodes: int) -> Value:
    """Return a value of a facet. To choose it shows the nodes that it counts, and to choose it again all of its key's."""
    mine = next((one for one in selector if one.key == key and one.operator == "in"), None)
    is_chosen = mine is not None and text in mine.values
    others = tuple(one for one in selector if one.key != key)
    selected = others if is_chosen else (*others, Requirement(key, "in", (text,)))
    return Value(text, nodes, replace(asked, where=text_of(tuple(sorted(selected)))), is_chosen)
