"""`fleetcast rollout`: start, follow, halt, resume, go back, approve, retry."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.terminal_text import plain
from hub.cli.command_queue import LOOK_SECONDS, ask
from hub.cli.deployed import facts_of, look_at_checks, model_of, notice, release_of, states_of
from hub.cli.errors import Ended, Exit
from hub.cli.key_values import read_pairs
from hub.cli.options import check_model, dir_option, json_option, open_store, show, split
from hub.core.rollouts import commands, deployments
from hub.core.rollouts import rollout as core
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.parameters import in_words, read
from hub.core.rollouts.tally import decided
from hub.database.rows import RolloutRow
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import Deployment
from schemas.errors import Code, Refused
from schemas.parameters import Value
from schemas.selectors import text_of
from schemas.state import State

NAMES_SHOWN = 3
ONE_LABEL = "give only one of the two, and begin another rollout for the other"

deployment_option = click.option("--deployment", metavar="NAME", help="Deployment, where the model has several.")


@click.group()
def rollout() -> None:
    """Choose which nodes run which release.

    \b
    Examples:
      fleetcast rollout start delay@1.2.0 --stages 1,10,50,100 \\
        --soak-seconds 600 --wait
      fleetcast rollout start delay@1.3.0 --where site=jfk
      fleetcast rollout status
      fleetcast rollout halt delay
    """


@rollout.command()
@click.argument("release", metavar="MODEL@VERSION")
@click.option("--stages", default="100", show_default=True, help="Rising percentages of the fleet, separated by commas.")
@click.option("--approve", multiple=True, type=int, metavar="PERCENT", help="Stage that waits for `rollout approve`. Repeatable.")
@click.option("--deployment", metavar="NAME", help="Deployment to roll it out in; with a selector it is made if there is none.")
@click.option("--where", metavar="SELECTOR", help="Select only these nodes, such as site=jfk,tier!=lab or node=jfk-2.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Select only nodes with this label. Repeatable.")
@click.option(
    "--receipts-min",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the nodes heard from that must serve the release before the next stage.",
)
@click.option(
    "--failures-max",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the nodes heard from above which failures halt the rollout.",
)
@click.option(
    "--soak-seconds", default=0, show_default=True, type=click.IntRange(0), help="Time that a gate must hold before the next stage."
)
@click.option(
    "--silent-seconds",
    default=3600,
    show_default=True,
    type=click.IntRange(1),
    help="Time without a message after which a node does not count.",
)
@click.option("--halt-on-drift/--no-halt-on-drift", default=True, show_default=True, help="Halt on an alarm of drift, or not.")
@click.option(
    "--drift-tests-min", type=click.IntRange(0), help="Intervals of the release that must be tested for drift before the next stage."
)
@click.option(
    "--node-bytes-max", type=click.IntRange(0), help="Bytes that the rollout may cost one node. A node stops before it would exceed them."
)
@click.option(
    "--full-download/--no-full-download",
    default=None,
    help="Let a node without a delta's parent fetch the whole, or not. The default is the node's own policy.",
)
@click.option(
    "--priority",
    default=5,
    show_default=True,
    type=click.IntRange(0, 9),
    help="Priority among a node's transfers. A higher one goes first.",
)
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="Set a parameter of the release. Repeatable.")
@click.option("--allow-empty", is_flag=True, help="Start even if the selector matches no known node.")
@click.option("--supersede", is_flag=True, help="Start even if another rollout of the deployment is left half-way.")
@click.option("--force", is_flag=True, hidden=True, help="Both.")  # As it was called before deployments.
@click.option("--require-check", is_flag=True, help="Refuse a release that has not passed `fleetcast check`. The default is a warning.")
@click.option("--wait", is_flag=True, help="Follow the rollout to its end.")
@click.option("--timeout-seconds", default=3600, show_default=True, type=click.IntRange(1), help="Time limit of --wait.")
@dir_option
@json_option
def start(release: str, stages: str, labels: tuple[str, ...], directory: Path, as_json: bool, **said: Any) -> None:
    """Roll a release out, in stages.

    A node that no stage has reached keeps what it serves. A share is a count: 25 percent of 4 nodes is one.

    With a selector it moves the deployment of that name, or makes one above the default one, such as site-jfk for site=jfk; without, it
    moves the default one, which decides for every node that no other decides for (`fleetcast deploy list`).

    It is refused where the selector matches no known node, or while another rollout of the same deployment runs that would be left
    half-way. One that addresses all nodes at once, when the running one has come to 100 percent, leaves nothing half-way.

    \b
    Examples:
      fleetcast rollout start delay@1.2.0 --stages 1,10,50,100 \\
        --soak-seconds 600 --wait
      fleetcast rollout start delay@1.2.0 --where site=plant-7 \\
        --node-bytes-max 2000000
      fleetcast rollout start delay@1.2.0 --set threshold=0.7 \\
        --set labels.cat=Katze
    """
    model, version = split(release)
    repository = Repository(directory / "trust")
    ref, manifest = release_of(repository, model, version)
    wish = {
        "version": version,
        "stages": _stages(stages),
        "labels": read_pairs("--label", labels, mend=ONE_LABEL),
        "gate": {
            "receipts_ratio_min": said["receipts_min"],
            "failures_ratio_max": said["failures_max"],
            "soak_seconds": said["soak_seconds"],
            "silent_seconds": said["silent_seconds"],
            "halt_on_drift": said["halt_on_drift"],
            "drift_tests_min": said["drift_tests_min"],
        },
        "carriage": {"bytes_max": said["node_bytes_max"], "full_download": said["full_download"], "priority": said["priority"]},
        "parameters": read(manifest.parameters or (), _pairs(said["values"])) or None,
        # A hub of an earlier version refuses fields that it does not know: only what was given is sent.
        **{name: said[name] for name in ("deployment", "where", "approve", "allow_empty", "supersede", "force") if said[name]},
    }
    command = commands.read_as(commands.Start, json.dumps(wish))
    present, nodes = model_of(repository, model), facts_of(_states(directory))
    # What the hub would refuse is refused now: it may not run before next week.
    progress = deployments.begun(present, command, ref, nodes=nodes, rollout=bytes(16), now=0, allowed=manifest.parameters or ())
    codec.encode(present.with_rollout(progress).statement(expires=0))  # Many long texts do not fit the document.
    look_at_checks(directory, ref, manifest, required=said["require_check"])
    place = deployments.place_of(present, command, nodes)
    _tell_of_left_behind(place.before, command.parameters or {})
    notice(deployments.stay(present, place, nodes))
    if place.before is None:
        notice(deployments.ties(present, place.name, place.selector, place.priority))
    if not said["wait"]:
        ask(directory, model, command, as_json=as_json)
        return
    deadline = time.monotonic() + said["timeout_seconds"]
    ask(directory, model, command, as_json=as_json, deadline=deadline)
    _follow(directory, model, place.name, version, deadline, as_json)


def _tell_of_left_behind(before: Deployment | None, parameters: Mapping[str, Value]) -> None:
    """Warn of parameters that the previous rollout set: a new rollout begins with the release's own values."""
    before_it = {name: value for one in (core.in_force(before) if before else ()) for name, value in one.parameters.items()}
    left = {name: value for name, value in before_it.items() if name not in parameters}
    if left:
        said = ", ".join(in_words(*one) for one in left.items())
        click.echo(f"warning: the previous rollout set parameters that this one does not set: {said}", err=True)


