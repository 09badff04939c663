"""`fleetcast drift explain`: the reference against what was counted, drawn on the terminal or into a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from hub.cli import terminal_charts
from hub.cli.options import check_model, dir_option, json_option, open_store
from hub.cli.remote import remote
from hub.cli.time_arguments import MOMENT
from hub.core.drift.compare import Bin, Comparison
from hub.core.drift.shift_size import Size, Unit
from hub.database.drift_queries import Findings
from hub.operations.drift_story import Question, story_of, story_row
from hub.publish.blocks import open_blocks
from hub.service.rollouts.release_lookup import Releases
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas.errors import Unreachable


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
    if png or svg:
        from hub.cli import drift_plots  # noqa: PLC0415  # an extra of its own: the others do without

        drift_plots.check_installed()
    if (hub := remote()) is not None:
        asked = {"model": name, "version": version or None, "cohort": cohort, "signals": list(names), "at": moment}
        row = hub.explain_drift({key: value for key, value in asked.items() if value is not None})
    else:
        row = _in_folder(directory, Question(name, version, cohort, names, moment))
    for path, kind in ((png, "png"), (svg, "svg")):
        if path is not None:
            drift_plots.draw(_of_row(row), path, kind)
            click.echo(f"wrote {path}", err=True)
    if as_json:
        click.echo(json.dumps(row, indent=2))
    else:
        _print(_of_row(row))


def _in_folder(directory: Path, question: Question) -> dict[str, Any]:
    repository = Repository(directory / "trust")
    check_model(repository, question.model)
    findings, releases = Findings(open_store(directory).database), Releases(repository, open_blocks(directory, load(directory)))
    return story_row(story_of(findings, releases, question, cohort_nodes_min=load(directory).cohort_nodes_min))


@dataclass(frozen=True, slots=True)
class Signal:
    """Hold what is drawn of a signal."""

    comparison: Comparison
    moved: tuple[tuple[int, float, bool], ...]  # start, size, and whether this interval alone is an alarm
    unit: Unit
    since: int | None


@dataclass(frozen=True, slots=True)
class Shown:
    """Hold what is drawn of a stream; `summary` names the period and how much was counted."""

    model: str
    version: str
    cohort: str
    alarm: bool
    summary: str
    alpha: float
    own_baselines: bool
    signals: tuple[Signal, ...]


def _of_row(row: Mapping[str, Any]) -> Shown:
    """Return what is drawn of an explanation, which this process or a hub has computed.

    Raises:
        Unreachable: it has not what an explanation has.
    """
    try:
        signals = tuple(_signal(one) for one in row["signals"])
        names = ("model", "version", "cohort", "alarm", "summary", "alpha", "own_baselines")
        return Shown(**{name: row[name] for name in names}, signals=signals)
    except (KeyError, TypeError, ValueError):
        raise Unreachable("the hub answered with what is no explanation of a drift") from None


def _signal(one: Mapping[str, Any]) -> Signal:
    moved = Size(one["size"], one["size_low"], one["size_high"], one["size_unit"], one["direction"], one["effect"])
    bins = tuple(Bin(**{name: of[name] for name in ("label", "expected", "seen", "sd")}) for of in one["bins"])
    is_number = one["kind"] == "numeric"
    tests = [(_seconds(test["start"]) or 0, test, test["alarm"]) for test in one["history"] if is_number or test["size_unit"] is not None]
    sizes = tuple((start, test["effect"] if is_number else test["size"], alarm) for start, test, alarm in tests)
    return Signal(Comparison(one["name"], one["kind"], bins, moved), sizes, "sd" if is_number else "share", _seconds(one["since"]))


def _seconds(moment: str | None) -> int | None:
    return None if moment is None else round(datetime.fromisoformat(moment).timestamp())


def _print(story: Shown) -> None:
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
