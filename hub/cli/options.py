"""Options that several commands share, and how they print."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from hub.settings import HubSettings
from hub.store import Store
from schemas.errors import Code, Refused

F = TypeVar("F", bound=Callable[..., Any])

dir_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), envvar="FLEETCAST_DIR", default=".", help="The fleet's folder."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="FLEETCAST_PASSPHRASE_FILE",
    help="File whose first line opens the keys; without it you are asked.",
)


def passphrase(path: Path | None, *, confirm: bool = False) -> bytes:
    """The passphrase, from a file or asked for.

    Raises:
        Refused: the file cannot be read or is empty, or there is nobody to ask.
    """
    if path is not None:
        try:
            first = path.read_text().split("\n", 1)[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(Code.KEY_UNREADABLE, f"passphrase file {path}: {getattr(error, 'strerror', None) or error}") from None
        if path.stat().st_mode & 0o077:
            click.echo(f"warning: {path} can be read by others; chmod 600 it", err=True)
    elif sys.stdin.isatty():
        first = str(click.prompt("Passphrase of the fleet's keys", hide_input=True, confirmation_prompt=confirm, err=True))
    else:
        raise Refused(Code.KEY_UNREADABLE, "there is nobody to ask for the passphrase: give --passphrase-file")
    if not first:
        raise Refused(Code.KEY_PASSPHRASE, "the passphrase is empty")
    return first.encode()


def open_store(directory: Path) -> Store:
    """The fleet's database.

    Raises:
        Refused: there is no fleet in this folder.
    """
    from hub.settings import load  # noqa: PLC0415

    store = Store(database_url(directory, load(directory)))
    store.create()
    return store


def database_url(directory: Path, settings: HubSettings) -> str:
    """Where a fleet's database is."""
    return settings.database_url or f"sqlite:///{directory / 'hub.sqlite'}"


def hub_runs(directory: Path) -> bool:
    """Whether a hub serves this fleet on this machine right now."""
    try:
        pid = int(json.loads((directory / "hub.ready").read_text())["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError):
        return False
    return True


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Rows as JSON, or some of their columns as a table."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2))
        return
    if not rows:
        click.echo(empty)
        return
    table = Table(*[name.replace("_", " ") for name in columns], box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*[_cell(row.get(name)) for name in columns])
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """One row as JSON, or a line a field."""
    if as_json:
        click.echo(json.dumps(dict(row), indent=2))
        return
    width = max(len(name) for name in row)
    for name, value in row.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {_cell(value)}")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
