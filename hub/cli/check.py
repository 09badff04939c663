"""`fleetcast check`: try a release on kinds of devices that are not here, before it is rolled out to those that are."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from fleetcast.counted import counted
from fleetcast.toml_text import parse_toml
from hub.cli.errors import Ended, Exit
from hub.cli.options import dir_option, json_option, open_store, show, split
from hub.cli.progress import Tell, progress
from hub.cli.publish_report import left_out
from hub.core.publish.check_rules import BUILT_IN, Check, DeviceProfile, Result, chosen, content_of, judge
from hub.core.publish.signature_compatibility import Signature, differences
from hub.operations.conversion import converted
from hub.operations.release_inputs import fleet_archs, request_for, signature_before
from hub.publish.block_store import BlockStore
from hub.publish.blocks import open_blocks
from hub.publish.check_results import Checks
from hub.publish.check_runner import Absent, Blocks, lay_out, prover, run
from hub.settings import SETTINGS_NAME, load
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.limits import MIB
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.patterns import reason_of

if TYPE_CHECKING:
    from hub.publish.builder import BuiltRelease

PROFILES_BYTES_MAX = 1 * MIB
UNPUBLISHED = {"name": "unpublished", "version": "0.0.0"}  # A model file has neither yet.
_file = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Hold a release and where its bytes are; `name` is what the operator typed."""

    name: str
    manifest: Manifest
    document: bytes  # The manifest as it was signed, or would be.
    blocks: Blocks
    published: bool


@click.command()
@click.argument("release", metavar="MODEL@VERSION|RELEASE.TOML|MODEL")
@click.option("--profile", "profiles", required=True, help="Kinds of devices, separated by commas: pi4, pi5, gateway, tiny, or your own.")
@click.option("--profiles-file", type=_file, help="TOML file with your own profiles, one table each.")
@click.option("--golden", type=_file, help="Golden inputs of an unpublished model, as for `publish`.")
@click.option("--reference", type=_file, help="Reference data of an unpublished model. Golden inputs are made from it.")
@click.option("--columns", help="Feature columns of an unpublished model, in the model's order, separated by commas.")
@click.option("--file", "more_files", multiple=True, type=_file, help="File that an unpublished model needs beside it. Repeatable.")
@click.option("--latency-ms-max", type=click.FloatRange(0, min_open=True), help="Latency limit of an unpublished model.  [default: 1000.0]")
@click.option("--memory-mib-max", type=click.IntRange(1, 1024 * 1024), help="Memory limit of an unpublished model.  [default: 2048]")
@dir_option
@json_option
def check(release: str, profiles: str, profiles_file: Path | None, directory: Path, as_json: bool, **choices: Any) -> None:
    """Activate a release as each profile's nodes would.

    Memory and cores are really limited. Times are estimates: they are measured on this machine and multiplied by the profile's slowdown. In
    a fleet's folder the result is kept, and `fleetcast rollout start` reads it. The command ends with 0 only if every profile passes.

    \b
    Examples:
      fleetcast check release.toml --profile pi4,gateway,tiny
      fleetcast check delay@1.2.0 --profile pi4
      fleetcast check model.onnx --golden golden.npz --latency-ms-max 50 \\
        --profile tiny --json
      fleetcast check delay@1.2.0 --profile line-camera \\
        --profiles-file profiles.toml
    """
    wanted = _wanted(profiles, profiles_file)
    try:
        command = prover()
        with progress() as report, _candidate(release, directory, choices, report) as candidate:
            results = _try_all(command, candidate, wanted, directory, report)
    except Absent as error:
        raise Ended(Exit.USAGE, str(error)) from None
    if (directory / SETTINGS_NAME).exists():
        _keep(Checks(directory / "checks"), candidate, results)
    broken = _broken(candidate, directory)
    _show(candidate, results, as_json=as_json, broken=broken)
    refused = [result.profile.name for result in results if not result.passed]
    if refused:
        if not as_json:
            click.echo(f"fleetcast: {candidate.name} is refused by {', '.join(refused)}", err=True)
        sys.exit(Exit.REFUSED)  # not raised: with --json the results are the answer


# What is checked


def _wanted(listed: str, path: Path | None) -> list[DeviceProfile]:
    known = {**BUILT_IN, **(read_profiles(path) if path is not None else {})}
    names = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    if not names or set(names) - set(known):
        raise mismatch(Code.SETTINGS_INVALID, "profiles", expected=f"some of {', '.join(known)}", actual=listed[:128] or "none")
    return [known[name] for name in names]


