"""Options that several commands share, and how they print."""

import getpass
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli import table_output
from fleetcast.cli.table_output import Lines, json_option, show_one
from hub.database.place import SQLITE_NAME, place_of
from hub.operations.opened_fleet import check_model
from schemas.errors import Code, Refused, Unreachable

if TYPE_CHECKING:
    from hub.database.rows import NodeMarks, NodePage
    from hub.database.store import Store
    from hub.operations.opened_fleet import OpenedFleet
    from hub.settings import HubSettings

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

PASSPHRASE_CHARACTERS_MAX = 4096  # more than any key takes, and /dev/zero does not fill the memory
PAGE_NAMES_MAX = 1000  # Names in one question to the database.
DATABASE_BYTES_MIN = 256 * 1024  # Free bytes below which a failed write of the database means a full disk.


dir_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), envvar="FLEETCAST_DIR", default=".", help="Folder of the fleet."
)
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="FLEETCAST_PASSPHRASE_FILE",
    help="File whose first line is the passphrase of the keys. Without it the command asks.",
)


ACTOR = "fleetcast.actor"
ACTOR_CHARACTERS_MAX = 64


def _remember_actor(context: click.Context, _: click.Parameter, value: str | None) -> None:
    name = value if value is not None else _system_user()
    if not name.strip() or len(name) > ACTOR_CHARACTERS_MAX or not name.isprintable():
        raise click.UsageError(f"--actor must be 1 to {ACTOR_CHARACTERS_MAX} printable characters")
    context.find_root().meta[ACTOR] = name


def _system_user() -> str:
    try:
        return getpass.getuser()[:ACTOR_CHARACTERS_MAX]
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return f"uid {os.getuid()}"


def actor() -> str:
    """Return the name under which the running command changes the fleet; the database keeps it with what was done."""
    context = click.get_current_context(silent=True)
    found: str | None = context.find_root().meta.get(ACTOR) if context is not None else None
    return found or _system_user()


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
        try:
            with path.open() as file:
                first = file.readline(PASSPHRASE_CHARACTERS_MAX).rstrip("\r\n")  # spaces belong to it, as they do where it is typed
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(Code.KEY_UNREADABLE, f"passphrase file {path}: {getattr(error, 'strerror', None) or error}") from None
        if path.stat().st_mode & 0o077:
            click.echo(f"warning: {path} can be read by others; chmod 600 it", err=True)
    elif sys.stdin.isatty():
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
    from hub.database.store import Store  # noqa: PLC0415  # SQLAlchemy takes a third of a second to import; --help does not need it
    from hub.settings import load  # noqa: PLC0415

    store = Store(database_url(directory, load(directory)))
    store.database.actor = actor()
    with room_for_database(directory):
        store.open()
    return store


def opened(directory: Path) -> "OpenedFleet":
    """Open the fleet: its database, and its signed metadata.

    Raises:
        Refused: there is no fleet in this folder, its database is of another version, or the disk has no room.
        Unreachable: the database does not answer.
    """
    from hub.operations.opened_fleet import OpenedFleet  # noqa: PLC0415  # with SQLAlchemy and TUF
    from hub.settings import load  # noqa: PLC0415
    from hub.signing.tuf_repository import Repository  # noqa: PLC0415

    return OpenedFleet(directory, load(directory), open_store(directory), Repository(directory / "trust"))


ALL = 2**62  # As many nodes as there are.


def node_page(directory: Path, *, node: str | None = None, after: str = "", limit: int = ALL) -> "NodePage":
    """Return one node, or a page of nodes by name, those behind `after`; with the receipts of what they serve.

    Raises:
        Refused: there is no fleet in this folder, its database is of another version, or the disk has no room.
        Unreachable: the database does not answer.
    """
    from hub.database import sqlite_reader  # noqa: PLC0415
    from hub.settings import load  # noqa: PLC0415

    if not load(directory).database_url:
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
    from hub.settings import load  # noqa: PLC0415

    if not load(directory).database_url:
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


@contextmanager
def room_for_database(directory: Path) -> Iterator[None]:
    """Report a full disk as such: SQLite says "disk I/O error" when there is no room for its scratch files.

    Raises:
        Refused: the disk has no room.
    """
    try:
        yield
    except Unreachable as error:
        if shutil.disk_usage(directory).free < DATABASE_BYTES_MIN:
            raise Refused(Code.DISK_FULL, f"no room for the database in {directory}: {error}") from error
        raise


def database_url(directory: Path, settings: "HubSettings") -> str:
    """Return the URL of a fleet's database.

    Raises:
        Refused: the file with its password cannot be read.
    """
    return place_of(directory, settings.database_url, settings.database_password_file)


def hub_runs(directory: Path) -> bool:
    """Return whether a hub serves this fleet now: on this machine, or, where its processes share a database, on any."""
    if any(_is_running(path) for path in directory.glob("*.ready")):
        return True
    from hub.signing.metadata_files import MARKER  # noqa: PLC0415

    return (directory / "trust" / MARKER).exists() and _leads_elsewhere(directory)


def _is_running(ready: Path) -> bool:
    try:
        pid = int(json.loads(ready.read_text())["pid"])
        os.kill(pid, 0)
    except PermissionError:
        return True  # it runs, as another user
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _leads_elsewhere(directory: Path) -> bool:
    from hub.database.members import Members  # noqa: PLC0415

    store = open_store(directory)
    try:
        return any(one.is_live and one.term for one in Members(store.database).all())
    finally:
        store.close()


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
