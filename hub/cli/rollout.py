"""`fleetcast rollout`: start, follow, halt, resume, go back."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.terminal_text import plain
from hub.cli.errors import Ended, Exit
from hub.cli.key_values import read_pairs
from hub.cli.node_findings import findings_by_node, shortened
from hub.cli.options import changes_fleet, check_model, dir_option, hub_runs, json_option, open_store, show, split
from hub.core.publish.check_rules import unchecked
from hub.core.publish.signature_compatibility import Signature, check_started
from hub.core.rollouts import commands
from hub.core.rollouts import rollout as core
from hub.core.rollouts.parameters import in_words, read
from hub.core.rollouts.predecessors import predecessors
from hub.core.rollouts.refusals import standing_against
from hub.database.rows import RolloutRow
from hub.publish.check_results import Checks
from hub.service.rollouts.release_lookup import signatures
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.parameters import Value
from schemas.rollout import ReleaseRef, Rollout, all_fallbacks, selected
from schemas.state import Finding, State

ANSWER_SECONDS = 15.0  # how long a running hub may take to obey
LOOK_SECONDS = 0.3
NAMES_SHOWN = 3
ONE_LABEL = "give only one of the two, and begin a rollout for the other when this one is done"


@click.group()
def rollout() -> None:
    """Choose which nodes run which release.

    \b
    Examples:
      fleetcast rollout start delay@1.2.0 --stages 1,10,50,100 \\
        --soak-seconds 600 --wait
      fleetcast rollout status
      fleetcast rollout halt delay
    """


@rollout.command()
@click.argument("release", metavar="MODEL@VERSION")
@click.option("--stages", default="100", show_default=True, help="Rising percentages of the fleet, separated by commas.")
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
@click.option("--force", is_flag=True, help="Start even if no known node has the labels, or another rollout of the model runs.")
@click.option("--breaking", is_flag=True, help="Start even if programs that use what the nodes have now would not work with this release.")
@click.option("--require-check", is_flag=True, help="Refuse a release that has not passed `fleetcast check`. The default is a warning.")
@click.option("--wait", is_flag=True, help="Follow the rollout to its end.")
@click.option("--timeout-seconds", default=3600, show_default=True, type=click.IntRange(1), help="Time limit of --wait.")
@changes_fleet
@dir_option
@json_option
def start(release: str, stages: str, labels: tuple[str, ...], directory: Path, as_json: bool, **said: Any) -> None:
    """Roll a release out, in stages.

    A node that no stage has reached keeps what it serves.

    It is refused without --force where no known node has the labels, or while another rollout of the model runs that would be left
    half-way. One that addresses all nodes of a running one at once, when that has come to 100 percent, leaves nothing half-way.

    It is refused without --breaking where programs that use what the nodes have now would not work with the release.

    \b
    Examples:
      fleetcast rollout start delay@1.2.0 --stages 1,10,50,100 \\
        --soak-seconds 600 --wait
      fleetcast rollout start delay@1.2.0 --label site=plant-7 \\
        --node-bytes-max 2000000
      fleetcast rollout start delay@1.2.0 --set threshold=0.7 \\
        --set labels.cat=Katze
    """
    model, version = split(release)
    repository = Repository(directory / "trust")
    ref, manifest = _release(repository, model, version)
    percents, wanted = _stages(stages), read_pairs("--label", labels, mend=ONE_LABEL)
    gate = {
        "receipts_ratio_min": said["receipts_min"],
        "failures_ratio_max": said["failures_max"],
        "soak_seconds": said["soak_seconds"],
        "silent_seconds": said["silent_seconds"],
        "halt_on_drift": said["halt_on_drift"],
        "drift_tests_min": said["drift_tests_min"],
    }
    carriage = {"bytes_max": said["node_bytes_max"], "full_download": said["full_download"], "priority": said["priority"]}
    parameters = read(manifest.parameters or (), _pairs(said["values"])) or None
    wish = {"version": version, "stages": percents, "labels": wanted, "gate": gate, "carriage": carriage, "parameters": parameters}
    insisted = {name: True for name in ("force", "breaking") if said[name]}
    command = commands.read_as(commands.Start, json.dumps({**wish, **insisted}))
    present = _present(repository, model)
    if not command.breaking:
        check_started(Signature.of(manifest), signatures(repository, model, predecessors(present, command.labels)))
    _check(ref, manifest, command, before=present, nodes=_nodes(directory))
    _look_at_checks(directory, ref, manifest, required=said["require_check"])
    _tell_of_left_behind(present, parameters or {})
    if not said["wait"]:
        _ask(directory, model, command, as_json=as_json)
        return
    deadline = time.monotonic() + said["timeout_seconds"]
    _ask(directory, model, command, as_json=as_json, deadline=deadline)
    _follow(directory, model, version, deadline, as_json)


def _look_at_checks(directory: Path, release: ReleaseRef, manifest: Manifest, *, required: bool) -> None:
    """Warn of what `fleetcast check` found, or refuse it where the fleet's settings or the operator require a check.

    Raises:
        Refused: RELEASE_UNCHECKED.
    """
    profiles = load(directory).checks_required
    found = Checks(directory / "checks").against(manifest, profiles)
    if not found:
        return
    name = f"{manifest.model}@{release.version}"
    try_it = f"fleetcast check {name} --profile {','.join(profiles) or 'pi4,gateway,tiny'}"
    if profiles or required:
        raise unchecked(name, [*found, f"try {try_it}"])
    click.echo(f"warning: {name}: {'; '.join(found)} ({try_it})", err=True)


def _tell_of_left_behind(before: Rollout | None, parameters: Mapping[str, Value]) -> None:
    """Warn of parameters that the previous rollout set: a new rollout begins with the release's own values."""
    before_it = {name: value for one in (core.in_force(before) if before else ()) for name, value in one.parameters.items()}
    left = {name: value for name, value in before_it.items() if name not in parameters}
    if left:
        said = ", ".join(in_words(*one) for one in left.items())
        click.echo(f"warning: the previous rollout set parameters that this one does not set: {said}", err=True)


