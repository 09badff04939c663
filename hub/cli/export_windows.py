"""`fleetcast export-windows`: merged windows as Parquet, for analysis with other tools."""

from functools import cache
from pathlib import Path

import click

from hub.cli.options import check_model, dir_option, json_option, open_store, show_one
from hub.cli.progress import progress
from hub.cli.time_arguments import MOMENT, iso
from hub.database.drift_queries import Asked, Findings
from hub.publish.blocks import open_blocks
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry import redaction
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas.errors import Refused
from schemas.manifest import Manifest


@click.command("export-windows")
@click.option("--model", required=True, help="Model whose windows are written.")
@click.option("--cohort", help="Write only this cohort.")
@click.option("--since", type=MOMENT, help="Write intervals that began then or later.")
@click.option("--until", type=MOMENT, help="Write intervals that began before this moment.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write. An existing file is replaced.")
@dir_option
@json_option
def export_windows(model: str, cohort: str | None, since: int | None, until: int | None, out: Path, directory: Path, as_json: bool) -> None:
    """Write merged windows to a Parquet file, one row a bin.

    Intervals of fewer nodes than `cohort_nodes_min` are left out, as everywhere. Counts are those that were tested: windows that
    `trim_outlying` kept from the test are in none, and counted in the column `left_out`.

    \b
    Examples:
      fleetcast export-windows --model delay --out delay.parquet
      fleetcast export-windows --model delay --since 30d --cohort nyc \\
        --out delay.parquet
      duckdb -c "SELECT signal, bin, sum(count) FROM 'delay.parquet' GROUP BY ALL"
    """
    from hub.database import parquet_export  # noqa: PLC0415  # pyarrow is slow to import, and --help does not need it

    repository = Repository(directory / "trust")
    check_model(repository, model)
    releases = Releases(repository, open_blocks(directory, load(directory)))

    @cache
    def manifest_of(release: bytes) -> Manifest | None:
        try:
            return releases.of_stream(release)[1]
        except Refused:  # The release is of another hub: its bins are not known any more.
            return None

    findings = Findings(open_store(directory).database)
    asked = Asked(model, cohort, since=since, until=until, windows_min=load(directory).cohort_nodes_min)
    total, skipped, written, left_out = findings.count(asked), 0, 0, 0
    without = findings.trimmed(asked)
    first: int | None = None
    last: int | None = None
    with progress() as report, parquet_export.writing(out) as file:
        for done, row in enumerate(findings.intervals(asked), 1):
            manifest = manifest_of(row.release)
            if manifest is None or manifest.baseline is None:
                skipped += 1
            else:
                window = redaction.merged(row, manifest, without)
                file.add(window)
                left_out += window.left_out or 0
                written += 1
                first, last = row.start if first is None else first, row.start
            report("intervals", done, max(total, done))
    show_one(
        {
            "file": str(out),
            "bytes": out.stat().st_size,
            "rows": file.rows,
            "intervals": written,
            "of_unknown_releases": skipped,
            "windows_left_out": left_out,
            "first": iso(first),
            "last": iso(last),
        },
        as_json=as_json,
    )
