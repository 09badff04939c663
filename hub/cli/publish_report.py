"""What `fleetcast publish` prints of what it built: the release, each of its builds, and those that were left out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hub.cli.options import show
from hub.core.publish.unreachable_variants import never_chosen

if TYPE_CHECKING:
    from hub.publish.builder import BuiltRelease

COLUMNS = ["variant", "bytes", "bytes_to_fetch", "metric", "score", "loss", "latency_ms", "speed_up", "golden"]


def summary(built: "BuiltRelease", blocks: int | None) -> dict[str, Any]:
    """Summarise a release; sizes are those of its first build, which most devices take."""
    manifest, first = built.manifest, built.variants[0]
    return {
        "model": manifest.model,
        "version": manifest.version,
        "digest": built.digest.hex(),
        "bytes": first.file_bytes,
        "blocks": blocks,
        "bytes_to_fetch": first.wire_bytes,  # by a device that has nothing yet
        "bytes_stored": built.stored_bytes,
        "manifest_bytes": len(built.document),
        "runtime": manifest.variants[0].runtime,
        "variants": [one.name for one in built.variants],
        "signals": [signal.name for signal in manifest.baseline.signals] if manifest.baseline else [],
        "unwatched": [one.name for one in built.unwatched],
        "calibration_rows": manifest.baseline.calibration_rows if manifest.baseline else None,
        "not_calibrated": built.not_calibrated or None,
        "epsilon": manifest.privacy.epsilon if manifest.privacy else None,
        "golden": any(manifest.golden_of(variant) is not None for variant in manifest.variants),
    }


def variants(built: "BuiltRelease") -> list[dict[str, Any]]:
    """List the published builds, in order of preference: size in bytes, score, latency in milliseconds of one row."""
    rows = []
    for one, variant in zip(built.variants, built.manifest.variants, strict=True):
        figures = variant.measured
        rows.append(
            {
                "variant": one.name,
                "bytes": one.file_bytes,
                "bytes_to_fetch": one.wire_bytes,
                "requirements": variant.requirements.model_dump(exclude_defaults=True, mode="json"),
                "golden": "own" if variant.golden else "shared" if built.manifest.golden else None,
                "rows": figures.rows if figures else None,
                "metric": figures.metric if figures else None,
                "score": figures.score if figures else None,
                "loss": round(figures.original - figures.score, 6) if figures else None,
                "latency_ms": figures.latency_ms if figures else None,
                "speed_up": round(figures.original_latency_ms / figures.latency_ms, 2) if figures and figures.latency_ms else None,
                "joins_rows": _joins(built, one.name),
                "never_chosen_before": never_chosen(built.manifest.variants).get(one.name),
            }
        )
    return rows


def _joins(built: "BuiltRelease", variant: str) -> str | None:
    """Return whether a device may answer rows of several requests together, or why not; None if the device has to try it."""
    joining = built.joining.get(variant)
    return None if joining is None else "yes" if joining.together else f"no: {joining.found}"


def left_out(built: "BuiltRelease") -> list[dict[str, str]]:
    """List the requested builds that are not published."""
    return [{"variant": one.name, "code": str(one.code), "reason": one.reason} for one in built.left_out]


def absent_archs(built: "BuiltRelease", archs: frozenset[str]) -> list[str]:
    """Return a warning for each build that no node of the fleet takes now; `archs` are those of its nodes, empty where none is known."""
    return [
        f"no node takes variant {one.name!r} now: it needs arch {' or '.join(one.requirements.arch)}, and nodes of this fleet have"
        f" {', '.join(sorted(archs))}"
        for one in built.manifest.variants
        if archs and one.requirements.arch and not archs & set(one.requirements.arch)
    ]


def show_variants(built: "BuiltRelease", warnings: Sequence[str]) -> None:
    """Print a table of the builds where there are several or one was measured; warnings go to stderr."""
    rows = variants(built)
    if len(rows) > 1 or rows[0]["metric"] or built.left_out:
        click.echo()
        show(rows, COLUMNS, as_json=False, empty="")
    for one in built.left_out:
        click.echo(f"warning: variant {one.name!r} is not published: {one.reason} [{one.code}]", err=True)
    if built.not_calibrated:
        click.echo(
            f"warning: nodes get no baselines of their own: {built.not_calibrated}; every window is judged by the reference."
            " Fewer signals or a smaller epsilon, or --rho-day-max where nodes' settings allow more",
            err=True,
        )
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    for row in rows:
        if row["never_chosen_before"]:
            click.echo(
                f"warning: no device will take variant {row['variant']!r}: {row['never_chosen_before']!r} comes before it and suits every "
                "device that it suits; give that one requirements, or name it later",
                err=True,
            )
