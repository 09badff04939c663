"""The same pictures as files, with matplotlib, which the extra `plots` installs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetcast import durable
from hub.cli.errors import Ended, Exit
from hub.core.drift.compare import Comparison, in_words

if TYPE_CHECKING:
    from hub.cli.drift_explain import Shown, Signal

REFERENCE, COUNTED, ALARM = "#b8b8b8", "#1b6ca8", "#c8553d"
INCHES_WIDE, INCHES_A_SIGNAL = 10.0, 2.9
DOTS_PER_INCH = 150
LABEL_CHARACTERS_MAX = 18


def check_installed() -> None:
    """Check that matplotlib is installed.

    Raises:
        Ended: there is not; the sentence says what to install.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415, F401
    except ModuleNotFoundError:
        raise Ended(Exit.USAGE, "--png and --svg need matplotlib, which is not installed: pip install matplotlib") from None


def draw(story: "Shown", path: Path, kind: str) -> None:
    """Draw every signal of a story, reference against counted on the left, over time on the right; the file is whole or not there."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("agg" if kind == "png" else "svg")
    mpl.rcParams.update({"svg.hashsalt": "fleetcast", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot  # noqa: PLC0415

    count = max(1, len(story.signals))
    figure, grid = pyplot.subplots(
        count, 2, figsize=(INCHES_WIDE, INCHES_A_SIGNAL * count + 0.6), squeeze=False, width_ratios=[3, 2], layout="constrained"
    )
    figure.suptitle(f"{story.model} {story.version}, cohort {story.cohort}\n{story.summary}", fontsize=10)
    for number, one in enumerate(story.signals):
        _histogram(grid[number][0], one.comparison, legend=number == 0)
        _over_time(grid[number][1], one)
    _save(figure, path, kind)
    pyplot.close(figure)


def _histogram(axes: Any, comparison: Comparison, *, legend: bool) -> None:
    places = range(len(comparison.bins))
    axes.bar([at - 0.2 for at in places], [100 * one.expected for one in comparison.bins], 0.4, color=REFERENCE, label="reference")
    axes.bar(
        [at + 0.2 for at in places],
        [100 * max(0.0, one.seen) for one in comparison.bins],
        0.4,
        color=COUNTED,
        yerr=[200 * one.sd for one in comparison.bins],
        error_kw={"elinewidth": 0.8, "ecolor": "#444444", "capsize": 2},
        label="counted, ± 2 sd of noise and sampling",
    )
    names = [
        one.label if len(one.label) <= LABEL_CHARACTERS_MAX else one.label[: LABEL_CHARACTERS_MAX - 1] + "…" for one in comparison.bins
    ]
    axes.set_xticks(list(places), [_escape(one) for one in names], rotation=30, ha="right", fontsize=7)
    axes.set_title(_escape(in_words(comparison)), loc="left", fontsize=9, fontweight="bold")
    axes.set_ylabel("% of rows")
    axes.set_ylim(bottom=0)
    if legend:
        axes.legend(fontsize=7, frameon=False)


def _over_time(axes: Any, one: "Signal") -> None:
    moments = [datetime.fromtimestamp(start, UTC) for start, _, _ in one.moved]
    scale = 1 if one.unit == "sd" else 100
    values = [scale * value for _, value, _ in one.moved]
    axes.axhline(0, color=REFERENCE, linewidth=0.8)
    axes.plot(moments, values, color=COUNTED, linewidth=0.8, alpha=0.5)
    axes.scatter(moments, values, color=COUNTED, s=8, zorder=2)
    alarms = [(at, value) for at, (_, value, alarm) in zip(moments, one.moved, strict=True) if alarm]
    if alarms:
        axes.scatter(*zip(*alarms, strict=True), color=ALARM, s=16, zorder=3, label="this interval alone is an alarm")
    if one.since is not None and len(moments) > 1:
        axes.axvline(datetime.fromtimestamp(one.since, UTC), color=ALARM, linewidth=0.9, linestyle="--", label="drifts since")
    if alarms or (one.since is not None and len(moments) > 1):
        axes.legend(fontsize=7, frameon=False)
    axes.set_title("shift by interval" if one.unit == "sd" else "largest change of a share by interval", loc="left", fontsize=9)
    axes.set_ylabel("sd" if one.unit == "sd" else "percentage points")
    axes.tick_params(axis="x", labelrotation=30, labelsize=7)


def _escape(text: str) -> str:
    """Escape dollar signs, which would begin a formula."""
    return text.replace("$", r"\$")


def _save(figure: Any, path: Path, kind: str) -> None:
    with durable.replacing(path, mode=0o644) as file:
        metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(file, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
