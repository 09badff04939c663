"""Write a blueprint of what is, so that a fleet that exists can adopt one: compared with the same fleet, it shows no difference."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from hub.core.blueprint.changes import SECONDS
from hub.core.blueprint.present import Present
from hub.core.nodes.device_settings import SCALARS, Chosen
from hub.core.rollouts.moves import runs
from schemas.deployments import DEFAULT, Deployment, Stage
from schemas.rollout import Carriage, Gate
from schemas.selectors import NodeFacts, matches, text_of
from schemas.windows import windows_text

HEAD: Final = (
    "# yaml-language-server: $schema=fleet.schema.json",
    "# `fleetcast blueprint --schema > fleet.schema.json` writes the schema for editors.",
)


def export(present: Present, *, based_on: int | None = None) -> str:
    """Return the text of a blueprint that says what is; `based_on` is the revision in force, if there is one."""
    lines = [*HEAD, "blueprint: 1", f"fleet: {_text(present.fleet)}"]
    if based_on is not None:
        lines.append(f"based_on: {based_on}")
    models = {name: one.model.deployments for name, one in sorted(present.models.items())}
    facts = present.facts
    found = {name: {"deployments": {each.name: _deployment(each, facts) for each in of}} for name, of in models.items()}
    lines += _lines({"models": found}, 0)
    lines += _lines({"nodes": list(_rules(present))}, 0)
    return "\n".join(lines) + "\n"


def _deployment(one: Deployment, facts: Sequence[NodeFacts]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    selectors = [one.selector, *(each.selector for each in one.stages if each.selector is not None)]
    if any(not any(matches(selector, node) for node in facts) for selector in selectors if selector):
        found["allow_empty"] = True
    if one.name != DEFAULT:
        found["where"] = text_of(tuple(sorted(one.selector)))
        found["priority"] = one.priority
    release = runs(one)
    if release is None:
        return found
    found["release"] = release.version
    if values := one.parameters_of(release.digest):
        found["parameters"] = values
    return {**found, **_terms(one)}


def _terms(one: Deployment) -> dict[str, Any]:
    """Return on which terms its last rollout moved nodes: the next one is to move them so, too."""
    terms: dict[str, Any] = {}
    if one.stages != (Stage(100),):
        terms["stages"] = [_stage(each, is_first=number == 0) for number, each in enumerate(one.stages)]
    if one.gate is not None:
        terms["gate"] = _given(one.gate, Gate())
    if one.carriage is not None:
        terms["carriage"] = {name: value for name, value in _given(one.carriage, Carriage()).items() if name != "fetch"}
        if one.carriage.fetch is not None:
            terms["fetch"] = windows_text(one.carriage.fetch)
    if one.activate is not None:
        terms["activate"] = windows_text(one.activate)
    if one.deadline is not None and one.deadline > one.started:
        terms["deadline"] = _duration(one.deadline - one.started)
    return {name: value for name, value in terms.items() if value}


def _stage(one: Stage, *, is_first: bool) -> Any:
    approve = {"approve": True} if one.approve is not None and not is_first else {}
    if one.percent is not None:
        return {"percent": one.percent, **approve} if approve else one.percent
    return {"name": one.name or "stage", "where": text_of(one.selector or ()), **approve}


def _given(one: Gate | Carriage, default: Gate | Carriage) -> dict[str, Any]:
    return {name: value for name, value in one.model_dump().items() if value is not None and value != getattr(default, name)}


def _duration(seconds: int) -> str:
    """Return a duration, rounded up to a minute."""
    unit = next((unit for unit in ("d", "h") if seconds % SECONDS[unit] == 0), "m")
    return f"{-(-seconds // SECONDS[unit])}{unit}"


def _rules(present: Present) -> Iterator[dict[str, Any]]:
    """Yield a rule for each set of settings, with the nodes that have it."""
    alike: dict[str, list[str]] = defaultdict(list)
    said: dict[str, dict[str, Any]] = {}
    for name, one in sorted(present.nodes.items()):
        if fields := _settings(one.chosen):
            key = json.dumps(fields, sort_keys=True)
            alike[key].append(name)
            said[key] = fields
    for key, names in alike.items():
        yield {"node": names[0] if len(names) == 1 else names, **said[key]}


def _settings(chosen: Chosen) -> dict[str, Any]:
    budgets = {link: one.model_dump(exclude_none=True) for link, one in sorted((chosen.budgets or {}).items())}
    found: dict[str, Any] = {"labels": dict(sorted(chosen.labels.items()))}
    found |= {name: getattr(chosen, name) for name in SCALARS}
    found["budgets"] = {link: fields for link, fields in budgets.items() if fields}
    return {name: value for name, value in found.items() if value not in (None, {}, "")}


# YAML. It is written by hand, for only so are texts quoted wherever one of YAML's versions takes them for something else.


def _lines(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    pad = "  " * depth
    for key, one in value.items():
        match one:
            case Mapping() if one:
                yield f"{pad}{_key(key)}:"
                yield from _lines(one, depth + 1)
            case list() if one and any(isinstance(each, Mapping) for each in one):
                yield f"{pad}{_key(key)}:"
                for each in one:
                    yield from _item(each, depth + 1)
            case _:
                yield f"{pad}{_key(key)}: {_flow(one)}"


def _item(value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if not isinstance(value, Mapping):
        yield f"{pad}- {_flow(value)}"
        return
    for number, line in enumerate(_lines(value, depth + 1)):
        yield f"{pad}- {line.lstrip()}" if number == 0 else line


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_flow(one) for one in value) + "]"
    return _text(value) if isinstance(value, str) else _number(value) if isinstance(value, float) else json.dumps(value)


def _number(value: float) -> str:
    """Return a number with a point: without one, 1e-07 is a text to YAML."""
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _key(key: str) -> str:
    is_word = key.replace("_", "").replace("-", "").isalpha() and key.isascii() and key.lower() not in _WORDS
    return key if is_word else _text(key)


_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def _text(value: str) -> str:
    """Return a text in YAML: names and selectors as they are, whatever might be something else in double quotes."""
    is_plain = value[:1].isalpha() and value.isascii() and all(one.isalnum() or one in "._=-/" for one in value)
    return value if is_plain and value.lower() not in _WORDS else json.dumps(value)
