"""`fleetcast rollout start` and `set`: begin a rollout and follow it, and change the parameters of what is rolled out."""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted, verb
from hub.cli.command_queue import LOOK_SECONDS, ask, report
from hub.cli.errors import Ended, Exit
from hub.cli.key_values import read_pairs
from hub.cli.options import NOT_EMPTY, changes_fleet, dir_option, json_option, open_store, opened, show, split
from hub.cli.patience import Patience
from hub.cli.remote import WAIT_SECONDS, print_operation, remote
from hub.cli.rollout_acts import deployment_option, rollout_of
from hub.cli.time_arguments import DEADLINE, parsed_option
from hub.core.rollouts import commands, deployments
from hub.core.rollouts.parameters import read
from hub.core.rollouts.stages import parse_stages
from hub.operations import rollouts
from hub.operations.deployed import model_of, release_of
from hub.operations.opened_fleet import check_model
from hub.operations.rollout_rows import rollout_row
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import DEFAULT
from schemas.errors import Unreachable
from schemas.manifest import Manifest
from schemas.windows import parse_windows

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient, Operation
    from hub.database.store import Store

PERCENT_DIGITS_MAX = 3
REMOTE_LOOK_SECONDS = 1.0
KEY_BYTES = 16
ONE_LABEL = "give only one of the two, and begin another rollout for the other"


