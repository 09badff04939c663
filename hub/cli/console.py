"""`fleetcast console`: where the console is, and a link that signs in once."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hub.cli.errors import Ended, Exit
from hub.cli.options import actor, changes_fleet, dir_option, json_option, opened, show_one
from hub.operations.opening import is_running

if TYPE_CHECKING:
    from hub.operations.opened_fleet import OpenedFleet

READY = "*.ready"  # One for each process that runs: the console is at one that has the role `web`.
ROLES = ("viewer", "operator", "publisher", "admin")


@click.command()
@click.option("--role", type=click.Choice(ROLES), default="admin", show_default=True, help="Role in which the link signs in.")
@changes_fleet
@dir_option
@json_option
def console(role: str, directory: Path, as_json: bool) -> None:
    """Print where the console is, and a link that signs in once.

    The link holds for a quarter of an hour, and for one person. Its actions are kept under the name of --actor. For others, make tokens.

    \b
    Examples:
      fleetcast console
      fleetcast console --role viewer --json
    """
    url = url_of(directory)
    if url is None:
        raise Ended(Exit.UNREACHABLE, "no console runs: start `fleetcast hub`; an empty web_listen in fleet.toml turns it off")
    show_one({"console": url, "sign_in": link(opened(directory), url, role=role)}, as_json=as_json)


def url_of(directory: Path) -> str | None:
    """Return the address of the console of a hub that runs; None where there is none."""
    for ready in sorted(directory.glob(READY)):
        with suppress(OSError, ValueError, AttributeError):
            if is_running(ready) and (found := json.loads(ready.read_text()).get("web_url")):
                return str(found)
    return None


def link(fleet: "OpenedFleet", url: str, *, role: str = "admin", name: str = "") -> str:
    """Return a link that signs its holder in once, in the name of who runs this."""
    from hub.operations import api_tokens, console_sessions  # noqa: PLC0415  # with SQLAlchemy, which --help does without

    known = next(one for one in api_tokens.ROLES if one == role)
    return f"{url}/login?once={console_sessions.make_link(fleet, name=name or actor(), role=known)}"
