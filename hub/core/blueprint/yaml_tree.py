"""Read YAML into a tree that knows the line and column of everything, within bounds, and without what makes YAML dangerous or surprising.

The text is read as events, so that its depth and size are bounded before anything is built. Anchors, aliases, tags, merge keys, several
documents, duplicate keys and words that YAML's versions read differently are refused, each with what would be right.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from schemas import limits

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, and every wheel has it.
_RESOLVER: Final = yaml.resolver.Resolver()
_PREFIX: Final = "tag:yaml.org,2002:"
_BOOLS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
DIGITS_MAX: Final = 18
SHOWN_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True, order=True)
class At:
    """Name a place in a text; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """Hold a word, a number or a text. `plain` says that it has no quotes, so that YAML chose its type."""

    at: At
    text: str
    value: str | bool | int | float
    plain: bool


@dataclass(frozen=True, slots=True)
class Items:
    """Hold a list."""

    at: At
    items: tuple["Tree", ...]


@dataclass(frozen=True, slots=True)
class Fields:
    """Hold a mapping, in its order."""

    at: At
    fields: tuple[tuple[Scalar, "Tree"], ...]

    def get(self, name: str) -> "Tree | None":
        """Return the value of a key."""
        return next((value for key, value in self.fields if key.value == name), None)

    def key(self, name: str) -> Scalar | None:
        """Return a key as it is written."""
        return next((key for key, _ in self.fields if key.value == name), None)


Tree = Scalar | Items | Fields


class Wrong(Exception):
    """Report what is wrong with a text, and where."""

    def __init__(self, at: At, reason: str) -> None:
        super().__init__(reason)
        self.at, self.reason = at, reason


def shown(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """Return a part of a file for a sentence: short, and without what a terminal would obey."""
    short = text if len(text) <= most else f"{text[:most]}..."
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in short)


def decoded(data: bytes) -> str:
    """Return the text of a file.

    Raises:
        Wrong: it is too large, no UTF-8, or has characters that do not print.
    """
    if len(data) > limits.BLUEPRINT_BYTES_MAX:
        raise Wrong(At(1, 1), f"the file has more than {limits.BLUEPRINT_BYTES_MAX} bytes, which is the most that a blueprint may have")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        at = At(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        raise Wrong(at, "this is no UTF-8: save the file as UTF-8") from None
    text = text.replace("\r\n", "\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.isprintable():
            for column, sign in enumerate(line, start=1):
                if not sign.isprintable() and sign != "\t":
                    mend = "take it out, or write it as an escape in quotes"
                    raise Wrong(At(number, column), f"character U+{ord(sign):04X} does not print: {mend}")
    return text


def parse(text: str) -> Tree:
    """Return the tree of a text that was `decoded`.

    Raises:
        Wrong: no such text, or something in it is not allowed.
    """
    events = _events(text)
    try:
        return _document(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = At(mark.line + 1, mark.column + 1) if mark is not None else At(1, 1)
        raise Wrong(at, _syntax(text, at, error)) from None
    except yaml.YAMLError as error:
        raise Wrong(At(1, 1), f"it cannot be read as YAML: {shown(str(error).splitlines()[0])}") from None
    except RecursionError:  # libyaml's own bound is beyond ours; this is for its pure sister.
        raise Wrong(At(1, 1), f"more than {limits.BLUEPRINT_DEPTH_MAX} levels are within each other") from None


def _syntax(text: str, at: At, error: yaml.MarkedYAMLError) -> str:
    lines = text.split("\n")
    line = lines[at.line - 1] if at.line <= len(lines) else ""
    mend = ": YAML is indented with spaces, and here is a tab" if "\t" in line[: at.column] else ""
    if "mapping values" in (error.problem or ""):
        mend = ": a text with ': ' in it needs quotes, and the keys of one level begin in one column"
    if "undefined alias" in (error.problem or ""):
        mend = ": aliases are not allowed; write '*' in quotes"
    return f"this is no YAML: {error.problem or 'it ends too early'}{mend}"


def _events(text: str) -> Iterator[yaml.Event]:
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER), start=1):
        if count > limits.BLUEPRINT_VALUES_MAX:
            raise Wrong(_at(event), f"it has more than {limits.BLUEPRINT_VALUES_MAX} values, which is the most that a blueprint may have")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > limits.BLUEPRINT_DEPTH_MAX:
                raise Wrong(_at(event), f"more than {limits.BLUEPRINT_DEPTH_MAX} levels are within each other")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        yield event


def _document(events: Iterator[yaml.Event]) -> Tree:
    found: Tree | None = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if found is not None:
                raise Wrong(_at(event), "a second document begins here: a blueprint is one, without '---' in it")
            first = next(events)
            if isinstance(first, yaml.ScalarEvent) and not first.value and first.implicit[0]:
                break  # Nothing but comments.
            found = _tree(first, events)
    if found is None:
        raise Wrong(At(1, 1), "the file is empty; `fleetcast blueprint` writes one of what is now")
    return found


def _tree(event: yaml.Event, events: Iterator[yaml.Event]) -> Tree:
    at = _at(event)
    if isinstance(event, yaml.AliasEvent):
        raise Wrong(
            at,
            f"`*{shown(event.anchor or '')}` is an alias, and aliases are not allowed: write it out, or write it in quotes if it is text",
        )
    if anchor := getattr(event, "anchor", None):
        raise Wrong(at, f"`&{shown(anchor)}` is an anchor, and anchors are not allowed: write each value where it is used")
    if (tag := getattr(event, "tag", None)) is not None:
        raise Wrong(at, _of_tag(tag, event))
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event, at)
    if isinstance(event, yaml.SequenceStartEvent):
        items = list[Tree]()
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_tree(item, events))
        return Items(at, tuple(items))
    return _fields(events, at)


