"""Decide what a blueprint sets of each node, and by which commands what is set becomes that."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from hub.core.blueprint.changes import SettingsChanged
from hub.core.blueprint.document import NodeRule
from hub.core.blueprint.present import Present
from hub.core.blueprint.reading import Mistake, Path, Written
from hub.core.nodes.device_settings import SCALARS, Chosen, SetNodeSettings
from hub.core.rollouts.selector_help import nearest, unknown_key
from schemas import limits
from schemas.device_settings import LinkBudget
from schemas.errors import Refused
from schemas.selectors import RESERVED_KEYS, NodeFacts, Requirement, matches, parse, text_of

Key = tuple[str, ...]  # Such as ("labels", "ring") or ("budgets", "metered", "hours").


@dataclass(slots=True)
class _Said:
    """Hold what rules say of one node."""

    values: dict[Key, tuple[Any, int, bool]] = field(default_factory=dict)  # With the number of the rule, and whether it names the node.


def desired(written: Written, present: Present, mistakes: list[Mistake]) -> dict[str, tuple[Chosen, int | None]]:
    """Return what is to be set of every node, and the number of the rule that says so; mistakes are added to the list."""
    rules = written.blueprint.nodes or ()
    said: dict[str, _Said] = {name: _Said() for name in present.nodes}
    ours = {key for rule in rules for key in rule.labels} | {key for one in present.nodes.values() for key in one.chosen.labels}
    facts, clashes = present.facts, set[tuple[int, int, Key]]()
    for number, rule in enumerate(rules):
        for key in rule.labels.keys() & set(RESERVED_KEYS):
            mistakes.append(written.mistake(("nodes", number, "labels", key), f"{key!r} is no label: a device says it itself", key=True))
        for name in _nodes_of(number, rule, written, present, facts, ours, mistakes):
            for one in _values(rule):
                _put(said[name], one, number, name, written, clashes, mistakes)
    found = {}
    for name, mine in said.items():
        chosen = _chosen(mine)
        if len(chosen.labels) > limits.LABELS_MAX:
            number = next(iter(mine.values.values()))[1]
            reason = f"node {name} would have {len(chosen.labels)} labels, at most {limits.LABELS_MAX} are allowed"
            mistakes.append(written.mistake(("nodes", number), reason))
        found[name] = chosen, next((number for _, number, _ in mine.values.values()), None)
    return found


def _nodes_of(
    number: int,
    rule: NodeRule,
    written: Written,
    present: Present,
    facts: Sequence[NodeFacts],
    ours: set[str],
    mistakes: list[Mistake],
) -> Iterable[str]:
    """Return the nodes that a rule is about."""
    if rule.node is not None:
        return list(_named(number, rule.node, written, present, mistakes))
    path: Path = ("nodes", number, "where")
    selector = selector_of(rule.where or "", path, written, mistakes)
    if selector is None:
        return []
    if circular := sorted({one.key for one in selector} & ours):
        mend = "choose these nodes by name, or by what devices say of themselves"
        mistakes.append(
            written.mistake(
                path, f"the hub itself sets label {circular[0]}, so that applying this would change which nodes are meant: {mend}"
            )
        )
        return []
    check_matches(selector, facts, path, written, mistakes, allow_empty=rule.allow_empty)
    return [one.node for one in facts if matches(selector, one)]


def _named(number: int, names: Sequence[str], written: Written, present: Present, mistakes: list[Mistake]) -> Iterator[str]:
    seen = set[str]()
    for name in names:
        if name in seen:
            mistakes.append(written.mistake(("nodes", number, "node"), f"node {name} is named twice here"))
        elif name not in present.nodes:
            close = get_close_matches(name, present.nodes, n=1, cutoff=0.5)
            meant = f"; did you mean {close[0]}?" if close else "; `fleetcast nodes` lists the nodes"
            mistakes.append(written.mistake(("nodes", number, "node"), f"node {name} has never reported and was never enrolled{meant}"))
        else:
            yield name
        seen.add(name)


def selector_of(text: str, path: Path, written: Written, mistakes: list[Mistake]) -> tuple[Requirement, ...] | None:
    """Return a selector; None where it is a mistake."""
    try:
        found = parse(text)
    except Refused as refusal:
        mistakes.append(written.mistake(path, refusal.reason))
        return None
    if not found:
        mistakes.append(written.mistake(path, "the selector is empty, and would match every node"))
        return None
    return found


def check_matches(
    selector: tuple[Requirement, ...],
    facts: Sequence[NodeFacts],
    path: Path,
    written: Written,
    mistakes: list[Mistake],
    *,
    allow_empty: bool,
) -> None:
    """Check that a selector matches a known node, as long as any is known."""
    if allow_empty or not facts or any(matches(selector, one) for one in facts):
        return
    near = unknown_key(selector, facts) or nearest(selector, facts)
    reason = f"selector {text_of(selector)} matches none of {len(facts)} known nodes. {near}`allow_empty: true` accepts that"
    mistakes.append(written.mistake(path, reason))


def _values(rule: NodeRule) -> Iterator[tuple[Key, Any]]:
    yield from ((("labels", key), value) for key, value in rule.labels.items())
    yield from (((name,), getattr(rule, name)) for name in SCALARS if getattr(rule, name) is not None)
    for link, budget in rule.budgets.items():
        yield from ((("budgets", link, name), value) for name, value in budget.model_dump(exclude_none=True).items())


def _put(
    said: _Said,
    one: tuple[Key, Any],
    number: int,
    node: str,
    written: Written,
    clashes: set[tuple[int, int, Key]],
    mistakes: list[Mistake],
) -> None:
    """Take a value of a rule for a node: one that names it counts more than one whose selector matches it; two alike must not differ."""
    key, value = one
    is_named = (written.blueprint.nodes or ())[number].node is not None
    if (before := said.values.get(key)) is not None:
        other, first, was_named = before
        if was_named and not is_named:
            return
        if was_named == is_named and other != value:
            if (first, number, key) not in clashes:
                clashes.add((first, number, key))
                there = f"{_shown(other)} in line {written.line(('nodes', first, *key))}"
                reason = f"node {node} gets {'.'.join(key)} {_shown(value)} here and {there}: say one of the two"
                mistakes.append(written.mistake(("nodes", number, *key), reason))
            return
        if was_named == is_named:
            return
    said.values[key] = value, number, is_named


def _shown(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _chosen(said: _Said) -> Chosen:
    labels: dict[str, str] = {}
    budgets: dict[str, dict[str, Any]] = defaultdict(dict)
    scalars: dict[str, Any] = {}
    for key, (value, _, _) in said.values.items():
        match key:
            case ("labels", name):
                labels[name] = value
            case ("budgets", link, name):
                budgets[link][name] = value
            case (name,):
                scalars[name] = value
    return Chosen(labels, budgets={link: LinkBudget(**fields) for link, fields in budgets.items()}, **scalars)


def changes(wanted: Mapping[str, tuple[Chosen, int | None]], present: Present) -> list[SettingsChanged]:
    """Return the changes of settings: nodes to which the same happens are in one, as far as a command takes them."""
    groups: dict[str, list[str]] = defaultdict(list)
    wishes: dict[str, tuple[dict[str, Any], int | None]] = {}
    for name, (after, number) in sorted(wanted.items()):
        if fields := wish_of(present.nodes[name].chosen, after):
            alone = "" if present.nodes[name].state is not None else name  # The hub finds by selector only nodes that have reported.
            key = f"{alone}/{_wish(('n',), fields).model_dump_json(exclude_unset=True)}"
            groups[key].append(name)
            wishes.setdefault(key, (fields, number))
    found = []
    for key, names in groups.items():
        fields, number = wishes[key]
        path: Path = ("nodes",) if number is None else ("nodes", number)
        said = {in_words(present.nodes[name].chosen, wanted[name][0]) for name in names}
        words = said.pop() if len(said) == 1 else in_words(present.nodes[names[0]].chosen, wanted[names[0]][0], was=False)
        found += [SettingsChanged(part, _wish(part, fields), words, path) for part in _parts(names)]
    return found


def _wish(names: tuple[str, ...], fields: Mapping[str, Any]) -> SetNodeSettings:
    whom = {"node": names[0]} if len(names) == 1 else {"where": f"node in ({','.join(names)})"}
    return SetNodeSettings.model_validate({**whom, **fields})


def _parts(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the names in portions that one selector can hold."""
    part, characters = list[str](), 0
    for name in names:
        if part and (len(part) == limits.SELECTOR_VALUES_MAX or characters + len(name) + 1 > limits.SELECTOR_CHARACTERS_MAX - 16):
            yield tuple(part)
            part, characters = [], 0
        part.append(name)
        characters += len(name) + 1
    yield tuple(part)


