"""Draw a signal's reference against what is now: a line and a bar for each bin, and how sure the bar is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hub.web.pictures.axis import tick_step
from hub.web.pictures.svg import Picture, number, picture, text

WIDTH: Final = 540
HEIGHT: Final = 166
LABELS_MAX: Final = 10  # Labels that fit side by side; of more bins every second or third has one.
LABEL_CHARACTERS_MAX: Final = 9


@dataclass(frozen=True, slots=True)
class Bin:
    """Hold one bin: its share of rows in the reference and now, and twice the standard deviation of noise and sampling."""

    label: str
    reference: float
    current: float
    whisker: float

    @property
    def leaves(self) -> bool:
        """Return whether the whisker leaves the reference."""
        return abs(self.current - self.reference) > self.whisker


@dataclass(frozen=True, slots=True)
class Histogram:
    """Hold the bins of a signal."""

    signal: str
    bins: tuple[Bin, ...]


def histogram(given: Histogram) -> Picture:
    """Return the picture. Its y axis starts at 0."""
    bins = given.bins
    most = max((max(one.reference, one.current + one.whisker) for one in bins), default=0.0) or 1.0
    step, body, at = tick_step(most, 4), "", 0
    while (at := at + 1) * step <= most:
        y = _y(at * step, most)
        body += f'<path class="ax" d="M0 {number(y)}H{WIDTH}"/>' + text(-6, y + 4, _percent(at * step), anchor="end")
    pitch = WIDTH / max(1, len(bins))
    every = -(-len(bins) // LABELS_MAX)
    for place, one in enumerate(bins):
        body += _bin(one, place * pitch, pitch, most, labelled=place % every == 0)
    body += f'<path class="ax" d="M0 {HEIGHT}H{WIDTH}"/>'
    label = f"{given.signal}: shares of rows, reference against now"
    svg = picture(WIDTH, HEIGHT, body, label=label, css="wide plot", box=f"-44 -10 {WIDTH + 48} {HEIGHT + 34}")
    return Picture(svg, ("bin", "reference", "now", "±", "leaves"), _rows(bins))


def _rows(bins: Sequence[Bin]) -> list[list[str]]:
    return [[one.label, _exact(one.reference), _exact(one.current), _exact(one.whisker), "yes" if one.leaves else "no"] for one in bins]


def _bin(one: Bin, x: float, pitch: float, most: float, *, labelled: bool) -> str:
    gap = min(6.0, pitch * 0.1)
    middle, top = x + pitch / 2, _y(max(0.0, one.current), most)
    bar = f'<rect class="a-new" x="{number(x + gap)}" y="{number(top)}" width="{number(pitch - 2 * gap)}" height="{number(HEIGHT - top)}"/>'
    y = number(_y(one.reference, most))
    line = f'<path class="ref" d="M{number(x + gap / 3)} {y}H{number(x + pitch - gap / 3)}"/>'
    high, low = _y(one.current + one.whisker, most), _y(max(0.0, one.current - one.whisker), most)
    cap = min(4.0, pitch / 4)
    left = number(middle - cap)
    whisker = (
        f"M{number(middle)} {number(high)}V{number(low)}M{left} {number(low)}h{number(2 * cap)}M{left} {number(high)}h{number(2 * cap)}"
    )
    found = f'{bar}{line}<path class="wh" d="{whisker}"/>'
    if labelled or one.leaves:
        css = "kb" if one.leaves else ""
        short = one.label if len(one.label) <= LABEL_CHARACTERS_MAX else one.label[: LABEL_CHARACTERS_MAX - 1] + "…"
        found += text(middle, HEIGHT + 16, short, css=css, anchor="middle") if labelled else _mark(middle)
    return found


def _mark(x: float) -> str:
    """Return the mark below a bin that leaves the reference and has no room for its label."""
    return f'<rect class="a-bad" x="{number(x - 2)}" y="{HEIGHT + 5}" width="4" height="4"/>'


def _y(share: float, most: float) -> float:
    return HEIGHT * (1 - share / most)


def _percent(share: float) -> str:
    return f"{round(100 * share, 2):g} %"


def _exact(share: float) -> str:
    return f"{100 * share:.1f} %"
