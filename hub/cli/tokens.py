"""`fleetcast tokens`: who may use the hub's API, and in which role."""

import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.list_choice import list_options
from fleetcast.disk_room import FULL
from hub.cli.errors import Ended, Exit
from hub.cli.options import changes_fleet, dir_option, json_option, opened, show, show_one
from hub.cli.remote import remote
from schemas.errors import Code, FleetcastError, Refused

ROLES = ("viewer", "operator", "publisher", "admin")
DAYS = 90
DAYS_MAX = 730


@click.group()
def tokens() -> None:
    """Make, list and revoke tokens for the hub's API.

    A viewer reads. An operator also moves rollouts and sets labels. A publisher reads and publishes releases. An admin may do everything.

    \b
    Examples:
      fleetcast tokens make dashboards --role viewer
      fleetcast tokens list
      fleetcast tokens revoke dashboards
    """


@tokens.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="Role, which says what the token allows.")
@click.option("--days", type=click.IntRange(1, DAYS_MAX), default=DAYS, show_default=True, help="Days until it expires.")
@changes_fleet
@dir_option
@json_option
def make(name: str, role: str, days: int, directory: Path, as_json: bool) -> None:
    """Make a token, and print it. It is shown this once, and only its digest is kept.

    \b
    Examples:
      fleetcast tokens make dashboards --role viewer
      fleetcast tokens make ci --role publisher --days 30 --json
    """
    if (hub := remote()) is not None:
        made = hub.make_token(name, role, days=days)
        shown = {key: made[key] for key in ("token", "id", "name", "role", "expires")}
        _show_or_revoke(shown, lambda: hub.revoke_token(str(made["id"])), as_json=as_json)
        return
    from hub.operations import api_tokens  # noqa: PLC0415  # with SQLAlchemy, which --help does without

    known: api_tokens.Role = next(one for one in api_tokens.ROLES if one == role)
    fleet = opened(directory)
    row, text = api_tokens.make(fleet, name=name, role=known, days=days)
    found = api_tokens.row_of(row, int(time.time()))
    shown = {"token": text, **{key: found[key] for key in ("id", "name", "role", "expires")}}
    _show_or_revoke(shown, lambda: api_tokens.revoke(fleet, row.id), as_json=as_json)


def _show_or_revoke(shown: Mapping[str, Any], revoke: Callable[[], object], *, as_json: bool) -> None:
    """Print a new token. One that could not be printed is of use to nobody, so that it is revoked.

    Raises:
        Ended: the output takes nothing.
    """
    try:
        show_one(shown, as_json=as_json)
        sys.stdout.flush()
    except OSError as error:
        name = shown["name"]
        try:
            revoke()
            mend = "it was revoked: make it again"
        except FleetcastError as failed:
            mend = f"it is good, and could not be revoked ({failed}): `fleetcast tokens revoke {shown['id']}`"
        code = Exit.DISK_FULL if error.errno in FULL else Exit.PIPE
        raise Ended(code, f"the token {name} could not be printed ({error.strerror}), and {mend}") from None


@tokens.command(name="list")
@dir_option
@json_option
@list_options()
def list_(directory: Path, as_json: bool) -> None:
    """List the tokens, the newest first. The tokens themselves are not shown.

    \b
    Examples:
      fleetcast tokens list
      fleetcast tokens list --json
    """
    columns = ["id", "name", "role", "state", "expires", "made_by"]
    if (hub := remote()) is not None:
        show(list(hub.tokens()), columns, as_json=as_json, empty="There is no token.")
        return
    from hub.operations import api_tokens  # noqa: PLC0415  # with SQLAlchemy, which --help does without

    show(api_tokens.rows(opened(directory)), columns, as_json=as_json, empty="There is no token.")


@tokens.command()
@click.argument("token", metavar="ID|NAME")
@changes_fleet
@dir_option
@json_option
def revoke(token: str, directory: Path, as_json: bool) -> None:
    """Revoke a token, by its id or its name. It is refused from then on.

    \b
    Example:
      fleetcast tokens revoke dashboards
    """
    if (hub := remote()) is not None:
        named = [one["id"] for one in hub.tokens() if one["name"] == token and one["state"] == "good"]
        if not named and not re.fullmatch("[0-9a-f]{8}", token):
            raise Refused(Code.REQUEST_UNKNOWN, f"there is no token {token!r}; `fleetcast tokens list` shows all")
        show_one(hub.revoke_token(str(named[0]) if named else token), as_json=as_json)
        return
    from hub.operations import api_tokens  # noqa: PLC0415  # with SQLAlchemy, which --help does without

    show_one(api_tokens.row_of(api_tokens.revoke(opened(directory), token), int(time.time())), as_json=as_json)
