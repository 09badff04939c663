"""`fleetcast rollout status`: a line a deployment, its gates, and a line a node that says in which class it is and why."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli.list_choice import list_options
from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from hub.cli.options import dir_option, json_option, opened, show
from hub.cli.remote import remote
from hub.core.rollouts.node_class import BY_NEED
from hub.core.rollouts.node_filter import chosen, nobody
from hub.core.rollouts.parameters import in_words
from hub.operations.node_classes import NodeLine
from hub.operations.node_findings import shortened
from hub.operations.opened_fleet import check_model
from hub.operations.rollout_rows import Rollouts
from schemas.deployments import DEFAULT
from schemas.selectors import NodeFacts

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient

NAMES_SHOWN = 3
COLUMNS = ["model", "deployment", "version", "state", "stage", "percent", "nodes", "heard", "serving", "failed", "silent", "reason"]
GATE_COLUMNS = ["model", "deployment", "gate", "outcome", "figure", "limit", "sentence"]
NODE_COLUMNS = ["node", "class", "code", "sentence", "serves", "since", "heard"]


@click.command()
@click.argument("model", required=False)
@click.option("--gates", "wants_gates", is_flag=True, help="Show what each gate says.")
@click.option("--nodes", "wants_nodes", is_flag=True, help="Show a line a node: its class, and why. Needs MODEL.")
@click.option("--where", metavar="SELECTOR", help="Show only these nodes, such as site=jfk or 'state in (refused,waiting)'.")
@dir_option
@json_option
@list_options(has_where=True)
def status(model: str | None, directory: Path, as_json: bool, **said: Any) -> None:
    """Show every rollout, or those of one model: a line a deployment.

    Every node for which a deployment decides is in one class: serving, moving, waiting, refused, rolled_back, unreachable or expired. The
    classes add up to these nodes. In --where the key `state` is the class.

    \b
    Examples:
      fleetcast rollout status
      fleetcast rollout status delay --gates
      fleetcast rollout status delay --nodes --where state=waiting
    """
    if (said["wants_nodes"] or said["where"] is not None) and model is None:
        what = "--nodes needs a model" if said["wants_nodes"] else "--where selects nodes here, not rollouts, and needs a model"
        where = f" --where {shlex.quote(said['where'])}" if said["where"] is not None else ""
        raise click.UsageError(f"{what}: fleetcast rollout status MODEL --nodes{where if said['wants_nodes'] else ' --where site=jfk'}")
    if said["wants_nodes"] and said["wants_gates"]:
        raise click.UsageError("give --nodes or --gates, not both")
    if (hub := remote()) is not None:
        _remote(hub, model, said, as_json=as_json)
        return
    fleet = opened(directory)
    if model is not None:
        check_model(fleet.repository, model)
    view = Rollouts.read(fleet, model)
    fleet.store.close()
    if said["wants_nodes"] or said["where"] is not None:
        _show_nodes(view.lines, said["where"], as_json=as_json)
        return
    _show(view.rows(), wants_gates=said["wants_gates"], as_json=as_json)


def _remote(hub: "HubClient", model: str | None, said: Mapping[str, Any], *, as_json: bool) -> None:
    rows = sorted(hub.rollouts(model), key=lambda row: (row["model"], row["deployment"] == DEFAULT, -row["priority"], row["deployment"]))
    if not said["wants_nodes"] and said["where"] is None:
        _show(rows, wants_gates=said["wants_gates"], as_json=as_json)
        return
    names = [str(row["deployment"]) for row in rows]
    lines = [row for name in names for row in hub.rollout_nodes(str(model), name, said["where"])]
    shown = [{("class" if name == "state" else name): value for name, value in row.items()} for row in lines]
    shown.sort(key=lambda row: (BY_NEED.index(row["class"]), row["node"]))
    empty = "No deployment decides for any known node."
    if not shown and said["where"] is not None:
        everybody = [row for name in names for row in hub.rollout_nodes(str(model), name)]
        facts = {row["node"]: NodeFacts(row["node"], row["labels"], row["arch"] or "") for row in (hub.nodes() if everybody else ())}
        empty = nobody(said["where"], [facts[row["node"]] for row in everybody if row["node"] in facts])
    _print_nodes(shown, several=sum(sum(row["classes"].values()) > 0 for row in rows) > 1, empty=empty, as_json=as_json)


def _print_nodes(rows: Sequence[Mapping[str, Any]], *, several: bool, empty: str, as_json: bool) -> None:
    show(rows, [*(["deployment"] if several else []), *NODE_COLUMNS], as_json=as_json, empty=empty)


def _show(rows: Sequence[Mapping[str, Any]], *, wants_gates: bool, as_json: bool) -> None:
    if wants_gates:
        found = [{"model": row["model"], "deployment": row["deployment"], **one} for row in rows for one in row["gates"]]
        flat = [{**one, "figure": _figure(one["figure"]), "limit": _figure(one["limit"])} for one in found]
        show(found, GATE_COLUMNS, as_json=as_json, empty="No gate was looked at yet.", in_words=flat)
        for row in rows if not as_json else []:
            if row["state"] == "rolled_back":
                to = f"to {row['fallback']}" if row["fallback"] else "to what its nodes had"
                click.echo(plain(f"{row['model']} ({row['deployment']}): {row['version']} went back {to}: no gate is looked at any more."))
        return
    show(rows, COLUMNS, as_json=as_json, empty="There is no rollout.")
    if not as_json:
        for row in rows:
            _show_more(row)


def _show_more(row: Mapping[str, Any]) -> None:
    of = f"{row['model']} ({row['deployment']})" if row["where"] else row["model"]
    classes = ", ".join(f"{count} {name}" for name, count in row["classes"].items() if count) or "none"
    click.echo(plain(f"{of}: {counted(sum(row['classes'].values()), 'node')}: {classes}"))
    if terms := _terms(row):
        click.echo(plain(f"{of}: {terms}"))
    for parameter, one in row["parameters"].items():
        click.echo(plain(f"{of}: {_parameter_in_words(parameter, one)}"))
    cannot = [f"{of}: {one['node']} cannot take it: {one['reason']} [{one['code']}]" for one in row["refused"]]
    for line in shortened(cannot, mend=f"`fleetcast rollout status {row['model']} --json` has all of them"):
        click.echo(plain(line))


def _terms(row: Mapping[str, Any]) -> str:
    """Return stages and times, where there is more to them than the table shows."""
    found = [f"stages {', '.join(_stage_in_words(one) for one in row['stages'])}"] if len(row["stages"]) > 1 else []
    found += [f"{key} {row[key]}" for key in ("activate", "fetch", "deadline") if row[key]]
    found += [f"attempt {row['attempt'] + 1}"] if row["attempt"] else []
    return "; ".join(found)


def _stage_in_words(one: Mapping[str, Any]) -> str:
    where = f" ({one['where']})" if one["where"] else ""
    needs = {True: ", needs approval", False: ", approved", None: ""}[one["approve"]]
    return f"{one['stage']}{where}{needs}"


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _show_nodes(lines: Sequence[NodeLine], where: str | None, *, as_json: bool) -> None:
    found = lines
    if where is not None:
        found = chosen(lines, where, facts=lambda line: line.node.facts, state=lambda line: line.found.name)
    empty = nobody(where, [line.node.facts for line in lines]) if where is not None else "No deployment decides for any known node."
    rows = [line.as_row() for line in found]
    several = len({line.deployment for line in lines}) > 1
    _print_nodes(rows, several=several, empty=empty, as_json=as_json)


def _parameter_in_words(name: str, one: Mapping[str, Any]) -> str:
    """`threshold=0.7: in force on 5, 1 has its site's; the site's own value is not allowed on gate-3`."""
    said = in_words(name, one["set"]) if one["set"] is not None else f"{name} as released"
    parts = [f"in force on {one['rollout' if one['set'] is not None else 'release']}"]
    if one["site"]:
        parts.append(f"{one['site']} by their sites")
    if one["refused"]:
        names = [refusal["node"] for refusal in one["refused"]]
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        parts.append(f"the site's own is not allowed on {', '.join(names[:NAMES_SHOWN])}{more}")
    return f"{said} ({'; '.join(parts)})"
