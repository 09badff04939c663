"""Write SVG and its figures: escaped text, short numbers, and a table for those who do not see the picture.

No element has a `style` attribute: the console's policy forbids it, and its style sheet has the classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

from markupsafe import Markup

from fleetcast.cli.terminal_text import plain
from hub.core.rollouts.tally import ClassName

Html = Markup  # Text that is HTML already: what is in it was escaped where it was made.
TEXT_CHARACTERS_MAX: Final = 200  # Names, labels and reasons are a stranger's words.
FILLS: Final[dict[ClassName, str]] = {
    "serving": "a-cur",
    "moving": "a-new",
    "waiting": "a-wait",
    "refused": "a-bad",
    "rolled_back": "a-bad",
    "unreachable": "a-warn",
    "expired": "a-warn",
}
# Shapes that pictures refer to, once a page.
_SHAPES: Final = (
    '<rect id="w" class="c-p" x=".75" y=".75" width="10.5" height="10.5"/>',
    '<rect id="m" class="c-mo" x=".75" y=".75" width="10.5" height="10.5"/>',
    '<path id="r" class="c-x" d="M1.5 1.5l9 9m0-9l-9 9"/>',
    '<path id="b" class="c-b" d="M12 0v12L0 6z"/>',
    '<rect id="u" class="c-u" x="1" y="1" width="10" height="10"/>',
    '<path id="e" class="c-e" d="M.75.75h10.5v10.5H.75zM.75 6h10.5"/>',
    '<pattern id="h" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="ha" d="M0 0v5"/></pattern>',
)


DEFS: Final = Html(f'<svg class="defs" width="0" height="0" aria-hidden="true"><defs>{"".join(_SHAPES)}</defs></svg>')


@dataclass(frozen=True, slots=True)
class Picture:
    """Hold a picture, and its figures as rows under their heads."""

    svg: Html
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def figures(self) -> Html:
        """Return the figures as a table in a closed `details`."""
        return figures(self.heads, self.rows)

    def __html__(self) -> str:
        """Return the picture, with its figures below."""
        return self.svg + self.figures


def figures(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Return a table in a closed `details`; the first column names the row."""
    head = "".join(f'<th scope="col"{"" if at == 0 else _NUMBER}>{words(one)}</th>' for at, one in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{'' if at == 0 else _NUMBER}>{words(one)}</td>" for at, one in enumerate(row)) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Html(f'<details class="figures"><summary>Figures</summary>{table}</details>')


_NUMBER: Final = ' class="n"'


def shown(text: str) -> str:
    """Return a stranger's words as people may see them: what does not print is written out, and the rest is cut off."""
    found = plain(text[: TEXT_CHARACTERS_MAX + 1])
    return found if len(found) <= TEXT_CHARACTERS_MAX else found[: TEXT_CHARACTERS_MAX - 1] + "…"


def words(text: str) -> str:
    """Return a stranger's words for a place between tags or in an attribute."""
    return escape(shown(text))


def number(value: float) -> str:
    """Return a coordinate, as short as a tenth of a pixel needs."""
    return f"{round(value, 1):g}" if abs(value) < 100_000 else str(round(value))


def picture(width: float, height: float, body: str, *, label: str, css: str, box: str = "") -> Html:
    """Return an SVG that is one image with a label."""
    view = box or f"0 0 {number(width)} {number(height)}"
    return Html(f'<svg class="{css}" width="{number(width)}" viewBox="{view}" role="img" aria-label="{words(label)}">{body}</svg>')


def text(x: float, y: float, content: str, *, css: str = "", anchor: str = "") -> str:
    """Return a text; `anchor`: middle or end."""
    more = (f' class="{css}"' if css else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{number(x)}" y="{number(y)}"{more}>{words(content)}</text>'


def day(at: int) -> str:
    """Return a day as axes name it, in UTC."""
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment.day} {moment:%b}"


def day_and_minute(at: int) -> str:
    """Return a moment as pictures name it, in UTC."""
    return f"{day(at)} {datetime.fromtimestamp(at, UTC):%H:%M}"


def count(value: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{round(value):,}"
