"""`fleetcast blueprint`: a blueprint of what is, a revision that was applied, and the schema for editors."""

import json
from pathlib import Path

import click

from hub.cli.options import dir_option, opened
from hub.cli.remote import remote


@click.command()
@click.option("--revision", type=click.IntRange(1), help="Print this revision, as it was applied.")
@click.option("--schema", "wants_schema", is_flag=True, help="Print the JSON Schema, by which editors check and complete blueprints.")
@dir_option
def blueprint(revision: int | None, wants_schema: bool, directory: Path) -> None:
    """Write a blueprint of what is now, to begin with one.

    Compared with the same fleet it shows no difference. A blueprint says what the whole fleet should be: models, deployments, and settings
    of nodes by selector (docs/blueprint.md).

    \b
    Examples:
      fleetcast blueprint > fleet.yaml
      fleetcast blueprint --revision 3
      fleetcast blueprint --schema > fleet.schema.json
    """
    if wants_schema:
        from hub.core.blueprint.document import json_schema  # noqa: PLC0415

        click.echo(json.dumps(json_schema(), indent=2))
        return
    if (hub := remote()) is not None:
        click.echo(hub.blueprint_text(revision), nl=False)
        return
    from hub.database.blueprint_rows import Blueprints  # noqa: PLC0415  # with SQLAlchemy, which --help does without
    from hub.operations.blueprint import exported  # noqa: PLC0415

    fleet = opened(directory)
    click.echo(Blueprints(fleet.store.database).text(revision) if revision is not None else exported(fleet), nl=False)
    fleet.store.close()
