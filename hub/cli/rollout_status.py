"""`fleetcast rollout status`: a line a deployment, its gates, and a line a node that says in which class it is and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from hub.cli.deployed import facts_of, model_of
from hub.cli.node_classes import Fleet, NodeLine
from hub.cli.node_findings import shortened
from hub.cli.options import check_model, dir_option, json_option, open_store, show
from hub.cli.time_arguments import iso
from hub.core.rollouts import deployments, gates
from hub.core.rollouts import rollout as core
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.node_class import totals
from hub.core.rollouts.node_filter import chosen, nobody
from hub.core.rollouts.parameters import in_words
from hub.core.rollouts.refusals import findings_of, of_clock, standing_against
from hub.core.rollouts.stages import words_of
from hub.core.rollouts.tally import decided
from hub.database.rows import RolloutRow
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas.deployments import Deployment
from schemas.selectors import text_of
from schemas.state import Finding, State
from schemas.windows import windows_text

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
        raise click.UsageError("--nodes needs a model: fleetcast rollout status MODEL --nodes")
    if said["wants_nodes"] and said["wants_gates"]:
        raise click.UsageError("give --nodes or --gates, not both")
    repository = Repository(directory / "trust")
    if model is not None:
        check_model(repository, model)
    store = open_store(directory)
    fleet = Fleet(store, required=load(directory).enrolment == "required")
    kept = {(row.model, row.deployment): row for row in store.rollout_rows()}
    models = [model_of(repository, name) for name in repository.models() if model in {None, name}]
    lines = {one.name: fleet.lines(one, {name: row for (of, name), row in kept.items() if of == one.name}) for one in models}
    if said["wants_nodes"] or said["where"] is not None:
        _show_nodes([line for mine in lines.values() for line in mine], said["where"], as_json=as_json)
        return
    rows = []
    for present in models:
        serve = _serving(present, [node.state for node in fleet.nodes.values()])
        for one in present.deployments:
            row = rollout_row(present, one, kept.get((present.name, one.name)))
            mine = [line for line in lines[present.name] if line.deployment == one.name]
            classes, refused = totals(line.found for line in mine), _refused(mine, one)
            rows.append({**row, "classes": classes, "refused": refused, "parameters": _in_force(present.name, one, serve[one.name])})
    if said["wants_gates"]:
        found = [{"model": row["model"], "deployment": row["deployment"], **one} for row in rows for one in row["gates"]]
        flat = [{**one, "figure": _figure(one["figure"]), "limit": _figure(one["limit"])} for one in found]
        show(found if as_json else flat, GATE_COLUMNS, as_json=as_json, empty="No gate was looked at yet.")
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


def _refused(lines: Sequence[NodeLine], deployment: Deployment) -> list[dict[str, Any]]:
    """Return the nodes that refuse a document without which they cannot take the release."""
    return [
        {"node": line.node.name, "code": finding.code, "reason": finding.reason}
        for line in lines
        for finding in _standing(findings_of(line.node.state, line.node.refused), line.model, deployment.release.version)
    ]


def _standing(found: tuple[Finding, ...], model: str, version: str) -> list[Finding]:
    clock = of_clock(found)
    return [*standing_against(found, model=model, version=version), *([clock] if clock is not None else [])]


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
    show(rows, [*(["deployment"] if several else []), *NODE_COLUMNS], as_json=as_json, empty=empty)


def _serving(model: Model, states: Sequence[State]) -> dict[str, list[State]]:
    """Return the reports of the nodes for which each deployment decides, by its name."""
    by_node = {state.node: state for state in states}
    return {name: [by_node[one.node] for one in nodes] for name, nodes in decided(model.deployments, facts_of(states)).items()}


def rollout_row(model: Model, one: Deployment, kept: RolloutRow | None) -> dict[str, Any]:
    """Return a deployment and how far its rollout has come, as the hub has kept it."""
    is_kept = kept is not None and deployments.is_of(kept.document, one)
    has_left = one.state == "rolled_back"  # Its gates were last looked at before it went back, and say that nodes serve what they left.
    fetch = one.carriage.fetch if one.carriage is not None else None
    return {
        "model": model.name,
        "deployment": one.name,
        "where": text_of(one.selector),
        "priority": one.priority,
        "version": one.release.version,
        "digest": one.release.digest.hex(),
        "rollout": one.rollout.hex(),
        "fallback": one.fallback.version if one.fallback else None,
        "state": one.state,
        "stage": f"{one.stage + 1} of {len(one.stages)}",
        "percent": one.percent,
        "stages": [{"stage": words_of(each), "where": text_of(each.selector or ()), "approve": each.approve} for each in one.stages],
        "activate": windows_text(one.activate) if one.activate else None,
        "fetch": windows_text(fetch) if fetch else None,
        "deadline": iso(one.deadline),
        "attempt": one.attempt or 0,
        "serial": model.serial,
        "nodes": kept.addressed if kept else 0,
        "heard": kept.heard if kept else 0,
        "silent": kept.silent if kept else 0,
        "serving": kept.serving if kept else 0,
        "failed": kept.failed if kept else 0,
        "reason": kept.reason if kept else "",
        "gates": [_gate(verdict) for verdict in gates.from_json(kept.gates)] if kept is not None and is_kept and not has_left else [],
    }


def _gate(verdict: gates.Verdict) -> dict[str, Any]:
    fields = asdict(verdict)
    return {"gate": fields.pop("name"), **fields}


def _in_force(model: str, deployment: Deployment, states: Sequence[State]) -> dict[str, dict[str, Any]]:
    """Return for each parameter what is set, and how many nodes that serve the release use whose value."""
    releases = {one.release: one.parameters for one in core.in_force(deployment)}
    found: dict[str, dict[str, Any]] = {}
    for release, said in releases.items():
        found.update({name: {"set": value, **_nobody()} for name, value in said.items()})
        for state in states:
            slots = [slot for slot in state.slots if slot.model == model and slot.serving == release.digest]
            for setting in (setting for slot in slots for setting in slot.parameters or ()):
                entry = found.setdefault(setting.name, {"set": None, **_nobody()})
                entry[setting.source] += 1
                if setting.code is not None:
                    entry["refused"].append({"node": state.node, "code": setting.code})
    return found


def _nobody() -> dict[str, Any]:
    return {"rollout": 0, "site": 0, "release": 0, "refused": []}


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
