"""`fleetcast deploy`: which deployments a model has, which nodes they decide for; pin, change and remove them."""

import json
from pathlib import Path
from typing import Any

import click

from hub.cli.command_queue import ask
from hub.cli.deployed import check_minimum, check_moves, facts_of, look_at_checks, model_of, notice, release_of, states_of
from hub.cli.options import changes_fleet, check_model, dir_option, json_option, open_store, show
from hub.core.rollouts import commands, deployments
from hub.core.rollouts.moves import runs
from hub.core.rollouts.rollout import Place
from hub.core.rollouts.tally import decided
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import PRIORITY_MAX
from schemas.selectors import NodeFacts, matches, text_of
from schemas.state import State


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
def list_(model: str | None, directory: Path, as_json: bool) -> None:
    """List deployments in the order in which they decide.

    `runs` is the release that its nodes get; after going back, the one before. `matched` are the known nodes that the selector matches,
    `decided` those for which no deployment above does.

    \b
    Examples:
      fleetcast deploy list
      fleetcast deploy list delay --json
    """
    repository = Repository(directory / "trust")
    if model is not None:
        check_model(repository, model)
    nodes = facts_of(_states(directory))
    rows = [row for name in repository.models() if model in {None, name} for row in _rows(repository, name, nodes)]
    flat = [{**row, "state": f"rolled_back from {row['release']}" if row["state"] == "rolled_back" else row["state"]} for row in rows]
    columns = ["model", "deployment", "priority", "where", "runs", "state", "matched", "decided"]
    show(rows if as_json else flat, columns, as_json=as_json, empty="There is no deployment.")


def _rows(repository: Repository, name: str, nodes: list[NodeFacts]) -> list[dict[str, Any]]:
    model = model_of(repository, name)
    by_name = decided(model.deployments, nodes)
    return [
        {
            "model": name,
            "deployment": one.name,
            "priority": one.priority,
            "where": text_of(one.selector),
            "release": one.release.version,
            "runs": target.version if (target := runs(one)) is not None else None,
            "fallback": one.fallback.version if one.fallback is not None else None,
            "state": one.state,
            "percent": one.percent,
            "matched": sum(matches(one.selector, node) for node in nodes),
            "decided": len(by_name[one.name]),
        }
        for one in model.deployments
    ]


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
    repository = Repository(directory / "trust")
    check_model(repository, model)
    given = {key: value for key, value in said.items() if value not in {None, False}}
    wish = commands.read_as(commands.SetDeployment, json.dumps({"name": name, **given}))
    release, manifest = release_of(repository, model, wish.release) if wish.release is not None else (None, None)
    present, states = model_of(repository, model), _states(directory)
    nodes = facts_of(states)
    # What the hub would refuse is refused now: it may not run before next week.
    progress = deployments.pinned(present, wish, release, nodes=nodes, rollout=bytes(16), now=0)
    after = present.with_rollout(progress)
    codec.encode(after.statement(expires=0))
    check_moves(repository, present, after, states, breaking=wish.breaking)
    if release is not None and manifest is not None:
        check_minimum(repository, model, release.version)
        look_at_checks(directory, release, manifest, required=False)
    one = progress.deployment
    place = Place(one.name, one.selector, one.priority)
    notice(deployments.change_of_hands(present, place, nodes))
    notice(deployments.ties(present, one.name, one.selector, one.priority))
    ask(directory, model, wish, as_json=as_json)


@deploy.command()
@click.argument("model")
@click.argument("name")
@click.option(
    "--breaking", is_flag=True, help="Remove it even if programs that use what its nodes have now would not work with what they get."
)
@changes_fleet
@dir_option
@json_option
def remove(model: str, name: str, breaking: bool, directory: Path, as_json: bool) -> None:
    """Remove a deployment. Its nodes follow the next one that matches them.

    It is refused without --breaking where programs that use what these nodes have now would not work with the release that they would get.

    \b
    Example:
      fleetcast deploy remove delay hold-jfk-2
    """
    repository = Repository(directory / "trust")
    check_model(repository, model)
    wish = commands.read_as(commands.RemoveDeployment, json.dumps({"name": name, **({"breaking": True} if breaking else {})}))
    present, states = model_of(repository, model), _states(directory)
    check_moves(repository, present, deployments.removed(present, wish), states, breaking=wish.breaking)
    notice(deployments.followers(present, name, facts_of(states)))
    ask(directory, model, wish, as_json=as_json)


def _states(directory: Path) -> list[State]:
    store = open_store(directory)
    try:
        return states_of(store.counted_nodes())
    finally:
        store.close()
