"""`fleetcast status`: the fleet at a glance."""

import json
from collections import Counter
from pathlib import Path

import click

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from hub.cli.options import dir_option, hub_runs, json_option, opened


@click.command()
@dir_option
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show the fleet at a glance: nodes by class, rollouts, and what differs from the blueprint.

    A node with several models counts once, in the class that needs somebody most.

    \b
    Examples:
      fleetcast status
      fleetcast status --json
    """
    from hub.operations.blueprint import drift_of  # noqa: PLC0415  # with SQLAlchemy, which --help does without
    from hub.operations.node_classes import Fleet, all_lines, worst  # noqa: PLC0415
    from hub.operations.rollout_rows import Rollouts  # noqa: PLC0415

    fleet = opened(directory)
    seen = Fleet(fleet.store, required=fleet.needs_enrolment)
    classes = Counter(line.found.name for line in worst(all_lines(fleet, seen)).values())
    rollouts = [
        {name: row[name] for name in ("model", "deployment", "version", "state", "percent", "reason")}
        for row in Rollouts.read(fleet, seen=seen).rows()
    ]
    found = {
        "fleet": fleet.settings.fleet,
        "hub_runs": hub_runs(directory),
        "nodes": len(seen.nodes),
        "classes": dict(classes),
        "rollouts": rollouts,
        "blueprint": drift_of(fleet),
    }
    fleet.store.close()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    lines = [f"fleet {found['fleet']}: {'a hub runs here' if found['hub_runs'] else 'no hub runs here'}"]
    several = ", ".join(f"{count} {name}" for name, count in classes.most_common())
    lines.append(f"{counted(len(seen.nodes), 'node')}{': ' + several if several else ''}")
    for row in rollouts:
        lines.append(f"{row['model']} ({row['deployment']}): {row['version']} {row['state']} at {row['percent']} %")
        if row["reason"] and row["state"] in {"running", "halted"}:
            lines.append(f"    {row['reason']}")
    lines.append(f"blueprint: {found['blueprint']['text']}")  # type: ignore[index]
    for line in lines:
        click.echo(plain(line))
