"""Queue a command for the hub, and print how it ended."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleetcast.cli.terminal_text import plain
from hub.cli.errors import Ended, Exit
from hub.cli.options import hub_runs, open_store
from hub.core.rollouts import commands
from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from hub.database.node_commands import NodeCommand
    from hub.database.rows import CommandRow
    from hub.operations.rollouts import Prepared

ANSWER_SECONDS = 15.0  # How long a running hub may take to obey.
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.05, 0.3  # Between two looks for the answer: at first, and later.


def answered(get: Callable[[int], "CommandRow | NodeCommand | None"], number: int, *, directory: Path, until: float) -> str:
    """Wait until a hub has obeyed a queued command, and return what it says; `until` is on the monotonic clock, in seconds.

    Raises:
        Refused: the hub has refused it.
        Ended: no answer in time.
    """
    pause_seconds = FIRST_LOOK_SECONDS
    while (answer := get(number)) is None or answer.state == "open":
        if time.monotonic() >= until:
            raise Ended(Exit.TIMEOUT, f"no hub has answered in time; the command stays queued{_likely(directory)}")
        time.sleep(pause_seconds)
        pause_seconds = min(1.5 * pause_seconds, LOOK_SECONDS)
    if answer.state == "refused":
        raise Refused(Code(answer.code), answer.text)
    return answer.text


def _likely(directory: Path) -> str:
    """Return what is likely wrong with a hub that runs and does not answer; "" where none runs here."""
    if not hub_runs(directory):
        return ""
    return (
        ". The hub that runs here did not take it up: it is busy, or uses another database than this command (was its file replaced?)."
        " Its log says more, and a restart of the hub does no harm"
    )


def notice(sentences: Sequence[str]) -> None:
    """Print what an operator is to know besides the answer."""
    for sentence in sentences:
        click.echo(f"note: {plain(sentence)}", err=True)


def report(prepared: "Prepared") -> None:
    """Print what was found when a command was checked."""
    for sentence in prepared.warnings:
        click.echo(f"warning: {plain(sentence)}", err=True)
    notice(prepared.notes)


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
    try:
        text = answered(store.command, number, directory=directory, until=until)
    finally:
        store.close()
    if as_json and deadline is None:  # Else what --wait has waited for is the answer.
        click.echo(json.dumps({"command": number, "kind": kind, "model": model, "state": "done", "text": text}, indent=2))
    elif not as_json:
        click.echo(text)
