"""`fleetcast-node prove`: try a release on this machine, without a hub or a fleet."""

import sys
from pathlib import Path

import click

from node.cli.errors import Exit
from node.cli.options import json_option
from schemas.limits import MIB
from schemas.proof import Proof

_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--manifest", required=True, type=_file, help="Manifest of the release, as it is published.")
@click.option("--files", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder with the variant's files.")
@click.option("--variant", help="Variant to activate. The default is the one that suits this device.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 256), help="Threads of the model's worker.")
@click.option("--cores", type=click.IntRange(1, 4096), help="Number of this machine's cores to use.")
@click.option("--memory-bytes", type=click.IntRange(MIB), help="Memory limit of the model's worker, as on a device with this much for it.")
@click.option("--parameters", type=_file, help="TOML file with values of the release's parameters. The default is the release's own.")
@click.option("--answers", type=_file, help="Write the model's answers to its golden inputs to this npz file.")
@json_option
def prove(
    manifest: Path,
    files: Path,
    variant: str | None,
    threads: int,
    cores: int | None,
    memory_bytes: int | None,
    parameters: Path | None,
    answers: Path | None,
    as_json: bool,
) -> None:
    """Activate a release here, and print the evidence.

    The evidence is that of a node's receipt: signature, golden inputs, latency, memory.

    Files are compared with the manifest before anything is loaded. The manifest's own signature is not checked. The command ends with 0, or
    with 3 and the code that a receipt would carry.

    \b
    Examples:
      fleetcast-node prove --manifest manifest.msgpack --files ./fp32 --json
      fleetcast-node prove --manifest manifest.msgpack --files ./int8 \\
        --variant int8 --cores 1 --memory-bytes 268435456
      fleetcast-node prove --manifest manifest.msgpack --files ./chat \\
        --answers golden.npz
    """
    from node.serving import prove_release  # noqa: PLC0415  # half a second of imports that --help does not need

    terms = prove_release.Terms(manifest, files, variant, threads, cores, memory_bytes, parameters, answers)
    proof = prove_release.prove(terms)
    click.echo(proof.model_dump_json(exclude_none=True, indent=2) if as_json else _in_words(proof))
    if not proof.passed:
        if not as_json:
            click.echo(f"fleetcast-node: {proof.reason} [{proof.code}]", err=True)
        sys.exit(Exit.REFUSED)  # not raised: the proof is the answer, also of a refusal


def _in_words(proof: Proof) -> str:
    release = f"{proof.model}@{proof.version}" if proof.model else "the release"
    if proof.evidence is None:
        return f"{release}, variant {proof.variant or '-'}: refused [{proof.code}]"
    one = proof.evidence
    rows = [
        ("release", f"{release}, {proof.release.hex()[:12] if proof.release else '-'}"),
        ("variant", f"{proof.variant}, {one.threads} threads on {proof.cores} cores"),
        ("verdict", "passed"),
        ("golden rows", f"{one.golden_rows}, worst error {one.golden_error_max:.3g} of the tolerance"),
        ("load", f"{one.load_ms:.0f} ms"),
        ("latency", f"{one.latency_ms:.3g} ms"),
        ("memory", f"{one.memory_bytes / MIB:.1f} MiB"),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)