def _check(
    release: ReleaseRef, manifest: Manifest, wish: commands.Start, *, before: Rollout | None, nodes: Sequence[core.NodeFacts]
) -> None:
    """Refuse now what the hub would refuse later: it may not run before next week.

    Raises:
        Refused: no such rollout can be.
    """
    allowed = manifest.parameters or ()
    progress = core.begin(manifest.model, wish, release, before=before, nodes=nodes, salts=[bytes(16)], now=0, allowed=allowed)
    codec.encode(progress.rollout)  # many long texts do not fit the document


def _nodes(directory: Path) -> list[core.NodeFacts]:
    """Return the nodes that have reported to the hub, with their labels."""
    store = open_store(directory)
    states = [codec.decode(State, row.state) for row in store.counted_nodes()]
    store.close()
    return [core.NodeFacts(one.node, one.profile.labels if one.profile else {}, heard=False, serving=False) for one in states]


def _release(repository: Repository, model: str, version: str) -> tuple[ReleaseRef, Manifest]:
    document = repository.manifest(model, version)
    return ReleaseRef(version, sha256(document)), codec.decode(Manifest, document)


def _present(repository: Repository, model: str) -> Rollout | None:
    """Return the model's rollout as it is signed."""
    document = repository.rollout(model) if model in repository.models() else None
    return codec.decode(Rollout, document) if document is not None else None


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
@click.option("--release", metavar="VERSION", help="Release whose parameters to change, where nodes went back to several releases.")
@changes_fleet
@dir_option
@json_option
def set_(model: str, values: tuple[str, ...], unset: tuple[str, ...], release: str | None, directory: Path, as_json: bool) -> None:
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
    present = _present(repository, model)
    if present is None:
        raise Refused(Code.ROLLOUT_INVALID, f"there is no rollout of {model}: set values when it starts, with --set")
    versions = sorted({one.release.version for one in core.in_force(present)})
    if release is None and len(versions) > 1:
        raise click.UsageError(f"several releases of {model} are in force ({', '.join(versions)}): choose one with --release")
    version = release or versions[0]
    core.in_force_of(present, version)
    allowed = _release(repository, model, version)[1].parameters or ()
    body = commands.SetParameters(version=version, parameters=read(allowed, _pairs(values)), unset=unset)
    now = core.Progress(present, stage_entered_at=0, judged_from=0)
    codec.encode(core.set_parameters(now, body, allowed=allowed).rollout)  # what the hub would refuse is refused now
    _ask(directory, model, body, as_json=as_json)


@rollout.command()
@click.argument("model", required=False)
@dir_option
@json_option
def status(model: str | None, directory: Path, as_json: bool) -> None:
    """Show every rollout, or that of one model.

    \b
    Example:
      fleetcast rollout status delay --json
    """
    repository = Repository(directory / "trust")
    if model is not None:
        check_model(repository, model)
    store, known = open_store(directory), repository.models()
    states = [codec.decode(State, row.state) for row in store.counted_nodes()]
    findings = findings_by_node(directory, {state.node: state for state in states}, store.receipts())
    rows = [
        {**_row(row), "parameters": _in_force(row, states), "refused": _refused(row, states, findings)}
        for row in store.rollout_rows()
        if row.model in ([model] if model else known)
    ]
    columns = ["model", "version", "state", "stage", "percent", "nodes", "heard", "serving", "failed", "silent", "reason"]
    show(rows, columns, as_json=as_json, empty="There is no rollout.")
    if not as_json:
        for row in rows:
            for name, one in row["parameters"].items():
                click.echo(plain(f"{row['model']}: {_told(name, one)}"))
            lines = [f"{row['model']}: {one['node']} cannot take it: {one['reason']} [{one['code']}]" for one in row["refused"]]
            for line in shortened(lines, mend=f"`fleetcast rollout status {row['model']} --json` has all of them"):
                click.echo(plain(line))