def wish_of(before: Chosen, after: Chosen) -> dict[str, Any]:
    """Return the fields of a command that makes of one what the other is; none where they are the same."""
    unset = [f"label.{key}" for key in sorted(before.labels.keys() - after.labels.keys())]
    labels = {key: value for key, value in after.labels.items() if before.labels.get(key) != value}
    fields: dict[str, Any] = {}
    for name in SCALARS:
        was, will = getattr(before, name), getattr(after, name)
        if will is None and was is not None:
            unset.append(name)
        elif was != will:
            fields[name] = will
    was_budgets, will_budgets = _budget_fields(before), _budget_fields(after)
    unset += [f"budget.{link}.{name}" for link, name in sorted(was_budgets.keys() - will_budgets.keys())]
    links: dict[str, dict[str, Any]] = defaultdict(dict)
    for (link, name), value in will_budgets.items():
        if was_budgets.get((link, name)) != value:
            links[link][name] = value
    budgets = {link: LinkBudget(**values) for link, values in links.items()}
    given = {"labels": labels, "budgets": budgets, "unset": tuple(unset)}
    return {**fields, **{name: value for name, value in given.items() if value}}


def _budget_fields(chosen: Chosen) -> dict[tuple[str, str], Any]:
    found = (chosen.budgets or {}).items()
    return {(link, name): value for link, one in found for name, value in one.model_dump(exclude_none=True).items()}


def in_words(before: Chosen, after: Chosen, *, was: bool = True) -> str:
    """Return what changes, each with what it was: `label ring=canary (was main), cohort is taken back (was nyc)`."""
    earlier, will = _flat(before), _flat(after)
    found = []
    for name in differing(before, after):
        had = f" (was {_shown(earlier[name])})" if was and name in earlier else ""
        found.append(f"{name}={_shown(will[name])}{had}" if name in will else f"{name} is taken back{had}")
    return ", ".join(found)


def differing(before: Chosen, after: Chosen) -> list[str]:
    """Return the names of the settings that differ."""
    earlier, will = _flat(before), _flat(after)
    return [name for name in sorted(earlier.keys() | will.keys()) if earlier.get(name) != will.get(name)]


def _flat(chosen: Chosen) -> dict[str, Any]:
    scalars = {name: getattr(chosen, name) for name in SCALARS if getattr(chosen, name) is not None}
    labels = {f"label {key}": value for key, value in chosen.labels.items()}
    return {**labels, **scalars, **{f"budget.{link}.{name}": value for (link, name), value in _budget_fields(chosen).items()}}
