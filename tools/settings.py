"""Draw docs/settings.md from the settings models: every field with its type, bounds, default and the sentence beside it. Names no model."""

import re
import types
from collections.abc import Iterator, Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from tools import markdown, sentences

PREFIX = "env_prefix="  # Settings of a file have a prefix for variables, by which they are found.
PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
BOUNDS = (("ge", "from {}"), ("gt", "above {}"), ("le", "to {}"), ("lt", "below {}"), ("min_length", "at least {} long"))
PATTERN = re.compile("matching `([^`]+)`")  # It is drawn as a number, because it would not fit into a cell.
MIB = 1024 * 1024


def models(checkout: Path) -> list[type[BaseSettings]]:
    """Return every settings model of the checkout's packages, by name."""
    found: dict[str, type[BaseSettings]] = {}
    for package in sorted(path.parent for path in checkout.glob("*/__init__.py")):
        for path in sorted(package.rglob("*.py")):
            if package.name != __package__ and PREFIX in path.read_text(encoding="utf-8"):
                module = import_module(".".join(path.relative_to(checkout).with_suffix("").parts))
                found |= {
                    name: one for name, one in vars(module).items() if _is_read_from_a_file(one) and one.__module__ == module.__name__
                }
    return [found[name] for name in sorted(found)]


def page(checkout: Path) -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        f"{markdown.GENERATED} Reference: every setting of the hub, of a node and of a relay.",
        "",
        "Settings are TOML, read once at the start. A field that is unknown, missing or out of bounds ends the program with exit code 3.",
        "Relative paths are relative to the folder of the file that names them. [Patterns](#patterns) are at the end.",
    ]
    patterns: list[str] = []
    for model in models(checkout):
        doc = " ".join((model.__doc__ or "").split())
        lines += ["", f"## {doc.split(';')[0].strip('`. ')}", "", f"{doc}", *_fields(model, patterns)]
        for part, names in tables(model).items():
            lines += ["", f"### {_title(names)}", "", " ".join((part.__doc__ or "").split()), *_fields(part, patterns)]
    lines += ["", "## Patterns", "", *(f"{at}. `{pattern}`" for at, pattern in enumerate(patterns, 1))]
    return "\n".join(lines) + "\n"


def meaning(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    """Return the sentence of a field: its description, or the comment beside it in the source; empty if it has none."""
    if field.description:
        return field.description
    for one in model.__mro__:
        if issubclass(one, BaseModel) and name in one.__annotations__:
            path = Path(str(import_module(one.__module__).__file__))
            return sentences.of_names(path).get(one.__name__, {}).get(name, "")
    return ""


def _fields(model: type[BaseModel], patterns: list[str]) -> list[str]:
    rows = []
    for name, field in model.model_fields.items():
        kind = _kind(field.annotation, field.metadata)
        for found in PATTERN.findall(kind):
            if found not in patterns:
                patterns.append(found)
        kind = PATTERN.sub(lambda found: f"pattern {patterns.index(found[1]) + 1}", kind)
        rows.append((f"`{name}`", kind, _default(field), _sentence(meaning(model, name, field))))
    return ["", *markdown.table(["name", "type", "default", "meaning"], rows)]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".") if text else ""


def _is_read_from_a_file(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, BaseSettings) and bool(one.model_config.get("env_prefix"))


def tables(model: type[BaseModel]) -> dict[type[BaseModel], list[str]]:
    """Return the tables among a model's fields, each with its heading in TOML."""
    found: dict[type[BaseModel], list[str]] = {}
    for name, field in model.model_fields.items():
        headings: dict[Any, str] = {tuple: f"[[{name}]]", dict: f"[{name}.KEY]"}
        heading = headings.get(get_origin(field.annotation), f"[{name}]")
        for part in _models_in(field.annotation):
            found.setdefault(part, []).append(heading)
    return found


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _title(headings: Sequence[str]) -> str:
    return ", ".join(f"`{one}`" for one in headings)


def _kind(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:  # noqa: PLR0911  # a return for each kind of type
    """Return a type and its bounds in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], [*metadata, *(inner for one in arguments[1:] for inner in getattr(one, "metadata", [one]))])
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(one, metadata) for one in arguments if one is not type(None))
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin in (tuple, list, frozenset, set):
        most = [one.max_length for one in metadata if getattr(one, "max_length", None)]
        return f"list of {_kind(arguments[0])}".replace("list of table", "list of tables") + (f", at most {most[0]:,}" if most else "")
    if origin is dict:
        return f"table of {_kind(arguments[1])} by {_kind(arguments[0])}".replace("table of table", "tables")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{one.value}`" for one in annotation)
    bounds = [words.format(_number(limit)) for name, words in BOUNDS if (limit := _bound(metadata, name)) is not None]
    patterns = [str(one.pattern) for one in metadata if getattr(one, "pattern", None)]
    return ", ".join([" ".join([PLAIN.get(annotation, str(annotation)), *bounds]), *(f"matching `{one}`" for one in patterns)])


def _bound(metadata: list[Any] | tuple[Any, ...], name: str) -> Any:
    return next((value for one in metadata if (value := getattr(one, name, None)) is not None), None)


def _default(field: FieldInfo) -> str:  # noqa: PLR0911  # a return for each kind of value
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return re.sub(r"^(\S+)", r"`\1`", _number(value))
        case None:
            return "none"
        case tuple() | list() if not value:
            return "`[]`"
        case dict() if not value:
            return "`{}`"
        case str() | Path():
            return f'`"{value}"`'
    return "required" if value is PydanticUndefined else f"`{value}`"


def _number(value: Any) -> str:
    if isinstance(value, int) and value >= MIB and value % MIB == 0:
        return f"{value} ({value // MIB} MiB)"
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() and value >= 1 else str(value)
