"""Draw one figure against its limit or plan: a bar, and a tick."""

from typing import Final

from hub.web.pictures.svg import Html, number, words

WIDTH: Final = 120
HEIGHT: Final = 14


def bullet(value: float, limit: float | None, *, full: float = 0.0, label: str, css: str = "a-cur", width: int = WIDTH) -> Html:
    """Return a bar as long as the value, and a tick at the limit; `full` is what the whole width means.

    `label` says it in words, as the number beside it does: its figures are in the table that the bullet is a cell of.
    """
    most = max(full, value, limit or 0.0) or 1.0
    bar = width * max(0.0, min(value, most)) / most
    body = f'<rect class="a-old2" y="3" width="{width}" height="8"/>'
    body += f'<rect class="{css}" y="3" width="{number(bar)}" height="8"/>'
    if limit is not None:
        body += f'<path class="tick" d="M{number(min(width - 1, width * limit / most))} 0v{HEIGHT}"/>'
    return _svg(body, label, width)


def planned_and_spent(spent: float, planned: float, *, full: float, label: str, width: int = WIDTH) -> Html:
    """Return bytes spent as a bar and those planned as a tick; what is over the plan is red."""
    most = max(full, spent, planned) or 1.0
    within, over = min(spent, planned), max(0.0, spent - planned)
    end = number(width * within / most)
    body = f'<rect class="a-old2" y="3" width="{width}" height="8"/><rect class="a-cur" y="3" width="{end}" height="8"/>'
    if over:
        body += f'<rect class="a-bad" x="{end}" y="3" width="{number(width * over / most)}" height="8"/>'
    if planned:
        body += f'<path class="tick" d="M{number(min(width - 1, width * planned / most))} 0v{HEIGHT}"/>'
    return _svg(body, label, width)


def _svg(body: str, label: str, width: int) -> Html:
    return Html(
        f'<svg width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{words(label)}">{body}</svg>'
    )
