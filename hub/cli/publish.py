"""`fleetcast publish`: from a model file to a signed release."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli.grouped_options import GroupedCommand
from hub.cli.options import (
    changes_fleet,
    dir_option,
    hub_runs,
    json_option,
    open_store,
    opened,
    passphrase,
    passphrase_option,
    show_one,
)
from hub.cli.progress import progress
from hub.cli.publish_preview import as_fields, confirming
from hub.cli.publish_report import absent_archs, left_out, show_variants, summary, variants
from hub.cli.remote import remote
from hub.operations import publishing
from hub.operations.conversion import converted
from hub.operations.release_inputs import fleet_archs
from hub.operations.release_rows import block_count
from hub.settings import load
from hub.signing.key_references import SUFFIX
from hub.signing.keys import load_signer
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX, MIB
from schemas.names import check_name, check_version

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient
    from hub.publish.release_file import ReleaseFile

GROUPS = {  # Sections of --help, with the names of their parameters.
    "Release": (
        "name",
        "version",
        "parent",
        "breaking",
        "description",
        "licence",
        "more_files",
        "runtime",
        "input_shapes",
        "state_joining",
    ),
    "Reference data and signals": ("reference", "columns", "blocks_column", "signals"),
    "Season": ("time_column", "season_hours", "season_weekends", "season_offset_minutes"),
    "Privacy and telemetry": ("epsilon", "delta", "noise", "window_seconds", "rho_day_max", "calibration_rows"),
    "Accuracy at the sites": (
        "accuracy_truth",
        "accuracy_data",
        "right_within",
        "accuracy_counts",
        "accuracy_epsilon",
        "accuracy_window_seconds",
    ),
    "Golden inputs and limits": ("golden", "no_proof", "fix_shapes", "latency_ms_max", "memory_mib_max", "probation_seconds"),
    "Variants": ("variants", "held_out", "truth", "calibration", "sparsity", "loss_max", "all_or_none"),
    "Delivery": ("block_bytes",),
    "Fleet, signing and output": ("team_key", "actor", "directory", "passphrase_file", "yes", "as_json"),
}


@click.command(cls=GroupedCommand, groups=GROUPS)
@click.argument("source", metavar="MODEL|RELEASE.TOML", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", help="Name of the model.")
@click.option("--version", help="Version, such as 1.2.0. A version can be published once.")
@click.option("--parent", help="Version that this one follows. The default is the newest.")
@click.option("--description", help="Describe the release in a sentence.")
@click.option("--licence", help="Licence, as an SPDX name.")
@click.option(
    "--file",
    "more_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that the model needs beside it, such as a tokenizer or labels. Repeatable.",
)
@click.option(
    "--runtime",
    help="Runtime that loads the model on a device: onnx, llama, litert, files (delivered only), or a third party's. The default "
    "depends on the file's suffix.",
)
@click.option(
    "--input-shape",
    "input_shapes",
    metavar="NAME=SIZES",
    multiple=True,
    help="Sizes of an input where a .tflite file leaves them open, such as audio=1,1760. Repeatable.",
)
@click.option(
    "--state-joining/--no-state-joining",
    default=None,
    help="State in the manifest whether rows of several requests may be answered together, or not. "
    "The default is to state it, unless a node of the fleet is too old to read it.",
)
@click.option("--reference", type=click.Path(path_type=Path), help="Reference data: .parquet, .csv or .npz, one column per feature.")
@click.option("--columns", help="Feature columns in the model's order, separated by commas. The default is all of the reference's.")
@click.option("--blocks", "blocks_column", help="Column that names the day, shift or batch of a row.")
@click.option("--signals", help="Signals to watch, separated by commas. The default is every feature and output.")
@click.option("--time", "time_column", help="Column with the time of a row. With it, parts of the week have their own references.")
@click.option(
    "--season-hours", type=click.Choice(["1", "2", "3", "4", "6", "8", "12", "24"]), help="Hours of one part of the week.  [default: 4]"
)
@click.option(
    "--season-weekends/--no-season-weekends", default=None, help="Give weekends their own references, or not.  [default: season-weekends]"
)
@click.option("--season-offset-minutes", type=click.IntRange(-840, 840), help="Minutes of the sites' clock before UTC.  [default: 0]")
@click.option("--epsilon", type=click.FloatRange(0, 64, min_open=True), help="Epsilon that protects a record in a window.  [default: 1.0]")
@click.option("--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Delta that goes with epsilon.  [default: 1e-06]")
@click.option(
    "--noise", type=click.Choice(["gaussian", "laplace"]), help="Noise of the counts. With laplace, delta is 0.  [default: gaussian]"
)
@click.option("--window-seconds", type=click.IntRange(1), help="Length of a telemetry window.  [default: 3600]")
@click.option(
    "--rho-day-max",
    type=click.FloatRange(0, min_open=True),
    help="Privacy budget of a day that the nodes' settings allow, as zCDP rho.  [default: 0.7]",
)
@click.option(
    "--calibrate-rows",
    "calibration_rows",
    type=click.IntRange(0),
    help="Rows a node collects before it uses its own baseline (minimum 256). 0 disables per-node baselines and service signals."
    "  [default: 1024 where there is a reference]",
)
@click.option(
    "--accuracy-truth", help="Column with the right answer, in --accuracy-data or in the reference. Sites learn the right answer later."
)
@click.option("--accuracy-data", type=click.Path(path_type=Path), help="Held-out rows with the right answer and the block column.")
@click.option("--right-within", type=click.FloatRange(0), help="Largest error with which a numeric answer is still right.")
@click.option(
    "--accuracy-counts",
    type=click.Path(path_type=Path),
    help="CSV file with the columns right and wrong, one row per block. It replaces rows of data.",
)
@click.option(
    "--accuracy-epsilon",
    type=click.FloatRange(0, 64, min_open=True),
    help="Epsilon that protects the counts of right and wrong answers.  [default: 0.5]",
)
@click.option("--accuracy-window-seconds", type=click.IntRange(1), help="Length of a window of accuracy.  [default: 86400]")
@click.option(
    "--golden",
    type=click.Path(path_type=Path),
    help="npz file with arrays input.<tensor> and output.<tensor>, or prompts in .toml or .json. The default is generated inputs.",
)
@click.option(
    "--no-proof",
    is_flag=True,
    default=None,
    help="Publish without golden inputs, when none can be generated. Devices then only see that the model runs.",
)
@click.option(
    "--fix-shapes",
    is_flag=True,
    default=None,
    help="Publish a copy of the model that declares the shapes it takes and gives, if the file declares others.",
)
@click.option("--latency-ms-max", type=click.FloatRange(0, min_open=True), help="Largest median latency of one request.  [default: 1000.0]")
@click.option("--memory-mib-max", type=click.IntRange(1, 1024 * 1024), help="Largest memory of the model's worker.  [default: 2048]")
@click.option("--probation-seconds", type=click.IntRange(0), help="Time on probation after activation.  [default: 60]")
@click.option("--variants", help="Builds in order of preference, separated by commas: fp32, int8, int8-static, int8-weights, fp16, pruned.")
@click.option(
    "--held-out",
    type=click.Path(path_type=Path),
    help="Rows on which each build is compared with the original. The default is the reference.",
)
@click.option("--truth", help="Column of the held-out rows with the right answer. Without it, agreement with the original is measured.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Rows from which int8-static takes its ranges.")
@click.option(
    "--sparsity", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Share of zeros in a pruned build.  [default: 0.5]"
)
@click.option(
    "--loss-max",
    type=click.FloatRange(0, 1),
    help="Accuracy, r2 or agreement that a build may lose before it is left out.  [default: 0.01]",
)
@click.option("--all-or-none", is_flag=True, default=None, help="Publish nothing if a variant has to be left out.")
@click.option(
    "--block-bytes",
    type=click.IntRange(1024, BLOCK_BYTES_MAX),
    help="Largest block. The default is what the broker's packets allow, at most 122880.",
)
@click.option(
    "--breaking", is_flag=True, help="Publish even if programs that use the newest release below this version would not work with it."
)
@click.option(
    "--team-key",
    envvar="FLEETCAST_TEAM_KEY",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Key that signs the release. The default is keys/team.pem in the fleet's folder.",
)
@changes_fleet
@dir_option
@passphrase_option
@click.option("--yes", is_flag=True, help="Do not ask at a terminal before the release is signed.")
@json_option
def publish(
    source: Path,
    team_key: Path | None,
    directory: Path,
    passphrase_file: Path | None,
    breaking: bool,
    yes: bool,
    as_json: bool,
    **said: Any,
) -> None:
    """Build, sign and store a release.

    A running hub announces the release within a second.

    Before it signs, it shows each column with the input that it feeds and the signal that counts it, three answers, and warnings. At a
    terminal it asks whether to go on; with --yes, --json or without a terminal it goes on.

    The release must take and give what the newest release below its version takes and gives; otherwise say --breaking. Compatible are free
    axes in place of fixed ones, more outputs after the present ones, and new inputs with a parameter for requests without them.

    A scikit-learn model (.joblib, .pkl) is converted to ONNX by skl2onnx, of the extra [sklearn]. Reading such a file runs the code in it:
    publish only files that you made.

    A release file can state everything that the options can, and more (docs/releases.md). Options override it.

    \b
    Examples:
      fleetcast publish release.toml
      fleetcast publish release.toml --version 1.2.1 --json
      fleetcast publish model.onnx --name delay --version 1.2.0 \\
        --reference ref.parquet --blocks day
      fleetcast publish model.onnx --name delay --version 1.3.0 \\
        --reference ref.csv --columns month,hour,distance --signals hour
      fleetcast publish model.onnx --name digits --version 1.0.0 \\
        --variants int8,fp32 --held-out test.parquet --truth digit
      fleetcast publish model.onnx --name delay --version 1.4.0 \\
        --reference ref.csv --blocks day --accuracy-truth late --right-within 5
      fleetcast publish chat.gguf --name chat --version 1.0.0 \\
        --golden prompts.toml
      fleetcast publish model.joblib --name iris --version 1.0.0 \\
        --reference ref.csv
    """
    if (hub := remote()) is not None:
        _publish_remote(hub, source, said, _team_key(team_key, directory), passphrase_file, breaking=breaking, yes=yes, as_json=as_json)
        return
    load(directory)  # says so when there is no fleet
    release = _read(source, said, partial(_archs_of, directory))
    secret = passphrase(passphrase_file)
    release, steps = click.get_current_context().with_resource(converted(release, partial(click.echo, err=True)))
    team = load_signer(_team_key(team_key, directory), secret)
    fleet = opened(directory)
    targets = publishing.delegator(fleet, release.name, secret)
    asks = not (yes or as_json) and sys.stdin.isatty() and sys.stderr.isatty()
    with progress() as tell:
        confirm = confirming(tell, f"{release.name} {release.version}", asks=asks, as_json=as_json)
        built = publishing.publish(fleet, release, team=team, targets=targets, breaking=breaking, tell=tell, warn=_warn, confirm=confirm)
    archs = fleet_archs(fleet.store)
    fleet.store.close()
    runs = hub_runs(directory)
    limited = any(one.requirements.arch for one in built.manifest.variants)
    absent = absent_archs(built, archs) if limited else []
    seen = {**as_fields(built.preview), "warnings": [*built.preview.warnings, *absent]}
    show_one(
        {**summary(built, block_count(built.manifest, fleet.blocks)), "newly_delegated": targets is not None, "announced": runs}
        | ({"variants": variants(built), "left_out": left_out(built), "conversion": list(steps), **seen} if as_json else {}),
        as_json=as_json,
    )
    if not as_json:
        show_variants(built, absent)
        if not runs:
            click.echo("No hub runs here now: the release is announced when one starts.", err=True)


def _archs_of(directory: Path) -> frozenset[str]:
    return fleet_archs(open_store(directory))


def _team_key(given: Path | None, directory: Path) -> Path:
    """Return the key that signs the release.

    Raises:
        Refused: KEY_UNREADABLE: none was named, and the folder has none.
    """
    own = directory / "keys" / "team.pem"
    if given is None and not own.exists() and not own.with_suffix(SUFFIX).exists():
        mend = "name the team's key by --team-key or FLEETCAST_TEAM_KEY; it stays on this machine"
        raise Refused(Code.KEY_UNREADABLE, f"a release is signed here, and there is no key {own}: {mend}")
    return given or own


def _publish_remote(
    hub: "HubClient",
    source: Path,
    said: Mapping[str, Any],
    team_key: Path,
    passphrase_file: Path | None,
    *,
    breaking: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Build and sign here, where the team's key is, and send the hub what it does not have."""
    from hub.operations import remote_publishing  # noqa: PLC0415  # with urllib3, which a folder does without

    named = said["name"]

    def archs() -> frozenset[str]:
        if named is None:
            return frozenset()
        return frozenset(one["arch"] for one in hub.publishing(named)["nodes"] if one["arch"] is not None)

    release = _read(source, said, archs)
    release, steps = click.get_current_context().with_resource(converted(release, partial(click.echo, err=True)))
    team = load_signer(team_key, passphrase(passphrase_file))
    asks = not (yes or as_json) and sys.stdin.isatty() and sys.stderr.isatty()
    with progress() as tell:
        confirm = confirming(tell, f"{release.name} {release.version}", asks=asks, as_json=as_json)
        sent = remote_publishing.publish(hub, release, team=team, breaking=breaking, tell=tell, confirm=confirm)
    built = sent.built
    limited = any(one.requirements.arch for one in built.manifest.variants)
    absent = absent_archs(built, archs()) if limited else []
    seen = {**as_fields(built.preview), "warnings": [*built.preview.warnings, *absent]}
    show_one(
        {**summary(built, sent.blocks), "newly_delegated": False, "announced": True}
        | ({"variants": variants(built), "left_out": left_out(built), "conversion": list(steps), **seen} if as_json else {}),
        as_json=as_json,
    )
    if not as_json:
        show_variants(built, absent)


