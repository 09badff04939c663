"""Queue a command for the hub, and print how it ended."""

import json
import time
from pathlib import Path

import click

from hub.cli.errors import Ended, Exit
from hub.cli.options import hub_runs, open_store
from hub.core.rollouts import commands
from schemas.errors import Code, Refused

ANSWER_SECONDS = 15.0  # How long a running hub may take to obey.
LOOK_SECONDS = 0.3


def ask(directory: Path, model: str, command: commands.Command, *, as_json: bool, deadline: float | None = None) -> None:
    """Queue a command and print how it ended. Without a deadline, only a running hub is waited for, and then a while.

    Raises:
        Refused: the hub has refused it.
        Ended: no answer in time.
    """
    store = open_store(directory)
    number, kind = store.add_command(model, command), commands.kind_of(command)
    if not hub_runs(directory):
        click.echo(f"No hub runs here now: {'waiting for one' if deadline else 'the command waits until one starts'}.", err=True)
        if deadline is None:
            if as_json:
                click.echo(json.dumps({"command": number, "kind": kind, "model": model, "state": "queued", "text": ""}, indent=2))
            return
    until = time.monotonic() + ANSWER_SECONDS if deadline is None else deadline
    while (answer := store.command(number)) is None or answer.state == "open":
        if time.monotonic() >= until:
            raise Ended(Exit.TIMEOUT, "no hub has answered in time; the command stays queued")
        time.sleep(LOOK_SECONDS)
    store.close()
    if answer.state == "refused":
        raise Refused(Code(answer.code), answer.text)
    if as_json and deadline is None:  # Else what --wait has waited for is the answer.
        click.echo(json.dumps({"command": number, "kind": kind, "model": model, "state": "done", "text": answer.text}, indent=2))
    elif not as_json:
        click.echo(answer.text)
