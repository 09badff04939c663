"""Commands that a mend names are commands that there are."""

import re

import click
import pytest

from fleetcast.error_help import MEANINGS
from hub.cli.commands import command as hub
from node.cli.commands import command as node
from schemas.errors import Code

NAMED = re.compile(r"`(fleetcast|fleetcast-node) ([a-z -]+?)(?: [A-Z-].*?)?`")


@pytest.mark.parametrize("code", list(Code))
def test_every_command_that_a_mend_names_exists(code: Code) -> None:
    for program, words in NAMED.findall(" ".join(MEANINGS[code])):
        found: click.Command | None = hub if program == "fleetcast" else node
        for word in words.split():
            assert isinstance(found, click.Group), f"{program} {words}"
            found = found.get_command(click.Context(found), word)
            assert found is not None, f"there is no {program} {words}"


def test_mends_name_commands_in_this_form() -> None:
    assert any(NAMED.search(mend) for _, mend in MEANINGS.values())