@click.command()
@click.argument("release", metavar="MODEL@VERSION")
@click.option(
    "--stages",
    default="100",
    show_default=True,
    help="Rising percentages separated by commas, such as 1,10,100, or with nodes by selector: 'canary: site=lab; 10; 100'.",
)
@click.option(
    "--approve", multiple=True, metavar="STAGE[,STAGE]", help="Stages that wait for `rollout approve`, by percentage or name. Repeatable."
)
@click.option(
    "--deployment", metavar="NAME", type=NOT_EMPTY, help="Deployment to roll it out in; with a selector it is made if there is none."
)
@click.option("--where", metavar="SELECTOR", type=NOT_EMPTY, help="Select only these nodes, such as site=jfk,tier!=lab or node=jfk-2.")
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
@click.option("--nodes-min", type=click.IntRange(1), help="Nodes of a stage that must serve the release before the next stage.")
@click.option(
    "--latency-ratio-max",
    type=float,
    help="Halt when the release takes more than this many times as long as the one before it: the median over the stage's nodes.",
)
@click.option(
    "--shadow-min", type=click.FloatRange(0, 1), help="Share of the nodes that serve it on which the comparison in shadow must have passed."
)
@click.option(
    "--retries",
    type=click.IntRange(1, 100),
    help="Number of times that a node which failed tries again by itself before it counts as failed.",
)
@click.option("--retry-seconds", type=click.IntRange(1), help="Pause before failed nodes try again. The default is 600.")
@click.option("--activate", metavar="TIMES", help="When nodes may switch, in their own zone, such as 'Mon-Fri 22:00-05:00'.")
@click.option("--fetch", metavar="TIMES", help="When nodes may fetch, in their own zone.")
@click.option(
    "--deadline",
    type=DEADLINE,
    help="Nodes that do not serve it by then are moved no more: 36h, 2026-12-24T18:00 (UTC), or with +01:00 or Europe/Berlin.",
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
@click.option("--breaking", is_flag=True, help="Start even if programs that use what the nodes have now would not work with this release.")
@click.option("--force", is_flag=True, hidden=True, help="Both.")  # As it was called before deployments.
@click.option("--require-check", is_flag=True, help="Refuse a release that has not passed `fleetcast check`. The default is a warning.")
@click.option("--wait", is_flag=True, help="Follow the rollout to its end.")
@click.option("--timeout-seconds", default=3600, show_default=True, type=click.IntRange(1), help="Time limit of --wait.")
@changes_fleet
@dir_option
@json_option
def start(release: str, stages: str, labels: tuple[str, ...], directory: Path, as_json: bool, **said: Any) -> None:
    """Roll a release out, in stages.

    A node that no stage has reached keeps what it serves. A share is a count: 25 percent of 4 nodes is one.

    With a selector it moves the deployment of that name, or makes one above the default one, such as site-jfk for site=jfk; without, it
    moves the default one, which decides for every node that no other decides for (`fleetcast deploy list`).

    It is refused where the selector matches no known node, or while another rollout of the same deployment runs that would be left
    half-way. One that addresses all nodes at once, when the running one has come to 100 percent, leaves nothing half-way.

    It is refused without --breaking where programs that use what the nodes have now would not work with the release.

    \b
    Examples:
      fleetcast rollout start delay@1.2.0 --stages 1,10,50,100 \\
        --soak-seconds 600 --wait
      fleetcast rollout start delay@1.2.0 --where site=plant-7 \\
        --node-bytes-max 2000000
      fleetcast rollout start delay@1.2.0 --deadline 72h --approve 100 \\
        --stages 'canary: site=lab; 10; 100'
      fleetcast rollout start delay@1.2.0 --set threshold=0.7 \\
        --set labels.cat=Katze
    """
    model, version = split(release)
    hub = remote()
    document = hub.manifest(model, version) if hub is not None else Repository(directory / "trust").manifest(model, version)
    manifest = codec.decode(Manifest, document)
    asked_stages = parsed_option("stages", parse_stages, stages)
    windows = {name: parsed_option(name, parse_windows, said[name]) for name in ("activate", "fetch") if said[name] is not None}
    wish = {
        "version": version,
        "stages": [one if isinstance(one, int) else one.model_dump(mode="json") for one in asked_stages],
        "labels": read_pairs("--label", labels, mend=ONE_LABEL),
        "gate": {
            "receipts_ratio_min": said["receipts_min"],
            "failures_ratio_max": said["failures_max"],
            "soak_seconds": said["soak_seconds"],
            "silent_seconds": said["silent_seconds"],
            "halt_on_drift": said["halt_on_drift"],
            "drift_tests_min": said["drift_tests_min"],
            **_given(
                {
                    "nodes_min": said["nodes_min"],
                    "latency_ratio_max": said["latency_ratio_max"],
                    "shadow_ratio_min": said["shadow_min"],
                    "retries": said["retries"],
                    "retry_seconds": said["retry_seconds"],
                }
            ),
        },
        "carriage": {
            "bytes_max": said["node_bytes_max"],
            "full_download": said["full_download"],
            "priority": said["priority"],
            **_given({"fetch": windows.get("fetch")}),
        },
        "parameters": read(manifest.parameters or (), _pairs(said["values"])) or None,
        **_given({name: said[name] for name in ("deployment", "where", "deadline", "allow_empty", "supersede", "breaking", "force")}),
        **_given({"activate": windows.get("activate"), "approve": tuple(_approve(said["approve"]))}),
    }
    command = commands.read_as(commands.Start, json.dumps(wish))
    if hub is not None:
        _start_remote(hub, model, stages, wish, said, as_json=as_json)
        return
    fleet = opened(directory)
    prepared = rollouts.start(fleet, model, command, require_check=said["require_check"])
    report(prepared)
    fleet.store.close()
    if not said["wait"]:
        ask(directory, model, command, as_json=as_json)
        return
    deadline = time.monotonic() + said["timeout_seconds"]
    ask(directory, model, command, as_json=as_json, deadline=deadline)
    look = partial(_look, open_store(directory), Repository(directory / "trust"), model, prepared.deployment)
    _follow(look, model, prepared.deployment, version, deadline, as_json, pause_seconds=LOOK_SECONDS)


def _start_remote(hub: "HubClient", model: str, stages: str, wish: Mapping[str, Any], said: Mapping[str, Any], *, as_json: bool) -> None:
    """Start a rollout over the API: the options were checked here, and the fields have the API's names."""
    where = [*([said["where"]] if said["where"] is not None else []), *(f"{key}={value}" for key, value in wish["labels"].items())]
    carriage = {"node_bytes_max": said["node_bytes_max"], "full_download": said["full_download"], "priority": said["priority"]}
    given = {
        "model": model,
        "version": wish["version"],
        "stages": stages,
        "gate": wish["gate"],
        "parameters": wish["parameters"],
        "where": ",".join(where) or None,
        "approve": list(wish.get("approve", ())),
        **{name: said[name] for name in ("deployment", "deadline", "activate", "fetch", "breaking", "require_check")},
        "allow_empty": said["allow_empty"] or said["force"],
        "supersede": said["supersede"] or said["force"],
        **carriage,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    deadline = time.monotonic() + said["timeout_seconds"]
    if not said["wait"]:
        print_operation(hub.start_rollout(asked, wait_seconds=WAIT_SECONDS), as_json=as_json)
        return
    done = _start_patiently(hub, asked, deadline)
    print_operation(done, as_json=False)
    if done.state == "open":
        raise Ended(Exit.TIMEOUT, "the hub has not obeyed in time; the command stays queued")
    name = str(done.deployment or said["deployment"] or DEFAULT)

    def look() -> tuple[Mapping[str, Any] | None, bool]:
        row = next((one for one in hub.rollouts(model) if one["deployment"] == name), None)
        return row, row is not None and bool(row["reason"])

    _follow(look, model, name, wish["version"], deadline, as_json, pause_seconds=REMOTE_LOOK_SECONDS)


def _start_patiently(hub: "HubClient", asked: Mapping[str, Any], deadline: float) -> "Operation":
    """Start a rollout once, by a key, and return what the hub has made of it, even if the hub restarts meanwhile.

    Raises:
        Refused: the hub has refused it.
        Ended: no answer in time.
    """
    key, patience = (
        secrets.token_hex(KEY_BYTES),
        Patience(deadline, meanwhile="The rollout is started once, however often it is asked for."),
    )
    try:
        return patience.ask(lambda: hub.start_rollout(asked, wait_seconds=max(0.0, deadline - time.monotonic()), key=key))
    except Unreachable as error:
        again = f"it may have begun; `fleetcast rollout status {asked['model']}` shows it"
        raise Ended(Exit.TIMEOUT, f"the hub has not answered in time ({error}): {again}") from None


def _approve(said: Sequence[str]) -> list[int | str]:
    """Return the stages of `--approve`, by percentage or name."""
    found = [one.strip().removesuffix("%").strip() for text in said for one in text.split(",")]
    return [int(one) if one.isdecimal() and len(one) <= PERCENT_DIGITS_MAX else one for one in found]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given: a hub of an earlier version refuses fields that it does not know."""
    return {name: value for name, value in values.items() if value is not None and value is not False and value != ()}


def _pairs(said: Sequence[str]) -> list[tuple[str, str]]:
    """Return NAME=VALUE as two.

    Raises:
        click.UsageError: it is not, or a name has two values.
    """
    form = "NAME=VALUE, such as threshold=0.7, or MAP.KEY=TEXT, such as labels.cat=Katze"
    return list(read_pairs("parameter", said, form=form).items())


@click.command(name="set")
@click.argument("model")
@click.argument("values", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--unset", multiple=True, metavar="NAME", help="Reset a parameter to the release's default. Repeatable.")
@click.option("--release", metavar="VERSION", help="Release whose parameters to change. The default is the one that nodes are to serve.")
@deployment_option
@changes_fleet
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
    if not values and not unset:
        raise click.UsageError("there is nothing to set: give NAME=VALUE or --unset NAME")
    if (hub := remote()) is not None:
        _set_remote(hub, model, values, unset, release, deployment, as_json=as_json)
        return
    fleet = opened(directory)
    check_model(fleet.repository, model)
    version = rollouts.version_in_force(fleet, model, deployment, release)
    allowed = release_of(fleet.repository, model, version)[1].parameters or ()
    given = {"version": version, "parameters": read(allowed, _pairs(values)), "unset": unset}
    body = commands.read_as(commands.SetParameters, json.dumps({**given, **({"deployment": deployment} if deployment else {})}))
    rollouts.set_parameters(fleet, model, body)
    fleet.store.close()
    ask(directory, model, body, as_json=as_json)


def _set_remote(
    hub: "HubClient",
    model: str,
    values: Sequence[str],
    unset: Sequence[str],
    release: str | None,
    deployment: str | None,
    *,
    as_json: bool,
) -> None:
    row = rollout_of(hub, model, deployment)
    version = release or (row["fallback"] if row["state"] == "rolled_back" and row["fallback"] else row["version"])
    allowed = codec.decode(Manifest, hub.manifest(model, version)).parameters or ()
    wish = {"parameters": read(allowed, _pairs(values)), "unset": list(unset), **({"release": release} if release else {})}
    print_operation(hub.set_parameters(model, str(row["deployment"]), wish, wait_seconds=WAIT_SECONDS), as_json=as_json)


def _look(store: "Store", repository: Repository, model: str, deployment: str) -> tuple[Mapping[str, Any] | None, bool]:
    """Return the rollout of a deployment, and whether the hub has kept its reason; None where the deployment was removed."""
    present = model_of(repository, model)
    progress = present.get(deployment)
    if progress is None:
        return None, False
    kept = next((one for one in store.rollout_rows() if (one.model, one.deployment) == (model, deployment)), None)
    is_kept = kept is not None and deployments.is_of(kept.document, progress.deployment)
    return rollout_row(present, progress.deployment, kept), is_kept


def _follow(
    look: Callable[[], tuple[Mapping[str, Any] | None, bool]],
    model: str,
    deployment: str,
    version: str,
    deadline: float,
    as_json: bool,
    *,
    pause_seconds: float,
) -> None:
    """Print each step until the rollout is done.

    Raises:
        Ended: it halted, went back or was superseded, or time is up.
    """
    said, patience = "", Patience(deadline, meanwhile="The rollout goes on without this command.")
    while True:
        try:
            row, is_kept = patience.ask(look)
        except Unreachable as error:
            shown = f"`fleetcast rollout status {model}` shows it"
            raise Ended(Exit.TIMEOUT, f"no answer in time ({error}): the rollout of {model}@{version} goes on, and {shown}") from None
        if row is None:
            raise Ended(Exit.HALTED, f"deployment {deployment} of {model} was removed")
        if not is_kept and time.monotonic() < deadline:  # The hub has signed it, and keeps its reason next.
            time.sleep(pause_seconds)
            continue
        name = f"{model}@{row['version']}"
        proof = f"{row['serving']} of {counted(row['nodes'], 'node')} {verb(row['serving'], 'serve')} it"
        line = f"{name} {row['state']} at {row['percent']} %, {proof}: {plain(row['reason'])}"
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
        time.sleep(pause_seconds)
