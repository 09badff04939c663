"""Histograms and a line over time in characters, for the terminal."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from fleetcast.cli.terminal_text import plain
from hub.cli.time_arguments import written
from hub.core.drift.compare import Bin, Comparison, in_words

BAR_WIDTH_MAX, BAR_WIDTH_MIN = 60, 12
LABEL_WIDTH_MAX = 24
NUMBERS_WIDTH = 29
EIGHTHS = " ▏▎▍▌▋▊▉█"
STEPS = "▁▂▃▄▅▆▇█"
NOTABLE_SDS = 2.0  # Standard deviations of noise and sampling, beyond which a bin is highlighted.


def lines(comparison: Comparison, *, width: int) -> list[Text]:
    """Draw one signal: a line per bin, with the reference as a mark on the bar."""
    names = [_cut(plain(one.label)) for one in comparison.bins]
    label = max(map(cell_len, names))
    room = max(BAR_WIDTH_MIN, min(BAR_WIDTH_MAX, width - label - NUMBERS_WIDTH - 3))
    most = max(0.01, *(max(one.expected, one.seen + 2 * one.sd) for one in comparison.bins))
    head = Text(plain(in_words(comparison)), style="bold")
    found = [head, Text(f"{'':<{label}}  {'':<{room}}  reference  counted", style="dim")]
    for name, one in zip(names, comparison.bins, strict=True):
        line = Text(f"{name}{' ' * (label - cell_len(name))}  ")
        line.append_text(_bar(one, room, most))
        notable = abs(one.seen - one.expected) > NOTABLE_SDS * one.sd
        line.append(f"  {one.expected:8.1%}  ", style="dim")
        line.append(f"{max(0.0, one.seen):7.1%}", style="bold red" if notable else "")
        line.append(f" ± {2 * one.sd:.1%}", style="dim")
        found.append(line)
    return found


def _bar(one: Bin, room: int, most: float) -> Text:
    filled = max(0.0, one.seen) / most * room
    whole = int(filled)
    bar = "█" * whole + (EIGHTHS[int((filled - whole) * 8)] if whole < room else "")
    cells = list(bar.ljust(room)[:room])
    mark = min(room - 1, int(one.expected / most * room))
    style = "red" if abs(one.seen - one.expected) > NOTABLE_SDS * one.sd else "cyan"
    text = Text()
    for at, cell in enumerate(cells):
        if at == mark:
            text.append("|", style=f"bold reverse {style}" if cell == "█" else "bold")
        else:
            text.append(cell, style=style)
    return text


def over_time(moved: Sequence[tuple[int, float, bool]], *, unit: str, since: int | None, width: int) -> list[Text]:
    """Draw how far a signal moved in each interval, alarms in red; nothing where there is only one interval."""
    if len(moved) < 2:
        return []
    shown = list(moved)[-max(10, width - 20) :]
    farthest = max((value for _, value, _ in shown), key=abs)
    most = max(0.1 if unit == "sd" else 0.01, abs(farthest))
    far = f"{farthest:+.2f} sd" if unit == "sd" else f"{100 * farthest:.1f} percentage points"
    line = Text("over time  ", style="dim")
    for start, value, alarm in shown:
        step = STEPS[min(len(STEPS) - 1, int(abs(value) / most * len(STEPS)))]
        inside = since is not None and start >= since
        line.append(step, style="red" if alarm else "yellow" if inside else "cyan")
    found = [
        line,
        Text(f"           {written(shown[0][0])} to {written(shown[-1][0])} UTC, the farthest is {far}", style="dim"),
    ]
    return found if since is None else [*found, Text(f"           drifts since {written(since)} UTC", style="dim")]


def _cut(name: str) -> str:
    return name if cell_len(name) <= LABEL_WIDTH_MAX else name[: LABEL_WIDTH_MAX - 1] + "…"
