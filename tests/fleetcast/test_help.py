"""Every --help of both command lines is built by the same rules: docs/commands.md is written from it."""

import re
from collections.abc import Iterator

import click
import pytest

from fleetcast.cli.grouped_options import GroupedCommand
from hub.cli.commands import command as hub
from node.cli.commands import command as node

COLUMNS = 80
NO_VERBS = {"a", "an", "the", "what", "how", "where", "which", "of", "if", "also", "it", "only", "likewise"}
VAGUE = re.compile(
    r"\blikewise\b|\bmay be repeated\b|\bso (many|long|much)\b|\b(who|whom|whoever)\b|\bwith commas\b|; else\b|\btold\b", re.IGNORECASE
)


def every(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield a command and all below it, with the name by which it is called."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=COLUMNS)
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            found = command.get_command(context, verb)
            assert found is not None
            yield from every(found, verb, context)


ALL = [*every(hub, "fleetcast"), *every(node, "fleetcast-node")]
each = pytest.mark.parametrize(("command", "context"), [one[1:] for one in ALL], ids=[one[0] for one in ALL])


@each
def test_help_fits_a_terminal_of_80_columns(command: click.Command, context: click.Context) -> None:
    assert [line for line in command.get_help(context).splitlines() if len(line) > COLUMNS] == []


@each
def test_help_begins_with_a_short_sentence(command: click.Command, context: click.Context) -> None:
    first = command.get_short_help_str(200)

    assert first.endswith(".")
    assert len(first) <= COLUMNS - 2
    assert first.split()[0].lower() not in NO_VERBS


@each
def test_every_option_is_explained_in_whole_sentences(command: click.Command, context: click.Context) -> None:
    texts = {option.opts[0]: option.help or "" for option in command.params if isinstance(option, click.Option)}

    for name, text in texts.items():
        said = re.sub(r"  \[default: [^]]*\]$", "", text)
        assert said.endswith((".", "?")), f"{name}: {text!r}"
        assert said.split()[0].lower() not in NO_VERBS, f"{name}: {text!r}"


@each
def test_help_has_none_of_the_vague_words(command: click.Command, context: click.Context) -> None:
    assert VAGUE.search(command.get_help(context)) is None


def test_every_option_of_publish_is_in_a_group() -> None:
    _, command, context = next(one for one in ALL if one[0] == "fleetcast publish")

    assert isinstance(command, GroupedCommand)
    assert [option.opts for option in command.grouped(context)["Options"]] == [["--help"]]
    assert {name for names in command.groups.values() for name in names} < {parameter.name for parameter in command.params}
