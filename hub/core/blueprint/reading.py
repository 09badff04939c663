"""Read a blueprint from the bytes of a file: a mistake names its line and column, and what would be right."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from hub.core.blueprint import yaml_tree
from hub.core.blueprint.document import Blueprint, CarriageTerms, DeploymentTerms, ModelTerms, NodeRule, StageTerms
from hub.core.blueprint.yaml_tree import At, Fields, Tree, Wrong, shown
from schemas.device_settings import LinkBudget
from schemas.errors import Code, Refused
from schemas.patterns import form_of
from schemas.rollout import Gate

Path = tuple[str | int, ...]
MISTAKES_MAX: Final = 20
PATH_CHARACTERS_MAX: Final = 160

# What may be a secret, whatever the key: a blueprint is kept, and shown to everybody who may read the fleet. A finding is never repeated.
_SECRETS: Final = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"\bfct_[A-Za-z0-9_-]{20,}"), "a token of the API"),
    (re.compile(r"\bft1\.[A-Za-z0-9_-]{20,}"), "an enrolment token"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bxox[abp]-[A-Za-z0-9-]{20,}"), "a token of a service"),
    (re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,128}:[^\s/@]{1,128}@"), "an address with a password"),
    (
        re.compile(
            r"(?i)(?:^|[\s{,\"'#-])(?:pass(?:word|wd|phrase)|secret|api[_-]?key|private[_-]?key|token)[\"']?\s*[:=]\s*[\"']?[^\s\"'{}]"
        ),
        "a secret, by its key",
    ),
)
_PARTS: Final[dict[str, type[BaseModel]]] = {"stages": StageTerms, "gate": Gate, "carriage": CarriageTerms}


@dataclass(frozen=True, slots=True)
class Mistake:
    """Name what is wrong, and where."""

    at: At
    reason: str


class InvalidBlueprint(Refused):
    """Report a blueprint's mistakes."""

    def __init__(self, name: str, mistakes: Sequence[Mistake], code: Code = Code.BLUEPRINT_INVALID) -> None:
        found = sorted({one.at: one for one in reversed(mistakes)}.values(), key=lambda one: one.at)  # The first at each place.
        self.places = tuple((f"{shown(name)}:{one.at.line}:{one.at.column}", one.reason) for one in found)
        self.lines = tuple(f"{where}: {reason}" for where, reason in self.places)
        first = found[0]
        more = f" ({len(found)} mistakes in all)" if len(found) > 1 else ""
        super().__init__(code, f"{shown(name)}, line {first.at.line}, column {first.at.column}: {first.reason}{more}")


@dataclass(frozen=True, slots=True)
class Written:
    """Hold a blueprint as it was written: where each part of it is, and under which name it is known to its reader."""

    name: str
    text: str
    blueprint: Blueprint
    tree: Tree
    revision: int | None = None  # Where it was not written now, but is one that was applied: somebody goes back to it.

    def mistake(self, path: Path, reason: str, *, key: bool = False) -> Mistake:
        """Return a mistake at a part of it."""
        return Mistake(yaml_tree.place(self.tree, path, key=key), reason)

    def line(self, path: Path) -> int:
        """Return the line of a part of it."""
        return yaml_tree.place(self.tree, path, key=True).line


def read(data: bytes, *, name: str) -> Written:
    """Read a blueprint; `name` is that of its file.

    Raises:
        InvalidBlueprint: it is too large, no YAML, holds a secret, or says what a blueprint cannot say.
    """
    try:
        text = yaml_tree.decoded(data)
        _check_secrets(text)
        tree = yaml_tree.parse(text)
    except Wrong as wrong:
        raise InvalidBlueprint(name, [Mistake(wrong.at, wrong.reason)]) from None
    if not isinstance(tree, Fields):
        raise InvalidBlueprint(name, [Mistake(tree.at, "a blueprint is a mapping, and begins with `blueprint: 1`")])
    try:
        blueprint = Blueprint.model_validate_json(json.dumps(yaml_tree.as_values(tree)))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[:MISTAKES_MAX]
        raise InvalidBlueprint(name, [_mistake(tree, one) for one in found if not _is_echo(tree, one)]) from None
    return Written(name, text, blueprint, tree)


def _check_secrets(text: str) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        for pattern, what in _SECRETS:
            if (found := pattern.search(line)) is not None:
                where = "a blueprint is kept in the fleet's history and shown to everybody who may read it"
                raise Wrong(
                    At(number, found.start() + 1), f"this looks like {what}: {where}. Take it out, and make a new one if it was real"
                )


def _mistake(tree: Tree, error: Any) -> Mistake:
    path = _path(tree, error["loc"])
    at_end = yaml_tree.place(tree, path)
    value = _value(tree, path)
    dotted = _dotted(path)
    if error["loc"][-1:] == ("[key]",):
        return Mistake(yaml_tree.place(tree, path, key=True), f"{dotted}: {_wanted_of_key(error, str(path[-1]))}")
    match error["type"]:
        case "extra_forbidden":
            return Mistake(yaml_tree.place(tree, path, key=True), _unknown_key(path))
        case "missing":
            return Mistake(tree.at if len(path) == 0 else at_end, _missing(path, str(error["loc"][-1])))
        case "value_error":
            return Mistake(at_end, f"{dotted}: {str(error['msg']).removeprefix('Value error, ')}")
        case _ if value is not None and (trap := yaml_tree.trap(value)) is not None and _wants_text(error):
            return Mistake(at_end, f"{dotted}: {trap}")
        case _:
            return Mistake(at_end, f"{dotted}: {_wanted(error, value)}")