def _simple(kind: str, asked: commands.Command, sentence: str) -> click.Command:
    @rollout.command(kind, help=f"{sentence}\n\n\b\nExample:\n  fleetcast rollout {kind} delay")
    @click.argument("model")
    @changes_fleet
    @dir_option
    @json_option
    def run(model: str, directory: Path, as_json: bool) -> None:
        check_model(Repository(directory / "trust"), model)
        _ask(directory, model, asked, as_json=as_json)

    return run


halt = _simple("halt", commands.Halt(), "Halt a rollout. Nodes that have the release keep it.")
resume = _simple("resume", commands.Resume(), "Resume a rollout after a halt.")
back = _simple("back", commands.Rollback(), "Return each node of the rollout to its previous release.")


def _ask(directory: Path, model: str, command: commands.Command, *, as_json: bool, deadline: float | None = None) -> None:
    """Queue a command and print how it ended. Without a deadline, only a running hub is waited for, and then a while.

    Raises:
        Refused: the hub has refused it.
        Ended: no answer in time.
    """
    store = open_store(directory)
    number, kind = store.add_command(model, command), commands.kind_of(command)
    if not hub_runs(directory):
        click.echo(f"No hub runs here now: {'waiting for one' if deadline else 'the command waits until one starts'}.", err=True)
        if deadline is None:
            if as_json:
                click.echo(json.dumps({"command": number, "kind": kind, "model": model, "state": "queued", "text": ""}, indent=2))
            return
    until = time.monotonic() + ANSWER_SECONDS if deadline is None else deadline
    while (answer := store.command(number)) is None or answer.state == "open":
        if time.monotonic() >= until:
            raise Ended(Exit.TIMEOUT, "no hub has answered in time; the command stays queued")
        time.sleep(LOOK_SECONDS)
    store.close()
    if answer.state == "refused":
        raise Refused(Code(answer.code), answer.text)
    if as_json and deadline is None:  # else what --wait has waited for is the answer
        click.echo(json.dumps({"command": number, "kind": kind, "model": model, "state": "done", "text": answer.text}, indent=2))
    elif not as_json:
        click.echo(answer.text)


def _follow(directory: Path, model: str, version: str, deadline: float, as_json: bool) -> None:
    """Print each step until the rollout is done.

    Raises:
        Ended: it halted, went back or was superseded, or time is up.
    """
    store, said = open_store(directory), ""
    while True:
        row = next(_row(one) for one in store.rollout_rows() if one.model == model)  # the hub has answered, so there is one
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


def _row(row: RolloutRow) -> dict[str, Any]:
    one = codec.decode(Rollout, row.document)
    return {
        "model": row.model,
        "version": one.release.version,
        "digest": one.release.digest.hex(),
        "fallback": one.fallback.version if one.fallback else None,
        "fallbacks": [{"version": past.release.version, "labels": past.labels} for past in all_fallbacks(one)],
        "state": one.state,
        "stage": f"{one.stage + 1} of {len(one.stages)}",
        "percent": one.percent,
        "serial": one.serial,
        "nodes": row.addressed,
        "heard": row.heard,
        "silent": row.silent,
        "serving": row.serving,
        "failed": row.failed,
        "reason": row.reason,
    }


def _refused(row: RolloutRow, states: Sequence[State], findings: Mapping[str, tuple[Finding, ...]]) -> list[dict[str, Any]]:
    """Return the addressed nodes that refuse a document without which they cannot take the release."""
    one = codec.decode(Rollout, row.document)
    return [
        {"node": state.node, "code": finding.code, "reason": finding.reason}
        for state in states
        if selected(one, state.profile.labels if state.profile else {})
        for finding in standing_against(findings[state.node], model=row.model, version=one.release.version)
    ]


def _in_force(row: RolloutRow, states: Sequence[State]) -> dict[str, dict[str, Any]]:
    """Return for each parameter what the rollout sets, and how many nodes that serve the release use whose value."""
    releases = {one.release: one.parameters for one in core.in_force(codec.decode(Rollout, row.document))}
    found: dict[str, dict[str, Any]] = {}
    for release, said in releases.items():
        of = f" of {release.version}" if len(releases) > 1 else ""
        found.update({f"{name}{of}": {"set": value, **_nobody()} for name, value in said.items()})
        for state in states:
            slots = [slot for slot in state.slots if slot.model == row.model and slot.serving == release.digest]
            for setting in (setting for slot in slots for setting in slot.parameters or ()):
                entry = found.setdefault(f"{setting.name}{of}", {"set": None, **_nobody()})
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
