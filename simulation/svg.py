"""Draw an outcome as SVG: the share of nodes that serve the release over time, its stages, and the shares that an operator asks for."""

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from simulation.core.outcome import Outcome
from simulation.text import duration, headline_times

WIDTH, HEIGHT = 840, 420
LEFT, TOP, RIGHT, BOTTOM = 64, 64, 24, 56
LINE, MARK, INK, GRID = "#1f6f8b", "#c05621", "#1a202c", "#cbd5e0"
TICKS: Final = 6
CAPTION: Final = "share of nodes that serve the release, by the time from the start; dashed: stages"


def drawn(outcome: Outcome) -> str:
    """Return the picture."""
    return "\n".join(_lines(outcome)) + "\n"


def _lines(outcome: Outcome) -> Iterator[str]:
    until = outcome.curve[-1][0]
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="{INK}">'
    yield f"<title>A rollout over {outcome.nodes} nodes</title>"
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    yield f'<text x="{LEFT}" y="24" font-size="15">A rollout over {outcome.nodes} nodes, simulated with seed {outcome.seed}</text>'
    yield f'<text x="{LEFT}" y="44">{escape("; ".join(headline_times(outcome)))}</text>'
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent / 100)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{GRID}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>'
    for tick in range(TICKS + 1):
        at = until * tick / TICKS
        yield f'<text x="{_x(at, until):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{duration(at)}</text>'
    shown = 0
    for step in outcome.steps:
        if step.percent != shown and step.seconds <= until:
            shown, x = step.percent, _x(step.seconds, until)
            yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="{MARK}" stroke-dasharray="4 4"/>'
            yield f'<text x="{x + 4:.1f}" y="{TOP + 12}" fill="{MARK}">{step.percent} %</text>'
    points = " ".join(f"{_x(at, until):.1f},{_y(share):.1f}" for at, share in outcome.curve)
    yield f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="2.5"/>'
    yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">{CAPTION}</text>'
    yield "</svg>"


def _x(seconds: float, until: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * seconds / until


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)
