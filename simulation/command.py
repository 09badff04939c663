"""`fleetcast simulate` says when a rollout will be done, what it will cost, and where it will wait."""

import json
from pathlib import Path

import click

from hub.cli.options import json_option
from hub.cli.progress import progress
from schemas.errors import Refused
from simulation import fleet_file
from simulation.core.plan import Fetch
from simulation.core.run import SAMPLE, run
from simulation.core.summary import outcome_of
from simulation.example import EXAMPLE
from simulation.svg import drawn
from simulation.text import document, page

PROGRESS_STEPS = 1000


@click.command()
@click.argument("file", metavar="[FLEET.TOML]", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--nodes", type=click.IntRange(1, fleet_file.NODES_MAX), help="Number of nodes, in place of the file's. Counts of groups are scaled."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Seed of all chances: the same seed prints the same."
)
@click.option(
    "--sample",
    type=click.IntRange(1, 20_000),
    default=SAMPLE,
    show_default=True,
    help="Number of nodes whose transfers the real cores run; a model calibrated on them runs the others.",
)
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw the curve into this file.")
@click.option("--example", is_flag=True, help="Print a fleet file that runs, with every key explained, and end.")
@json_option
def simulate(file: Path | None, nodes: int | None, seed: int, sample: int, svg: Path | None, example: bool, as_json: bool) -> None:
    """Simulate a rollout over a fleet, before it begins.

    The file describes groups of nodes (links, times of being on, byte budgets), a release and the terms of the rollout; --example prints
    one. The hub's own core decides stages and gates for all nodes, and the node's own cores fetch for a sample. Nothing is sent, and no hub
    or broker is needed.

    Printed are when 50, 90, 99 and 100 percent of the nodes serve the release, the bytes and their cost by class of link, where nodes wait,
    and which never arrive, with the reason. Progress goes to stderr.

    \b
    Examples:
      fleetcast simulate --example > fleet.toml
      fleetcast simulate fleet.toml --nodes 100000
      fleetcast simulate fleet.toml --seed 7 --svg rollout.svg --json
    """
    if example:
        click.echo(EXAMPLE, nl=False)
        return
    if file is None:
        raise click.UsageError("FLEET.TOML is missing; --example prints one")
    read = fleet_file.read(file)
    table = read.table()
    plan = fleet_file.plan_of(read, table, _fetches(read, table, file), nodes=nodes)
    try:
        with progress() as report:
            finished = run(
                plan, seed=seed, sample=sample, tell=lambda what, share: report(what, int(share * PROGRESS_STEPS), PROGRESS_STEPS)
            )
    except Refused as refusal:
        raise read.wrong(("rollout",), refusal.reason) from None
    outcome = outcome_of(finished)
    if svg is not None:
        svg.write_text(drawn(outcome), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(document(outcome), indent=2))
        return
    for line in page(outcome):
        click.echo(line)


def _fetches(read: fleet_file.FleetFile, table: fleet_file.FleetTable, file: Path) -> dict[str, Fetch | None]:
    release = table.release
    if release.directory is None or release.name is None:
        return fleet_file.sizes_of(release)
    from simulation.published import fetches_of  # noqa: PLC0415  # what reads a fleet's folder takes half a second to import

    try:
        return fetches_of(file.parent / release.directory, release.name, variant=release.variant, parent=release.parent)
    except Refused as refusal:
        raise read.wrong(("release", "name"), refusal.reason) from None
