"""Choose where an axis has its ticks."""

from math import floor, log10
from typing import Final

STEPS: Final = (1, 2, 2.5, 5, 10)
TICKS_MAX: Final = 5


def tick_step(most: float, ticks_max: int = TICKS_MAX) -> float:
    """Return a round distance of ticks, of which there are at most so many up to `most`."""
    if most <= 0:
        return 1.0
    scale = 10.0 ** floor(log10(most / ticks_max))
    return next(step * scale for step in (*STEPS, 20, 50, 100) if step * scale * ticks_max >= most * (1 - 1e-9))