def read_profiles(path: Path) -> dict[str, DeviceProfile]:
    """Profiles of a TOML file, a table each, by name.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    try:
        with path.open("rb") as file:
            data = file.read(PROFILES_BYTES_MAX + 1)
        if len(data) > PROFILES_BYTES_MAX:
            raise mismatch(Code.SETTINGS_INVALID, f"{path}: size", expected=f"at most {PROFILES_BYTES_MAX} bytes", actual="more")
        tables = parse_toml(data)
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error}") from None
    return {name: _profile(path, name, table) for name, table in tables.items()}


def _profile(path: Path, name: str, table: object) -> DeviceProfile:
    if not isinstance(table, dict) or "name" in table:
        raise mismatch(Code.SETTINGS_INVALID, f"{path}: {name}", expected="a table, named by its header", actual=str(table)[:64])
    try:
        return DeviceProfile.model_validate_json(json.dumps({"labels": {}, **table, "name": name}, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, (name, *first["loc"])))
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {where}: {reason_of(first)}") from None


@contextmanager
def _candidate(release: str, directory: Path, choices: Mapping[str, Any], report: Tell) -> Iterator[Candidate]:
    if not Path(release).exists() and "@" in release:
        model, version = split(release)
        document = Repository(directory / "trust").manifest(model, version)
        yield Candidate(release, codec.decode(Manifest, document), document, open_blocks(directory, load(directory)), published=True)
        return
    with tempfile.TemporaryDirectory(prefix="fleetcast-check-") as scratch:
        blocks = BlockStore(Path(scratch))
        built = _built(Path(release), blocks, choices, directory, report)
        yield Candidate(release, built.manifest, built.document, blocks, published=False)


def _built(source: Path, blocks: BlockStore, choices: Mapping[str, Any], directory: Path, report: Tell) -> "BuiltRelease":
    """Build a release as `publish` would; the command line overrides the release file."""
    from hub.publish.builder import build  # noqa: PLC0415  # onnxruntime takes a while to import
    from hub.publish.golden_run import answers  # noqa: PLC0415
    from hub.publish.publish_request import FILES  # noqa: PLC0415
    from hub.publish.release_file import read_release  # noqa: PLC0415

    fields = _fields(choices)
    if source.suffix.lower() == ".toml":
        release = read_release(
            source, fields, archs=lambda: fleet_archs(open_store(directory)) if (directory / SETTINGS_NAME).exists() else frozenset()
        )
    else:
        release = read_release(None, {**UNPUBLISHED, "model": str(source.absolute()), **fields})
    release, _ = click.get_current_context().with_resource(converted(release, partial(click.echo, err=True)))
    request = replace(request_for(release, tell=report, answers=answers), tries=False)  # Here it runs within a profile's limits only.
    built = build(request, blocks, now=0)
    if request.proves and request.runs_as != FILES and any(built.manifest.golden_of(one) is None for one in built.manifest.variants):
        click.echo("warning: publish makes golden inputs for it: this check counts for no rollout; check it again then", err=True)
    for one in left_out(built):
        click.echo(f"warning: variant {one['variant']} is left out: {one['reason']}", err=True)
    return built


def _fields(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, placed as in a release file."""
    reference = {
        "data": str(choices["reference"].absolute()) if choices["reference"] else None,
        "columns": [name.strip() for name in choices["columns"].split(",")] if choices["columns"] else None,
    }
    limits = {
        "latency_ms_max": choices["latency_ms_max"],
        "memory_bytes_max": choices["memory_mib_max"] * MIB if choices["memory_mib_max"] else None,
    }
    golden = {"data": str(choices["golden"].absolute()) if choices["golden"] else None}
    tables = {"reference": reference, "limits": limits, "golden": golden}
    found: dict[str, Any] = {name: {key: value for key, value in one.items() if value is not None} for name, one in tables.items()}
    found["files"] = [str(path.absolute()) for path in choices["more_files"]]
    return {name: value for name, value in found.items() if value}


# How it is tried


def _try_all(command: list[str], candidate: Candidate, profiles: Sequence[DeviceProfile], directory: Path, report: Tell) -> list[Result]:
    """Beside the fleet's blocks, where there are any: the files may be larger than what /tmp holds."""
    beside = directory if (directory / SETTINGS_NAME).exists() else None
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix=".check-", dir=beside) as scratch:
        folder = Path(scratch)
        (folder / "manifest.msgpack").write_bytes(candidate.document)
        for number, profile in enumerate(profiles):
            report("profiles", number, len(profiles))
            results.append(_try(command, candidate, profile, folder))
    return results


