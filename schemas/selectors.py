"""Define selectors: which nodes a statement is about, in Kubernetes' syntax for labels, parsed once and signed in parsed form.

`site=jfk`, `tier!=lab`, `arch in (aarch64,x86_64)`, `zone notin (a,b)`, `gpu`, `!gpu`, joined by commas, which mean "and".
The key `node` is the device's own name, and `arch` its processor; every other key is a label.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, Field

from schemas import limits
from schemas.errors import Code, Refused
from schemas.names import LABEL_PATTERN, Label

NODE_KEY: Final = "node"  # The device's own name, which no label can change.
ARCH_KEY: Final = "arch"  # The device's processor, as its profile reports it.
RESERVED_KEYS: Final = (NODE_KEY, ARCH_KEY)
EXAMPLES: Final = "such as site=jfk, tier!=lab, arch in (aarch64,x86_64), gpu or !gpu, joined by commas"
_TERM: Final = re.compile(
    rf"\s*(?:(?P<absent>!\s*{LABEL_PATTERN})"
    rf"|(?P<key>{LABEL_PATTERN})(?:\s*(?P<equal>==?|!=)\s*(?P<value>{LABEL_PATTERN})|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*"
)

Operator = Literal["in", "notin", "exists", "absent"]


class Requirement(NamedTuple):
    """Require something of one label: a value among some, none of some, or that it is there or not."""

    key: Label
    operator: Operator
    values: Annotated[tuple[Label, ...], Field(max_length=limits.SELECTOR_VALUES_MAX)] = ()


def _is_well_formed(selector: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
    for one in selector:
        if (one.operator in {"in", "notin"}) != bool(one.values):
            raise ValueError(f"{one.operator} of {one.key!r} has {len(one.values)} values")
    return selector


Selector = Annotated[tuple[Requirement, ...], Field(max_length=limits.SELECTOR_TERMS_MAX), AfterValidator(_is_well_formed)]
EVERYBODY: Final[tuple[Requirement, ...]] = ()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Hold what a selector may ask of a node: its name, its labels, and its processor where it is known."""

    node: str
    labels: Mapping[str, str]
    arch: str = ""


def matches(selector: tuple[Requirement, ...], node: NodeFacts) -> bool:
    """Return whether a node fulfils every requirement; a selector without any matches everybody.

    As in Kubernetes, `!=` and `notin` also match a node that does not have the label at all.
    """
    return all(fulfils(one, _value(one.key, node)) for one in selector)


def fulfils(requirement: Requirement, value: str | None) -> bool:
    """Return whether the value of a requirement's key is as required; None: there is no such key."""
    match requirement.operator:
        case "in":
            return value in requirement.values
        case "notin":
            return value not in requirement.values
        case "exists":
            return value is not None
        case "absent":
            return value is None


def _value(key: str, node: NodeFacts) -> str | None:
    if key == NODE_KEY:
        return node.node
    if key == ARCH_KEY:
        return node.arch or None
    return node.labels.get(key)


def may_overlap(one: tuple[Requirement, ...], other: tuple[Requirement, ...]) -> bool:
    """Return whether some node could match both; False only where their requirements contradict each other."""
    both = (*one, *other)
    for key in {requirement.key for requirement in both}:
        about = [requirement for requirement in both if requirement.key == key]
        allowed = [set(requirement.values) for requirement in about if requirement.operator == "in"]
        refused = {value for requirement in about if requirement.operator == "notin" for value in requirement.values}
        is_there = bool(allowed) or any(requirement.operator == "exists" for requirement in about)
        if is_there and any(requirement.operator == "absent" for requirement in about):
            return False
        if allowed and not set.intersection(*allowed) - refused:
            return False
    return True


def parse(text: str) -> tuple[Requirement, ...]:
    """Return the requirements that a selector's text states, sorted by key, so that one selector has one form.

    Raises:
        Refused: SELECTOR_INVALID: too long, or not such a syntax; the sentence says where, and shows what is right.
    """
    if len(text) > limits.SELECTOR_CHARACTERS_MAX:
        raise _invalid(f"it has {len(text)} characters, at most {limits.SELECTOR_CHARACTERS_MAX} are allowed: give its nodes a label")
    found: list[Requirement] = []
    position = 0
    while text.strip():  # An empty text requires nothing.
        term = _TERM.match(text, position)
        if term is None or (term.end() < len(text) and text[term.end()] != ","):
            at = position if term is None else term.end()
            raise _invalid(f"{text[at : at + 40]!r} at character {at + 1} is no requirement, {EXAMPLES}")
        found.append(_requirement(term))
        if term.end() == len(text):
            break
        position = term.end() + 1
    if len(found) > limits.SELECTOR_TERMS_MAX:
        raise _invalid(f"it has {len(found)} requirements, at most {limits.SELECTOR_TERMS_MAX} are allowed: give its nodes a label")
    return tuple(sorted(dict.fromkeys(found)))


def _requirement(term: re.Match[str]) -> Requirement:
    if term["absent"]:
        return Requirement(term["absent"][1:].strip(), "absent")
    key = term["key"]
    if term["equal"]:
        return Requirement(key, "notin" if term["equal"] == "!=" else "in", (term["value"],))
    if not term["set"]:
        return Requirement(key, "exists")
    values = [value.strip() for value in term["values"].split(",")]
    wrong = [value for value in values if not re.fullmatch(LABEL_PATTERN, value)]
    if wrong:
        raise _invalid(f"{wrong[0][:80]!r} is no value: 1 to 63 of letters, digits, '.', '_' and '-'")
    if len(values) > limits.SELECTOR_VALUES_MAX:
        raise _invalid(f"{key} has {len(values)} values, at most {limits.SELECTOR_VALUES_MAX} are allowed: give its nodes a label")
    return Requirement(key, "in" if term["set"] == "in" else "notin", tuple(sorted(set(values))))


def from_labels(labels: Mapping[str, str]) -> tuple[Requirement, ...]:
    """Return the selector of nodes that have all of these labels."""
    return tuple(Requirement(key, "in", (value,)) for key, value in sorted(labels.items()))


def as_labels(selector: tuple[Requirement, ...]) -> dict[str, str] | None:
    """Return the labels that a selector requires, where it requires nothing else; None where it does."""
    labels = {one.key: one.values[0] for one in selector if one.operator == "in" and len(one.values) == 1 and one.key not in RESERVED_KEYS}
    return labels if len(labels) == len(selector) else None


def text_of(selector: tuple[Requirement, ...]) -> str:
    """Return a selector as an operator writes it; what `parse` makes of that is the same selector."""
    return ",".join(_text(one) for one in selector)


def _text(one: Requirement) -> str:
    match one.operator:
        case "exists":
            return one.key
        case "absent":
            return f"!{one.key}"
        case "in" | "notin" if len(one.values) == 1:
            return f"{one.key}{'=' if one.operator == 'in' else '!='}{one.values[0]}"
        case _:
            return f"{one.key} {one.operator} ({','.join(one.values)})"


def _invalid(reason: str) -> Refused:
    return Refused(Code.SELECTOR_INVALID, f"selector: {reason}")