def _fields(events: Iterator[yaml.Event], at: At) -> Fields:
    found: dict[str, tuple[Scalar, Tree]] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise Wrong(_at(event), "`<<` merges mappings, which is not allowed: write the keys out")
        if isinstance(event, yaml.CollectionStartEvent):
            raise Wrong(_at(event), "a key must be a word; text with braces in it, such as a template's, needs quotes")
        key = _tree(event, events)
        assert isinstance(key, Scalar)  # noqa: S101  # nothing else is left
        if not isinstance(key.value, str):
            raise Wrong(key.at, f'{_trap(key)}: write the key in quotes, "{shown(key.text)}"')
        if key.value in found:
            raise Wrong(key.at, f"key {shown(key.value)!r} is here twice; the first one is in line {found[key.value][0].at.line}")
        found[key.value] = key, _tree(next(events), events)
    return Fields(at, tuple(found.values()))


def _scalar(event: yaml.ScalarEvent, at: At) -> Scalar:
    text = event.value
    if not event.implicit[0]:  # In quotes, or a block of text.
        return Scalar(at, text, text, plain=False)
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    kind = tag.removeprefix(_PREFIX)
    match kind:
        case "null":
            raise Wrong(at, "there is no value: write one, or leave the key out; `{}` is an empty mapping, and `[]` an empty list")
        case "bool":
            return Scalar(at, text, _BOOLS[text.lower()], plain=True)
        case "int" if _WHOLE.fullmatch(text) and len(text) <= DIGITS_MAX:
            return Scalar(at, text, int(text), plain=True)
        case "float" if "n" not in text.lower() and "_" not in text and ":" not in text:
            return Scalar(at, text, float(text), plain=True)
        case "int" | "float" | "timestamp":
            what = "a date" if kind == "timestamp" else "a number that YAML's versions read differently, or no finite one"
            raise Wrong(at, f'`{shown(text)}` is {what}: write it in quotes if it is text, "{shown(text)}", else as a plain decimal number')
    return Scalar(at, text, text, plain=True)


def _trap(one: Scalar) -> str:
    """Return what YAML makes of a word that was meant as text: `no` is false."""
    if isinstance(one.value, bool):
        return f"`{shown(one.text)}` is the truth value {'true' if one.value else 'false'} to YAML, and no text"
    return f"`{shown(one.text)}` is the number {one.value:g} to YAML, and no text"


def trap(one: Tree) -> str | None:
    """Return what is wrong with a value that should be text, and what would be right; None where it is text."""
    if isinstance(one, Scalar) and not isinstance(one.value, str):
        return f'{_trap(one)}: write it in quotes, "{shown(one.text)}"'
    return None


def _of_tag(tag: str, event: yaml.Event) -> str:
    text = shown(tag)
    if tag.startswith("!") and not tag.startswith("!!"):
        rest = f" {event.value}" if isinstance(event, yaml.ScalarEvent) and event.value else ""
        return f'`{text}` begins a tag in YAML, and tags are not allowed: write a selector with it in quotes, "{text}{shown(rest)}"'
    return f"`{text.replace(_PREFIX, '!!')}` is a tag, and tags are not allowed: leave it out"


def _at(event: yaml.Event) -> At:
    mark = event.start_mark
    return At(mark.line + 1, mark.column + 1) if mark is not None else At(1, 1)


def as_values(tree: Tree) -> Any:
    """Return a tree as plain values, for what checks their types."""
    match tree:
        case Scalar():
            return tree.value
        case Items():
            return [as_values(one) for one in tree.items]
        case Fields():
            return {str(key.value): as_values(value) for key, value in tree.fields}


def place(tree: Tree, path: tuple[str | int, ...], *, key: bool = False) -> At:
    """Return where the value at a path is, or its key; of a path that leads on to nothing, where it ends."""
    at = tree.at
    for part in path:
        if isinstance(tree, Fields) and isinstance(part, str) and (found := tree.get(part)) is not None:
            name = tree.key(part)
            is_last = part is path[-1]
            at, tree = name.at if name is not None and (isinstance(found, Fields | Items) or (key and is_last)) else found.at, found
        elif isinstance(tree, Items) and isinstance(part, int) and part < len(tree.items):
            tree = tree.items[part]
            at = tree.at
        else:
            break
    return at