def _is_echo(tree: Tree, error: Any) -> bool:
    """Return whether an error only follows from others: a list is too short where its items are wrong."""
    value = _value(tree, _path(tree, error["loc"]))
    return error["type"] == "too_short" and isinstance(value, yaml_tree.Items) and bool(value.items)


def _wants_text(error: Any) -> bool:
    return bool(error["type"] == "string_type")


def _wanted(error: Any, value: Tree | None) -> str:
    found = f"; it is {_as_found(value)}" if isinstance(value, yaml_tree.Scalar) else ""
    return f"{_must_be(error, _last_word(error['loc']))}{found}"


def _wanted_of_key(error: Any, key: str) -> str:
    return f"{_must_be(error, '')}; the key is {shown(key)!r}"


def _as_found(value: yaml_tree.Scalar) -> str:
    """Return a value as it was written; a text that reads as a number or truth value is one because of its quotes."""
    text = shown(str(value.text))
    return f"{text!r}, a text because of its quotes" if isinstance(value.value, str) and _READS_AS_OTHER.fullmatch(text) else repr(text)


def _last_word(loc: Sequence[str | int]) -> str:
    return next((one for one in reversed(loc) if isinstance(one, str) and not one.startswith("[")), "")


def _must_be(error: Any, key: str) -> str:
    """Return what is right where something is wrong; `key` is the one that it is the value of."""
    kind, given = str(error["type"]), error.get("ctx", {})
    if kind == "string_pattern_mismatch":
        form = form_of(given["pattern"])
        return f"it must be {form.rule}" if form is not None else "it has characters that are not allowed here"
    if (of_key := _OF_KEY.get(kind, {}).get(key)) is not None:
        return of_key
    if kind in _KINDS:
        return _KINDS[kind].format_map(given)
    said = str(error["msg"])
    return f"{said[0].lower()}{said[1:]}"


_READS_AS_OTHER: Final = re.compile(r"(?i)[+-]?[0-9][0-9.]*|on|off|yes|no|true|false")
_OF_KEY: Final = {
    "literal_error": {"blueprint": "it must be the number 1, the version of this format, without quotes"},
    "tuple_type": {
        "nodes": "it must be a list of entries, such as [{node: gateway-17, cohort: nyc}]; [] takes back all that the hub sets",
        "node": "it must be a name, or a list of names such as [gateway-17, gateway-18]",
        "stages": "it must be a list, such as [1, 10, 100]",
    },
}
_KINDS: Final = {
    "bool_type": "it must be on or off (or yes or no, true or false), without quotes",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "string_type": "it must be a text",
    "tuple_type": "it must be a list",
    "literal_error": "it must be {expected}",
    "too_short": "it is empty: leave the key out if nothing is meant",
    "string_too_short": "it is empty: leave the key out if nothing is meant",
    "too_long": "it has {actual_length} entries, at most {max_length} are allowed",
    "string_too_long": "it must have at most {max_length} characters",
    "greater_than_equal": "it must be {ge} or more",
    "greater_than": "it must be more than {gt}",
    "less_than_equal": "it must be {le} or less",
    "less_than": "it must be less than {lt}",
    "dict_type": "it must be a mapping of keys to values",
    "model_type": "it must be a mapping of keys to values",
    "model_attributes_type": "it must be a mapping of keys to values",
}


def _unknown_key(path: Path) -> str:
    name, keys = str(path[-1]), _keys(path[:-1])
    close = get_close_matches(name, keys, n=1, cutoff=0.6)
    meant = f"; did you mean {close[0]}?" if close else f"; keys here are {', '.join(keys)}"
    where = f" in {_dotted(path[:-1])}" if len(path) > 1 else ""
    return f"there is no key {shown(name)!r}{where}{meant}"


def _keys(path: Path) -> list[str]:
    words = [one for one in path if isinstance(one, str)]
    match words:
        case ["nodes", "budgets", *_]:
            kind: type[BaseModel] = LinkBudget
        case ["nodes", *_]:
            kind = NodeRule
        case ["models", _]:
            kind = ModelTerms
        case ["models", _, "deployments", _, part, *_] if part in _PARTS:
            kind = _PARTS[part]
        case ["models", _, "deployments", *_]:
            kind = DeploymentTerms
        case _:
            kind = Blueprint
    return list(kind.model_fields)


def _missing(path: Path, name: str) -> str:
    if name == "blueprint":
        return "`blueprint: 1` is missing: a blueprint begins with the version of its format"
    return f"{_dotted(path)}: {name} is missing"


def _dotted(path: Path) -> str:
    return shown(".".join(str(one) if isinstance(one, str) else str(one + 1) for one in path), PATH_CHARACTERS_MAX) or "the blueprint"


def _path(tree: Tree, loc: Sequence[str | int]) -> Path:
    """Return the part of an error's place that is in the file: the rest are names of alternatives."""
    found: list[str | int] = []
    here: Tree | None = tree
    for part in loc:
        following: Tree | None = None
        if isinstance(here, Fields) and isinstance(part, str):
            following = here.get(part)
        elif isinstance(here, yaml_tree.Items) and isinstance(part, int) and part < len(here.items):
            following = here.items[part]
        if following is not None:
            found.append(part)
            here = following
    return tuple(found)


def _value(tree: Tree, path: Path) -> Tree | None:
    here: Tree | None = tree
    for part in path:
        if isinstance(here, Fields) and isinstance(part, str):
            here = here.get(part)
        elif isinstance(here, yaml_tree.Items) and isinstance(part, int):
            here = here.items[part]
    return here
