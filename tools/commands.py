"""Draw docs/commands.md from the command lines themselves: usage, options, defaults, examples, exit codes. Names no module of theirs.

Each program of pyproject.toml is started in this process, and stopped where click takes over: what it has then is its commands.
"""

import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import click

from fleetcast.cli.grouped_options import GroupedCommand
from tools import markdown, sentences

DEFAULT = re.compile(r"((?:\s*\[[^][]*\])+)$")


class _Reached(BaseException):
    """Carry the command out of the program: no `except Exception` of its own catches it."""

    def __init__(self, command: click.Command) -> None:
        super().__init__()
        self.command = command


def programs(checkout: Path) -> dict[str, str]:
    """Return what pyproject.toml installs: the names of programs, and the function that each one calls."""
    scripts: dict[str, str] = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["scripts"]
    return scripts


def command_of(function: str) -> click.Command:
    """Return the click command that a program runs.

    Raises:
        RuntimeError: it ends without having called one.
    """

    def reached(self: click.Command, *_: object, **__: object) -> None:
        raise _Reached(self)

    module, _, name = function.partition(":")
    with patch.object(click.Command, "main", reached):
        try:
            getattr(import_module(module), name)()
        except _Reached as found:
            return found.command
    raise RuntimeError(f"{function} calls no click command")


def every(command: click.Command, name: str) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command and all below it, in the order in which --help lists them."""
    yield from _below(command, click.Context(command, info_name=name, terminal_width=80))


def exit_codes(package: str) -> list[tuple[str, str]]:
    """Return the exit codes of a program with their meanings: those of its own package, or of one that it shares with another.

    Raises:
        RuntimeError: no module that the program imports has an IntEnum called Exit.
    """
    loaded: Mapping[str, object] = dict(sys.modules)
    kinds = {getattr(module, "Exit", None) for module in loaded.values() if inspect.ismodule(module)}
    found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, IntEnum)]
    found.sort(key=lambda kind: (kind.__module__.partition(".")[0] != package, kind.__module__))
    if not found:
        raise RuntimeError(f"{package} has no exit codes: an IntEnum called Exit")
    beside = sentences.of_names(Path(inspect.getfile(found[0])))[found[0].__name__]
    meanings: dict[int, list[str]] = {}
    for name, code in found[0].__members__.items():
        meanings.setdefault(int(code), []).append(beside.get(name, ""))
    return [(str(code), " ".join(parts)) for code, parts in meanings.items()]


def page(checkout: Path) -> str:
    """Return docs/commands.md."""
    found = programs(checkout)
    lines = [
        "# Commands",
        "",
        f"{markdown.GENERATED} Reference: every command of {' and '.join(f'`{name}`' for name in found)}, as its `--help` has it.",
        "",
    ]
    lines += [f"- [`{name}`](#{name}), and its [exit codes](#exit-codes-of-{name})" for name in found]
    for name, function in found.items():
        for command, context in every(command_of(function), name):
            lines += ["", *_section(command, context)]
        lines += ["", f"## Exit codes of `{name}`", "", *markdown.table(["code", "meaning"], exit_codes(function.partition(".")[0]))]
    return "\n".join(lines) + "\n"


def _below(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _below(found, click.Context(found, info_name=name, parent=context, terminal_width=80))


def _section(command: click.Command, context: click.Context) -> list[str]:
    depth = context.command_path.count(" ")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"{'#' * min(depth + 2, 4)} `{context.command_path}`", "", "```", usage, "```"]
    text, examples = _help(command)
    lines += [part for one in text for part in ("", one)]
    for title, options in _groups(command, context).items():
        rows = [row for option in options if (row := _option(option, context))]
        if rows:
            lines += [*(["", f"{title}:"] if title else []), "", *markdown.table(["option", "default and bounds", "meaning"], rows)]
    if examples:
        lines += ["", *examples]
    return lines


def _groups(command: click.Command, context: click.Context) -> Mapping[str, Sequence[click.Parameter]]:
    """Return the options below the titles that --help has; without a title where it has none."""
    if isinstance(command, GroupedCommand):
        return command.grouped(context)
    return {"": command.get_params(context)}


def _help(command: click.Command) -> tuple[list[str], list[str]]:
    """Split a help text into paragraphs and its examples: lines that click leaves as they are, below a title."""
    text: list[str] = []
    examples: list[str] = []
    for part in inspect.cleandoc(command.help or "").split("\f")[0].split("\n\n"):
        if part.startswith("\b"):
            title, _, rest = part.removeprefix("\b").strip("\n").partition("\n")
            examples += [title, "", "```", *textwrap.dedent(rest).split("\n"), "```"]
        elif part.strip():
            text.append(" ".join(part.split()))
    return text, examples


def _option(option: click.Parameter, context: click.Context) -> tuple[str, str, str] | None:
    if not isinstance(option, click.Option) or "--help" in option.opts:
        return None
    record = option.get_help_record(context)
    if record is None:
        return None
    names, text = record
    found = DEFAULT.search(text)
    return f"`{names}`", "; ".join(re.findall(r"\[([^][]*)\]", found[1])) if found else "", DEFAULT.sub("", text)
