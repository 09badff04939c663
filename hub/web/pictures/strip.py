"""Draw classes as one strip: how many nodes are in each, side by side."""

from collections.abc import Mapping
from typing import Final

from hub.core.rollouts.tally import CLASSES, ClassName
from hub.web.pictures.svg import FILLS, Html, Picture, count, number

WIDTH: Final = 1000
HEIGHT: Final = 6
GAP: Final = 2
LEAST: Final = 3  # A single node of ten thousand is still seen.


def strip(counts: Mapping[ClassName, int]) -> Picture:
    """Return the strip of these classes."""
    shown = [(name, counts[name]) for name in CLASSES if counts.get(name)]
    total = sum(nodes for _, nodes in shown)
    body, x = "", 0.0
    for (name, _), width in zip(shown, _widths([nodes for _, nodes in shown]), strict=True):
        body += f'<rect class="{FILLS[name]}" x="{number(x)}" width="{number(width)}" height="{HEIGHT}"/>'
        x += width + GAP
    label = ", ".join(f"{count(nodes)} {name.replace('_', ' ')}" for name, nodes in shown) or "no node"
    head = f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">'
    rows = [*((name, count(counts.get(name, 0))) for name in CLASSES), ("all", count(total))]
    return Picture(Html(f"{head}{body}</svg>"), ("class", "nodes"), rows)


def _widths(counts: list[int]) -> list[float]:
    """Return a width for each count, in proportion, but none too small to be seen; with the gaps they fill the strip."""
    room = float(WIDTH - GAP * (len(counts) - 1))
    wide = set(range(len(counts)))
    while True:
        left = room - LEAST * (len(counts) - len(wide))
        total = sum(counts[at] for at in wide)
        small = {at for at in wide if counts[at] * left < LEAST * total}
        if not small:
            return [counts[at] * left / total if at in wide else float(LEAST) for at in range(len(counts))]
        wide -= small
