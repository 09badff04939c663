"""`fleetcast drift explain`: the reference against what was counted, drawn on the terminal or into a file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from hub.cli import terminal_charts
from hub.cli.options import check_model, dir_option, json_option, open_store
from hub.cli.time_arguments import MOMENT, iso
from hub.core.drift.compare import Comparison
from hub.database.drift_queries import Findings
from hub.operations.drift_story import Question, Story, story_of
from hub.publish.blocks import open_blocks
from hub.service.rollouts.release_lookup import Releases
from hub.settings import load
from hub.signing.tuf_repository import Repository


@click.command()
@click.argument("model", metavar="MODEL[@VERSION]")
@click.option("--cohort", help="Cohort to explain. The default is the one that drifts most.")
@click.option("--signal", "names", multiple=True, help="Signal to show. Repeatable. The default is those of the alarm, or the likeliest.")
@click.option(
    "--at", "moment", type=MOMENT, help="Show the interval of this moment. The default is all since the drift began, or the newest."
)
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw a PNG file. Needs matplotlib.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw an SVG file. Needs matplotlib.")
@dir_option
@json_option
def explain(
    model: str,
    cohort: str | None,
    names: tuple[str, ...],
    moment: int | None,
    png: Path | None,
    svg: Path | None,
    directory: Path,
    as_json: bool,
) -> None:
    """Compare the counts with the reference, signal by signal.

    \b
    Examples:
      fleetcast drift explain delay
      fleetcast drift explain delay@1.2.0 --cohort nyc --signal wind_speed \\
        --at 2013-02-09
      fleetcast drift explain delay --svg drift.svg
    """
    name, _, version = model.partition("@")
    repository = Repository(directory / "trust")
    check_model(repository, name)
    if png or svg:
        from hub.cli import drift_plots  # noqa: PLC0415  # an extra of its own: the others do without

        drift_plots.check_installed()
    findings = Findings(open_store(directory).database)
    releases = Releases(repository, open_blocks(directory, load(directory)))
    question = Question(name, version, cohort, names, moment)
    story = story_of(findings, releases, question, cohort_nodes_min=load(directory).cohort_nodes_min)
    for path, kind in ((png, "png"), (svg, "svg")):
        if path is not None:
            drift_plots.draw(story, path, kind)
            click.echo(f"wrote {path}", err=True)
    if as_json:
        click.echo(json.dumps(_json(story), indent=2))
    else:
        _print(story)


def _json(story: Story) -> dict[str, Any]:
    return {
        "model": story.model,
        "version": story.version,
        "cohort": story.cohort,
        "alarm": story.alarm,
        "since": iso(story.since),
        "until": iso(story.until),
        "intervals": story.intervals,
        "windows": story.window.windows,
        "rows": story.window.rows,
        "noise_sd": story.window.noise_sd,
        "windows_left_out": story.window.left_out or 0,
        "own_baselines": story.own_baselines,
        "signals": [
            {
                **_plain(one.comparison),
                "p_adjusted": one.newest.p_adjusted,
                "evidence": one.newest.evidence,
                "history": [
                    {"start": iso(start), "alarm": alarm, **test.model_dump(include=_OF_A_TEST)} for start, test, alarm in one.history
                ],
            }
            for one in story.signals
        ],
    }


_OF_A_TEST = {"size", "size_low", "size_high", "size_unit", "effect", "direction"}


def _plain(comparison: Comparison) -> dict[str, Any]:
    """Write a comparison as JSON has it, by the names that a test has too."""
    moved, found = comparison.moved, asdict(comparison)
    del found["moved"]
    return found | {
        "effect": moved.effect,
        "size": moved.value,
        "size_low": moved.low,
        "size_high": moved.high,
        "size_unit": moved.unit,
        "direction": moved.direction,
    }


def _print(story: Story) -> None:
    console = Console(highlight=False) if Console().is_terminal else Console(width=100, highlight=False)
    title = Text(f"{story.model} {story.version}, cohort {story.cohort}", style="bold")
    console.print(title.append(f"  {'drifts' if story.alarm else 'no alarm'}", style="bold red" if story.alarm else "green"))
    console.print(Text(story.summary, style="dim"))
    for one in story.signals:
        console.print()
        for line in terminal_charts.lines(one.comparison, width=console.width):
            console.print(line, no_wrap=True, crop=True)
        for line in terminal_charts.over_time(one.moved, unit=one.unit, since=one.since, width=console.width):
            console.print(line, no_wrap=True, crop=True)
    console.print()
    legend = "bar: what was counted, with ± 2 sd of noise and sampling; | the reference."
    if story.own_baselines:
        legend += " Drawn is how nodes differ from their own baselines, on top of the reference."
    alarm = f"An alarm is p < {story.alpha:g}, or evidence over time; both know how much ordinary days differ,"
    sizes_said = "which the bars do not show. In brackets: where the size lies in 90 of 100 cases."
    console.print(Text(f"{legend} {alarm} {sizes_said}", style="dim"))
