"""Options that several commands share, and how they print."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli import table_output
from fleetcast.cli.table_output import Lines, json_option, show_one
from hub.cli.remote import check_command, is_remote
from hub.database.place import SQLITE_NAME, is_beside
from hub.operations import opening
from hub.operations.opened_fleet import check_model
from hub.operations.opening import ACTOR_CHARACTERS_MAX, database_url, hub_runs, is_actor, room_for_database, system_user
from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from hub.database.rows import NodeMarks, NodePage
    from hub.database.store import Store
    from hub.operations.opened_fleet import OpenedFleet

__all__ = [  # `Lines`, `json_option` and `show_one` are shared with the device's commands
    "Lines",
    "check_model",
    "database_url",
    "dir_option",
    "hub_runs",
    "json_option",
    "node_page",
    "open_store",
    "passphrase",
    "passphrase_option",
    "room_for_database",
    "show",
    "show_one",
    "split",
]

PAGE_NAMES_MAX = 1000  # Names in one question to the database.


def _folder(context: click.Context, _: click.Parameter, value: Path) -> Path:
    check_command(context)
    return value


class NotEmpty(click.ParamType[str]):
    """Take a text that chooses what a command acts on. An empty one, as of a variable that is not set, would choose something else."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        if not str(value).strip():
            self.fail("it is empty, such as from a variable that is not set: give its value, or leave the option out", param, ctx)
        return str(value)


NOT_EMPTY = NotEmpty()


class FolderPath(click.Path):
    """Take a path to a folder. An empty one, such as from a variable that is not set, is no other name of the present folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("it is empty, such as from a variable that is not set: give a folder, or leave the option out", param, ctx)
        return super().convert(value, param, ctx)


dir_option = click.option(
    "--dir",
    "directory",
    type=FolderPath(path_type=Path, file_okay=False),
    envvar="FLEETCAST_DIR",
    default=".",
    callback=_folder,
    help="Folder of the fleet.",
)
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="FLEETCAST_PASSPHRASE_FILE",
    help="File whose first line is the passphrase of the keys. Without it the command asks.",
)


ACTOR = "fleetcast.actor"


def _remember_actor(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if is_remote() and context.get_parameter_source("actor") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--actor goes with a fleet's folder: a hub records the name of the token")
    name = value if value is not None else system_user()
    if not is_actor(name):
        raise click.UsageError(f"--actor must be 1 to {ACTOR_CHARACTERS_MAX} printable characters")
    context.find_root().meta[ACTOR] = name


def actor() -> str:
    """Return the name under which the running command changes the fleet; the database keeps it with what was done."""
    context = click.get_current_context(silent=True)
    found: str | None = context.find_root().meta.get(ACTOR) if context is not None else None
    return found or system_user()


# For every command that changes a fleet. The command takes no argument: what it writes has the name of `actor()`.
changes_fleet = click.option(
    "--actor",
    envvar="FLEETCAST_ACTOR",
    default=None,
    expose_value=False,
    callback=_remember_actor,
    metavar="NAME",
    help="Name under which `fleetcast history` shows this change. The default is the system user's.",
)


def passphrase(path: Path | None, *, confirm: bool = False) -> bytes:
    """Return the passphrase, from a file or a prompt.

    Raises:
        Refused: the file cannot be read or is empty, or there is nobody to ask.
    """
    if path is not None:
        secret = opening.read_passphrase(path)
        if path.stat().st_mode & 0o077:
            click.echo(f"warning: {path} can be read by others; chmod 600 it", err=True)
        return secret
    if sys.stdin.isatty():
        first = str(click.prompt("Passphrase of the fleet's keys", hide_input=True, confirmation_prompt=confirm, err=True))
    else:
        raise Refused(Code.KEY_UNREADABLE, "the passphrase cannot be asked for without a terminal: give --passphrase-file")
    if not first:
        raise Refused(Code.KEY_PASSPHRASE, "the passphrase is empty")
    return first.encode()


def open_store(directory: Path) -> "Store":
    """Open the fleet's database.

    Raises:
        Refused: there is no fleet in this folder, its database is of an earlier version, or the disk has no room.
        Unreachable: the database does not answer.
    """
    return opening.open_store(directory, actor())


def opened(directory: Path) -> "OpenedFleet":
    """Open the fleet: its database, and its signed metadata.

    Raises:
        Refused: there is no fleet in this folder, its database is of another version, or the disk has no room.
        Unreachable: the database does not answer.
    """
    return opening.open_fleet(directory, actor())


ALL = 2**62  # As many nodes as there are.


def node_page(directory: Path, *, node: str | None = None, after: str = "", limit: int = ALL) -> "NodePage":
    """Return one node, or a page of nodes by name, those behind `after`; with the receipts of what they serve.

    Raises:
        Refused: there is no fleet in this folder, its database is of another version, or the disk has no room.
        Unreachable: the database does not answer.
    """
    from hub.database import sqlite_reader  # noqa: PLC0415

    if is_beside(directory):
        found = sqlite_reader.node_page(directory / SQLITE_NAME, node=node, after=after, limit=limit)
        if found is not None:
            return found
    from hub.database.rows import NodePage  # noqa: PLC0415

    store = open_store(directory)
    if node is None:
        nodes = store.nodes_after(after, limit)
    else:
        one = store.node(node)
        nodes = [] if one is None else [one]
    serving = store.serving() if len(nodes) > PAGE_NAMES_MAX else store.serving([row.node for row in nodes])
    return NodePage(nodes, serving, store.count_nodes())


def node_marks(directory: Path) -> "Mapping[str, NodeMarks]":
    """Return what operators and the hub have noted of names, beside what nodes report.

    Raises:
        Refused: there is no fleet in this folder, its database is of an earlier version, or the disk has no room.
        Unreachable: the database does not answer.
    """
    from hub.database import sqlite_reader  # noqa: PLC0415

    if is_beside(directory):
        found = sqlite_reader.node_marks(directory / SQLITE_NAME)
        if found is not None:
            return found
    from hub.database.device_lives import DeviceLives  # noqa: PLC0415

    return DeviceLives(open_store(directory).database).marks()


def split(release: str) -> tuple[str, str]:
    """Split MODEL@VERSION."""
    model, _, version = release.partition("@")
    if not version:
        raise click.UsageError(f"{release!r} must be MODEL@VERSION, such as delay@1.2.0")
    return model, version


def show(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool,
    empty: str,
    in_words: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Print rows as JSON, or some of their columns as a table that fits the terminal; `in_words` are the rows as a table shows them."""
    table_output.show(rows, columns, as_json=as_json, empty=empty, in_words=in_words, print_table=_print_fitted)


def _print_fitted(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        table_output.print_columns(heads, rows)
        return
    from hub.cli.fitted_table import fitted  # noqa: PLC0415  # --json and --help do without

    for line in fitted(heads, rows, shutil.get_terminal_size().columns):
        click.echo(line)
