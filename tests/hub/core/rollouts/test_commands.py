"""Commands are read at the door into a closed union, and written as earlier hubs read them."""

import json

import pytest

from hub.core.rollouts import commands
from hub.core.rollouts.commands import (
    Approve,
    Command,
    Halt,
    RemoveDeployment,
    Resume,
    Retry,
    Rollback,
    SetDeployment,
    SetParameters,
    Start,
)
from schemas.errors import Refused


@pytest.mark.parametrize(
    "command",
    [
        commands.read_as(Start, '{"version": "1.0.0", "stages": [10, 100], "gate": {"soak_seconds": 60}}'),
        commands.read_as(Start, '{"version": "1.0.0", "where": "site=jfk", "deployment": "jfk", "approve": [100], "allow_empty": true}'),
        Halt(),
        Halt(deployment="ring-canary"),
        Approve(deployment="ring-canary"),
        Retry(),
        SetDeployment(name="hold", where="node=n1", priority=100, release="1.0.0"),
        RemoveDeployment(name="hold"),
        RemoveDeployment(name="hold", supersede=True),
        Resume(),
        Rollback(),
        SetParameters(version="1.0.0", parameters={"threshold": 0.7}, unset=()),
    ],
)
def test_a_command_is_read_back_from_its_kind_and_body(command: Command) -> None:
    assert commands.read(commands.kind_of(command), commands.body_of(command)) == command


def test_a_body_has_only_the_fields_that_were_given() -> None:
    body = '{"version": "1.0.0", "gate": {"soak_seconds": 60}}'

    assert json.loads(commands.body_of(commands.read("start", body))) == json.loads(body)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused, match="'dance' is none of start, halt, resume, rollback, set, approve"):
        commands.read("dance", "{}")
