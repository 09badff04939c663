"""What several of the device's commands share: their options, and the store of a node, read beside the agent."""

from pathlib import Path

import click

from fleetcast.cli.table_output import json_option
from node.settings import NodeSettings
from node.storage.store import NodeStore
from schemas.errors import Code, Refused

__all__ = ["json_option", "settings_option", "store_of"]

settings_option = click.option(
    "--settings",
    "path",
    type=click.Path(path_type=Path),
    default="node.toml",
    show_default=True,
    envvar="FLEETCAST_NODE_SETTINGS",
    help="File with the node's settings. Relative paths in it are relative to its folder.",
)


def store_of(settings: NodeSettings) -> NodeStore:
    """Open the node's database; the agent may run or not.

    Raises:
        Refused: it has not run yet.
        Unreachable: the file cannot be read.
    """
    path = settings.data / "node.sqlite"
    if not path.exists():
        raise Refused(Code.SETTINGS_INVALID, f"{path} does not exist: this node has never run; start it with `fleetcast-node run`")
    return NodeStore.reading(path)
