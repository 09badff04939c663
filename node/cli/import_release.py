"""`fleetcast-node import`: a release that was carried here in a file."""

import json
from pathlib import Path

import click

from fleetcast.counted import counted
from node.cli.options import json_option, settings_option
from node.settings import load
from node.storage.sideload import Sideload


@click.command(name="import")
@settings_option
@json_option
@click.argument("parcel", type=click.Path(path_type=Path, dir_okay=False))
def import_(path: Path, parcel: Path, as_json: bool) -> None:
    """Import a release from a file of `fleetcast export`.

    The file is checked and unpacked. A running node takes it within a second, otherwise at its next start. The node verifies the fleet's
    signatures as it does for what comes from a broker.

    \b
    Example:
      fleetcast-node import /media/usb/delay.parcel \\
        --settings /etc/fleetcast/node.toml
    """
    settings = load(path)
    found = Sideload(settings.data / "carried").unpack(parcel, fleet=settings.fleet, bytes_max=settings.disk_bytes_max)
    if found.node is not None and found.node != settings.id:
        click.echo(f"warning: {parcel} was made for node {found.node}; this is {settings.id}, which may lack other blocks", err=True)
    row = {"model": found.model, "version": found.version, "release": found.release.hex(), "blocks": found.blocks, "bytes": found.bytes}
    if as_json:
        click.echo(json.dumps(row))
    else:
        click.echo(f"{found.model}@{found.version}: {counted(found.blocks, 'block')}, {counted(found.bytes, 'byte')}")
