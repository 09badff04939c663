"""`fleetcast status`: the fleet at a glance."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from hub.cli.options import dir_option, hub_runs, json_option, opened
from hub.cli.remote import remote

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient

ROLLOUT = ("model", "deployment", "version", "state", "percent", "reason")


@click.command()
@dir_option
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show the fleet at a glance.

    Shown are nodes by class, rollouts, what is wrong with the hub itself, and
    what differs from the blueprint. Ends with code 0 also where something is
    wrong: scripts read `troubles` of --json.

    A node with several models counts once, in the class that needs somebody most.

    \b
    Examples:
      fleetcast status
      fleetcast status --json
    """
    found = _over_the_api(hub) if (hub := remote()) is not None else _in_folder(directory)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    lines = [f"fleet {found['fleet']}: {_hub(found)}"]
    for row in found["troubles"]:
        lines += [f"wrong: {row['text']} [{row['code']}]", f"    look at: {row['look']}"]
    several = ", ".join(f"{count} {name}" for name, count in Counter(found["classes"]).most_common())
    lines.append(f"{counted(found['nodes'], 'node')}{': ' + several if several else ''}")
    for row in found["rollouts"]:
        lines.append(f"{row['model']} ({row['deployment']}): {row['version']} {row['state']} at {row['percent']} %")
        if row["reason"] and row["state"] in {"running", "halted"}:
            lines.append(f"    {row['reason']}")
    lines += found["unsigned"]
    lines.append(f"blueprint: {found['blueprint']['text']}")
    for line in lines:
        click.echo(plain(line))


def _hub(found: dict[str, Any]) -> str:
    if not found["hub_runs"]:
        return "no hub runs here"
    codes = {row["code"] for row in found["troubles"]}
    if "hub.duplicate" in codes:
        return "the hub here has stood down for another hub"
    if not codes:
        return "a hub runs here"
    count = len(found["troubles"])
    return f"a hub runs here, and {counted(count, 'thing')} of its own {'is' if count == 1 else 'are'} wrong"


def _in_folder(directory: Path) -> dict[str, Any]:
    from hub.core.rollouts.node_class import CLASSES  # noqa: PLC0415  # with numpy, which --help does without
    from hub.operations.blueprint import drift_of  # noqa: PLC0415  # with SQLAlchemy
    from hub.operations.node_classes import Fleet, all_lines, worst  # noqa: PLC0415
    from hub.operations.rollout_rows import Rollouts  # noqa: PLC0415
    from hub.operations.troubles import troubles_of  # noqa: PLC0415
    from hub.signing.unsigned_roles import unsigned_in_words  # noqa: PLC0415

    fleet = opened(directory)
    runs = hub_runs(directory)
    seen = Fleet(fleet.store, required=fleet.needs_enrolment)
    classes = Counter(line.found.name for line in worst(all_lines(fleet, seen)).values())
    rows = sorted(Rollouts.read(fleet, seen=seen).rows(), key=lambda row: (row["model"], row["deployment"]))  # As over the API.
    found = {
        "fleet": fleet.settings.fleet,
        "hub_runs": runs,
        "troubles": troubles_of(fleet, runs=runs),
        "nodes": len(seen.nodes),
        "classes": {name: classes[name] for name in CLASSES if classes[name]},
        "rollouts": [{name: row[name] for name in ROLLOUT} for row in rows],
        "unsigned": unsigned_in_words(fleet.repository.unsigned().roles, len(fleet.repository.models())),
        "blueprint": drift_of(fleet),
    }
    fleet.store.close()
    return found


def _over_the_api(hub: "HubClient") -> dict[str, Any]:
    summary = hub.fleet()
    return {
        "fleet": summary["fleet"],
        "hub_runs": True,
        "troubles": summary.get("troubles") or [],  # A hub of an earlier version does not say.
        "nodes": summary["nodes"],
        "classes": {name: count for name, count in summary["classes"].items() if count},
        "rollouts": [{name: row[name] for name in ROLLOUT} for row in hub.rollouts()],
        "unsigned": summary.get("unsigned", []),  # A hub of the version before does not say it.
        "blueprint": hub.blueprint(),
    }