def _read(source: Path, said: Mapping[str, Any], archs: Callable[[], frozenset[str]]) -> "ReleaseFile":
    """Read what is to be published: a release file overridden by the options, or the options alone."""
    from hub.publish.release_file import read_release  # noqa: PLC0415

    fields = _fields(said)
    if source.suffix.lower() == ".toml":
        return read_release(source, fields, archs=archs)
    for option in ("name", "version"):
        if option not in fields:
            raise click.UsageError(f"Missing option '--{option}', which is needed without a release file.")
    return read_release(None, {**fields, "model": str(source.absolute())})


def _fields(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, placed as in a release file; names are checked before anything else."""
    if said["name"] is not None:
        check_name("model", said["name"])
    if said["version"] is not None:
        check_version(said["version"])
    found: dict[str, Any] = {
        name: said[name] for name in ("name", "version", "description", "licence", "parent", "runtime", "block_bytes", "state_joining")
    }
    found["files"] = [str(path.absolute()) for path in said["more_files"]] or None
    found["input_shapes"] = dict(_shape(text) for text in said["input_shapes"])
    found["reference"] = {
        "data": _whole(said["reference"]),
        "blocks": said["blocks_column"],
        "columns": _names(said["columns"]),
        "signals": _names(said["signals"]),
        "time": said["time_column"],
        "season": _season(said),
    }
    found["golden"] = {"data": _whole(said["golden"]), "proof": False if said["no_proof"] else None}
    found["fix_shapes"] = said["fix_shapes"]
    found["privacy"] = {name: said[name] for name in ("epsilon", "delta", "window_seconds", "noise", "calibration_rows", "rho_day_max")}
    found["accuracy"] = {
        "truth": said["accuracy_truth"],
        "data": _whole(said["accuracy_data"]),
        "right_within": said["right_within"],
        "counts": _whole(said["accuracy_counts"]),
        "epsilon": said["accuracy_epsilon"],
        "window_seconds": said["accuracy_window_seconds"],
    }
    found["limits"] = {
        "latency_ms_max": said["latency_ms_max"],
        "memory_bytes_max": said["memory_mib_max"] and said["memory_mib_max"] * MIB,
        "probation_seconds": said["probation_seconds"],
    }
    found["variants"] = {
        "builds": _names(said["variants"]),
        "held_out": _whole(said["held_out"]),
        "calibration": _whole(said["calibration"]),
        **{name: said[name] for name in ("truth", "sparsity", "loss_max", "all_or_none")},
    }
    return _given(found)


def _shape(text: str) -> tuple[str, list[int]]:
    name, _, sizes = text.rpartition("=")  # Names of inputs may have one.
    try:
        shape = [int(size) for size in sizes.split(",")]
    except ValueError:
        shape = []
    if not name or not shape:
        raise click.BadParameter(f"expected NAME=SIZES, such as audio=1,1760, found {text!r}", param_hint="--input-shape")
    return name, shape


def _season(said: Mapping[str, Any]) -> dict[str, Any] | None:
    given = {"hours": said["season_hours"], "weekends": said["season_weekends"], "offset_minutes": said["season_offset_minutes"]}
    if all(value is None for value in given.values()):
        return None
    return {**given, "hours": int(said["season_hours"] or 4), "weekends": said["season_weekends"] in (None, True)}


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: _given(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    return {name: value for name, value in said.items() if value is not None and value not in ({}, "")}


def _whole(path: Path | None) -> str | None:
    return str(path.absolute()) if path is not None else None


def _names(said: str | None) -> list[str] | None:
    return [name.strip() for name in said.split(",")] if said else None


def _warn(sentence: str) -> None:
    click.echo(f"warning: {sentence}", err=True)
