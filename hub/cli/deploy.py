"""`fleetcast deploy`: which deployments a model has, which nodes they decide for; pin, change and remove them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.list_choice import list_options
from hub.cli.command_queue import ask, report
from hub.cli.options import changes_fleet, dir_option, json_option, opened, show
from hub.cli.remote import WAIT_SECONDS, print_operation, remote
from hub.core.rollouts import commands
from hub.operations import rollouts
from hub.operations.deployed import facts_of, model_of, states_of
from hub.operations.opened_fleet import check_model
from hub.operations.rollout_rows import deployment_rows
from schemas.deployments import PRIORITY_MAX


@click.group()
def deploy() -> None:
    """Say which nodes run which release, by selector and priority.

    A model's first deployment that matches a node decides for it; the default one matches every node and comes last. A rollout moves one
    deployment from one release to another (`fleetcast rollout start`).

    \b
    Examples:
      fleetcast deploy list delay
      fleetcast deploy set delay hold-jfk-2 --where node=jfk-2 \\
        --priority 100 --release 1.3.2
      fleetcast deploy remove delay hold-jfk-2
    """


@deploy.command(name="list")
@click.argument("model", required=False)
@dir_option
@json_option
@list_options()
def list_(model: str | None, directory: Path, as_json: bool) -> None:
    """List deployments in the order in which they decide.

    `runs` is the release that its nodes get; after going back, the one before. `matched` are the known nodes that the selector matches,
    `decided` those for which no deployment above does.

    \b
    Examples:
      fleetcast deploy list
      fleetcast deploy list delay --json
    """
    if (hub := remote()) is not None:
        names = [model] if model is not None else [row["model"] for row in hub.models()]
        rows = [{key: value for key, value in row.items() if key != "serial"} for name in names for row in hub.deployments(name)]
        _show(rows, as_json=as_json)
        return
    fleet = opened(directory)
    if model is not None:
        check_model(fleet.repository, model)
    nodes = facts_of(states_of(fleet.store.counted_nodes()))
    names = [name for name in fleet.repository.models() if model in {None, name}]
    rows = [row for name in names for row in deployment_rows(model_of(fleet.repository, name), nodes)]
    fleet.store.close()
    _show(rows, as_json=as_json)


def _show(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    flat = [{**row, "state": f"rolled_back from {row['release']}" if row["state"] == "rolled_back" else row["state"]} for row in rows]
    columns = ["model", "deployment", "priority", "where", "runs", "state", "matched", "decided"]
    show(rows, columns, as_json=as_json, empty="There is no deployment.", in_words=flat)


@deploy.command(name="set")
@click.argument("model")
@click.argument("name")
@click.option("--where", metavar="SELECTOR", help="Nodes that it matches, such as site=jfk,tier!=lab or node=jfk-2.")
@click.option("--priority", type=click.IntRange(0, PRIORITY_MAX), help="Priority: the higher one decides first. A new deployment has 10.")
@click.option("--release", metavar="VERSION", help="Release that its nodes run from now on, without stages or a gate.")
@click.option("--allow-empty", is_flag=True, help="Set it even if its selector matches no known node.")
@click.option(
    "--breaking", is_flag=True, help="Set it even if programs that use what nodes have now would not work with the release that they get."
)
@click.option("--supersede", is_flag=True, help="Pin a release even if a rollout of the deployment is left half-way.")
@changes_fleet
@dir_option
@json_option
def set_(model: str, name: str, directory: Path, as_json: bool, **said: Any) -> None:
    """Make a deployment, or change its selector, priority or release.

    With --release its nodes are pinned: they run that release whatever else is rolled out below it. Without, a new deployment pins what
    its nodes have now.

    \b
    Examples:
      fleetcast deploy set delay hold-jfk-2 --where node=jfk-2 \\
        --priority 100 --release 1.3.2
      fleetcast deploy set delay hold-jfk-2 --priority 200
    """
    given = {key: value for key, value in said.items() if value not in {None, False}}
    wish = commands.read_as(commands.SetDeployment, json.dumps({"name": name, **given}))
    if (hub := remote()) is not None:
        print_operation(hub.set_deployment(model, name, given, wait_seconds=WAIT_SECONDS), as_json=as_json)
        return
    fleet = opened(directory)
    report(rollouts.set_deployment(fleet, model, wish))
    fleet.store.close()
    ask(directory, model, wish, as_json=as_json)


@deploy.command()
@click.argument("model")
@click.argument("name")
@click.option(
    "--breaking", is_flag=True, help="Remove it even if programs that use what its nodes have now would not work with what they get."
)
@click.option("--supersede", is_flag=True, help="Remove it even if its rollout is left half-way.")
@changes_fleet
@dir_option
@json_option
def remove(model: str, name: str, breaking: bool, supersede: bool, directory: Path, as_json: bool) -> None:
    """Remove a deployment. Its nodes follow the next one that matches them.

    It is refused without --breaking where programs that use what these nodes have now would not work with the release that they would get,
    and without --supersede while its rollout runs.

    \b
    Example:
      fleetcast deploy remove delay hold-jfk-2
    """
    given = {key: True for key, is_given in (("breaking", breaking), ("supersede", supersede)) if is_given}
    wish = commands.read_as(commands.RemoveDeployment, json.dumps({"name": name, **given}))
    if (hub := remote()) is not None:
        print_operation(
            hub.remove_deployment(model, name, breaking=breaking, supersede=supersede, wait_seconds=WAIT_SECONDS), as_json=as_json
        )
        return
    fleet = opened(directory)
    report(rollouts.remove_deployment(fleet, model, wish))
    fleet.store.close()
    ask(directory, model, wish, as_json=as_json)