def _try(command: list[str], candidate: Candidate, profile: DeviceProfile, folder: Path) -> Result:
    variant = chosen(candidate.manifest, profile)
    if isinstance(variant, Result):
        return variant
    files = folder / str([one.name for one in candidate.manifest.variants].index(variant))  # a name may be "..", a number is none
    if not files.exists():
        lay_out(candidate.manifest, variant, candidate.blocks, files)
    tried = run(command, folder / "manifest.msgpack", files, variant=variant, profile=profile)
    return judge(profile, candidate.manifest, tried.proof, variant=variant, limited_by=tried.limited_by)


def _keep(checks: Checks, candidate: Candidate, results: Sequence[Result]) -> None:
    manifest = candidate.manifest
    for result in results:
        checks.keep(
            Check(
                content=content_of(manifest),
                at=int(time.time()),
                software=installed("fleetcast"),
                model=manifest.model,
                version=manifest.version,
                release=sha256(candidate.document) if candidate.published else None,
                result=result,
            )
        )


def _broken(candidate: Candidate, directory: Path) -> tuple[str, ...]:
    """Return how the release breaks programs that use its predecessor in this fleet; empty where there is none."""
    manifest = candidate.manifest
    if not (directory / SETTINGS_NAME).exists():
        return ()
    before = signature_before(Repository(directory / "trust"), manifest.model, manifest.version)
    return differences(Signature.of(manifest), before) if before is not None else ()


# Output


def _show(candidate: Candidate, results: Sequence[Result], *, as_json: bool, broken: Sequence[str]) -> None:
    if broken:
        click.echo(f"warning: programs that use the release before would not work with this one: {'; '.join(broken)}", err=True)
    rows = [{**_row(result, candidate.manifest), "breaks": list(broken)} for result in results]
    columns = ["profile", "variant", "verdict", "load_ms", "latency_ms", "memory_mib", "golden_error", "limited_by"]
    show(rows if as_json else [_in_words(row) for row in rows], columns, as_json=as_json, empty="Nothing was checked.")
    if as_json:
        return
    for row in rows:
        if not row["passed"]:
            click.echo(f"{row['profile']}: {row['reason']} [{row['code']}]")
        elif row["cores_used"] < row["cores"]:
            click.echo(f"{row['profile']}: has {counted(row['cores'], 'core')}, this machine {row['cores_used']}")
    if any(row["slowdown"] != 1 and row["load_ms"] is not None for row in rows):
        slowdowns = ", ".join(f"{row['profile']} {row['slowdown']:g}" for row in rows)
        click.echo(f"Times are estimates: measured here, and multiplied by each profile's slowdown ({slowdowns}).")


def _row(result: Result, manifest: Manifest) -> dict[str, Any]:
    one, profile = result.evidence, result.profile
    return {
        "profile": profile.name,
        "variant": result.variant,
        "verdict": "passed" if result.passed else result.code,
        "passed": result.passed,
        "code": result.code,
        "reason": result.reason,
        "load_ms": result.load_ms,
        "latency_ms": result.latency_ms,
        "latency_ms_max": manifest.limits.latency_ms_max,
        "load_ms_here": one.load_ms if one else None,
        "latency_ms_here": one.latency_ms if one else None,
        "slowdown": profile.slowdown,
        "memory_bytes": one.memory_bytes if one else None,
        "memory_bytes_max": min(manifest.limits.memory_bytes_max, profile.model_bytes),
        "golden_error": one.golden_error_max if one else None,
        "golden_rows": one.golden_rows if one else None,
        "cores": profile.cores,
        "cores_used": result.cores,
        "limited_by": result.limited_by,
    }


def _in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with units and limits in its cells."""
    if row["load_ms"] is None:
        return {**row, "memory_mib": None, "limited_by": None}
    golden = f"{row['golden_error']:.2g} of the tolerance" if row["golden_rows"] else "no golden inputs"
    return {
        **row,
        "load_ms": f"{row['load_ms']:.0f}",
        "latency_ms": f"{row['latency_ms']:.3g} of {row['latency_ms_max']:g}",
        "memory_mib": f"{row['memory_bytes'] / MIB:.0f} of {row['memory_bytes_max'] / MIB:.0f}",
        "golden_error": golden,
    }
