"""Open a fleet's folder, or connect to the API of its hub. The hub's own code is imported when a fleet is opened, and not before."""

import os
from importlib import import_module
from typing import Any

from fleetcast.fleets.errors import NotInstalled, explained
from fleetcast.fleets.fleet import Fleet
from fleetcast.hidden_modules import check_not_hidden


def open(directory: str | os.PathLike[str], *, actor: str | None = None) -> Fleet:  # as `import fleetcast` offers it
    """Open the fleet in a folder that `fleetcast init` or `fleetcast quickstart` has made.

    A hub may run there: releases are announced by it, and rollouts are moved by it. Without one, what is asked waits until it starts.

    Args:
        directory: The fleet's folder.
        actor: Name under which `fleetcast history` shows what this program changes. The default is FLEETCAST_ACTOR, or the system user's.

    Raises:
        Refused: there is no fleet in this folder, or its database is of another version.
        Unreachable: the database does not answer.
        NotInstalled: the extra `hub` is not installed.
    """
    with explained():
        fleet: Fleet = _library("local").open_fleet(os.fspath(directory), actor=actor)
    return fleet


def connect(
    url: str,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> Fleet:
    """Connect to the API of a hub.

    Args:
        url: Address of the hub, such as `https://hub.example:8443`.
        token: A token that `fleetcast tokens make` has shown. The default is FLEETCAST_TOKEN.
        token_file: File with the token in its first line. The default is FLEETCAST_TOKEN_FILE.
        ca_file: Certificate of the authority that signed the hub's, where the system does not know it.

    Raises:
        Refused: the address or the token is no such thing, or the hub does not let this token in.
        Unreachable: the hub does not answer.
        NotInstalled: the extra `hub` is not installed.
    """
    with explained():
        fleet: Fleet = _library("remote").connect_fleet(url, token=token, token_file=token_file, ca_file=ca_file)
    return fleet


def _library(name: str) -> Any:
    """Import a module of the hub's side."""
    check_not_hidden("schemas", "hub")
    try:
        return import_module(f"hub.library.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"fleetcast", "schemas", "hub", "node"}:
            raise
        raise NotInstalled(error.name, "hub", "a fleet") from None