def _states(directory: Path) -> list[State]:
    """Return what nodes have reported to the hub."""
    store = open_store(directory)
    try:
        return states_of(store.nodes())
    finally:
        store.close()


def _stages(text: str) -> list[int]:
    """Return the percents of `--stages`.

    Raises:
        click.UsageError: they are not whole numbers.
    """
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--stages {text!r} must be whole percents with commas, such as 1,10,50,100") from None


def _pairs(said: Sequence[str]) -> list[tuple[str, str]]:
    """Return NAME=VALUE as two.

    Raises:
        click.UsageError: it is not, or a name has two values.
    """
    form = "NAME=VALUE, such as threshold=0.7, or MAP.KEY=TEXT, such as labels.cat=Katze"
    return list(read_pairs("parameter", said, form=form).items())


@rollout.command(name="set")
@click.argument("model")
@click.argument("values", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--unset", multiple=True, metavar="NAME", help="Reset a parameter to the release's default. Repeatable.")
@click.option("--release", metavar="VERSION", help="Release whose parameters to change. The default is the one that nodes are to serve.")
@deployment_option
@dir_option
@json_option
def set_(
    model: str,
    values: tuple[str, ...],
    unset: tuple[str, ...],
    release: str | None,
    deployment: str | None,
    directory: Path,
    as_json: bool,
) -> None:
    """Change parameters of the release that is rolled out.

    There is no new release, no stage begins again, and no node moves.

    What is not named stays as it is set. A site's own value, where the release allows one, stays in force there. After `rollout back` they
    are those of the release that is served again.

    \b
    Examples:
      fleetcast rollout set delay threshold=0.65
      fleetcast rollout set delay labels.cat=Katze --unset threshold
    """
    repository = Repository(directory / "trust")
    check_model(repository, model)
    if not values and not unset:
        raise click.UsageError("there is nothing to set: give NAME=VALUE or --unset NAME")
    present = model_of(repository, model)
    if not present.rollouts:
        raise Refused(Code.ROLLOUT_INVALID, f"there is no rollout of {model}: set values when it starts, with --set")
    progress = deployments.chosen(present, deployment)
    served = [one.release.version for one in core.in_force(progress.deployment)]
    if not served:
        raise Refused(Code.ROLLOUT_INVALID, f"the first release of {model} was taken back: set values when the next one starts, with --set")
    version = core.in_force_of(progress, release or served[0]).release.version
    allowed = release_of(repository, model, version)[1].parameters or ()
    given = {"version": version, "parameters": read(allowed, _pairs(values)), "unset": unset}
    body = commands.read_as(commands.SetParameters, json.dumps({**given, **({"deployment": deployment} if deployment else {})}))
    after = core.set_parameters(progress, body, allowed=allowed)  # What the hub would refuse is refused now.
    codec.encode(present.with_rollout(after).statement(expires=0))
    ask(directory, model, body, as_json=as_json)


@rollout.command()
@click.argument("model", required=False)
@dir_option
@json_option
def status(model: str | None, directory: Path, as_json: bool) -> None:
    """Show every rollout, or those of one model: a line a deployment.

    \b
    Example:
      fleetcast rollout status delay --json
    """
    repository = Repository(directory / "trust")
    if model is not None:
        check_model(repository, model)
    store = open_store(directory)
    states, kept = states_of(store.nodes()), {(row.model, row.deployment): row for row in store.rollout_rows()}
    rows = []
    for name in repository.models():
        if model in {None, name}:
            present = model_of(repository, name)
            serve = _serving(present, states)
            for one in present.deployments:
                row = _row(present, one, kept.get((name, one.name)))
                rows.append({**row, "parameters": _in_force(name, one, serve[one.name])})
    columns = ["model", "deployment", "version", "state", "stage", "percent", "nodes", "heard", "serving", "failed", "silent", "reason"]
    show(rows, columns, as_json=as_json, empty="There is no rollout.")
    if not as_json:
        for row in rows:
            for parameter, one in row["parameters"].items():
                of = f"{row['model']} ({row['deployment']})" if row["where"] else row["model"]
                click.echo(plain(f"{of}: {_told(parameter, one)}"))


def _serving(model: Model, states: Sequence[State]) -> dict[str, list[State]]:
    """Return the reports of the nodes for which each deployment decides, by its name."""
    by_node = {state.node: state for state in states}
    return {name: [by_node[one.node] for one in nodes] for name, nodes in decided(model.deployments, facts_of(states)).items()}


def _simple(kind: str, asked: type[commands.OfDeployment], sentence: str) -> click.Command:
    @rollout.command(kind, help=f"{sentence}\n\n\b\nExample:\n  fleetcast rollout {kind} delay")
    @click.argument("model")
    @deployment_option
    @dir_option
    @json_option
    def run(model: str, deployment: str | None, directory: Path, as_json: bool) -> None:
        check_model(Repository(directory / "trust"), model)
        command = commands.read_as(asked, json.dumps({"deployment": deployment} if deployment else {}))
        ask(directory, model, command, as_json=as_json)

    return run


halt = _simple("halt", commands.Halt, "Halt a rollout. Nodes that have the release keep it.")
resume = _simple("resume", commands.Resume, "Resume a rollout after a halt.")
back = _simple("back", commands.Rollback, "Return each node of the rollout to its previous release.")
approve = _simple("approve", commands.Approve, "Approve the next stage. It begins when its turn has come.")
retry = _simple("retry", commands.Retry, "Let the nodes that failed try once more.")


def _follow(directory: Path, model: str, deployment: str, version: str, deadline: float, as_json: bool) -> None:
    """Print each step until the rollout is done.

    Raises:
        Ended: it halted, went back or was superseded, or time is up.
    """
    store, repository, said = open_store(directory), Repository(directory / "trust"), ""
    while True:
        present = model_of(repository, model)
        progress = present.get(deployment)
        if progress is None:
            raise Ended(Exit.HALTED, f"deployment {deployment} of {model} was removed")
        kept = next((one for one in store.rollout_rows() if (one.model, one.deployment) == (model, deployment)), None)
        is_kept = kept is not None and deployments.is_of(kept.document, progress.deployment)
        if not is_kept and time.monotonic() < deadline:  # The hub has signed it, and keeps its reason next.
            time.sleep(LOOK_SECONDS)
            continue
        row = _row(present, progress.deployment, kept)
        name = f"{model}@{row['version']}"
        line = f"{name} {row['state']} at {row['percent']} %, {row['serving']} of {row['nodes']} nodes serve it: {plain(row['reason'])}"
        if line != said and not as_json:
            click.echo(line)
            said = line
        if row["version"] != version:
            raise Ended(Exit.HALTED, f"the rollout of {model}@{version} was superseded by {row['version']}")
        if row["state"] == "done":
            if as_json:
                show([row], [], as_json=True, empty="")
            return
        if row["state"] in {"halted", "rolled_back"}:
            raise Ended(Exit.HALTED, f"the rollout of {model}@{version} is {row['state']}: {row['reason']}")
        if time.monotonic() >= deadline:
            raise Ended(Exit.TIMEOUT, f"the rollout of {model}@{version} is still {row['state']} at {row['percent']} %: {row['reason']}")
        time.sleep(LOOK_SECONDS)


def _row(model: Model, one: Deployment, kept: RolloutRow | None) -> dict[str, Any]:
    return {
        "model": model.name,
        "deployment": one.name,
        "where": text_of(one.selector),
        "priority": one.priority,
        "version": one.release.version,
        "digest": one.release.digest.hex(),
        "fallback": one.fallback.version if one.fallback else None,
        "state": one.state,
        "stage": f"{one.stage + 1} of {len(one.stages)}",
        "percent": one.percent,
        "serial": model.serial,
        "nodes": kept.addressed if kept else 0,
        "heard": kept.heard if kept else 0,
        "silent": kept.silent if kept else 0,
        "serving": kept.serving if kept else 0,
        "failed": kept.failed if kept else 0,
        "reason": kept.reason if kept else "",
    }


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


def _told(name: str, one: Mapping[str, Any]) -> str:
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
