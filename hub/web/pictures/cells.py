"""Draw the stages of a rollout as cells: one a node, or one for several where there are many, by site and name.

Runs of like cells are one dashed path, and only what moves or is wrong is an element of its own: a page's size follows the exceptions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final
from urllib.parse import quote

from fleetcast.counted import named
from hub.core.rollouts.tally import BY_NEED, CLASSES, ClassName
from hub.web.pictures.svg import Html, count, figures, number, shown, text, words

CELLS_MAX: Final = 400
A_CELL: Final = (1, 2, 5, 10, 20, 50, 100, 200)
A_LINE: Final = 20
PITCH: Final = 15  # A cell of 12 px and a gap of 3.
SITE_GAP: Final = 3
SITES_MAX: Final = 12  # Beyond, sites have no line of their own: each would be mostly empty.
LABEL_CHARACTERS_MAX: Final = 8
LABEL_CHARACTER_PX: Final = 6.5
NAMED_MAX: Final = 20  # Nodes that a link names; more are asked for by their site and class.
INNER_PX: Final = 9
SHAPES: Final[dict[ClassName, str]] = {"refused": "r", "rolled_back": "b", "unreachable": "u", "expired": "e", "moving": "m"}


@dataclass(frozen=True, slots=True)
class Cell:
    """Describe one node: its class, and what it does or why it does not."""

    node: str
    site: str
    state: ClassName
    title: str = ""  # Such as "fetching 70 %" or "model.too_slow".
    done: float = 0.0  # How far a node that moves is, from 0 to 1.


@dataclass(frozen=True, slots=True)
class Stages:
    """Hold a picture for each stage, and the figures of all of them."""

    pictures: tuple[Html, ...]
    figures: Html
    per_cell: int

    @property
    def label(self) -> str:
        """Return what one cell is."""
        return _label(self.per_cell)


def per_cell(nodes: int) -> int:
    """Return how many nodes one cell is, so that a picture has no more cells than a person can look through."""
    for size in A_CELL:
        if nodes <= size * CELLS_MAX:
            return size
    return -(-nodes // (CELLS_MAX * A_CELL[-1])) * A_CELL[-1]


def stages(columns: Sequence[Sequence[Cell]]) -> Stages:
    """Return the pictures of the stages of one rollout; cells of all of them are of one size."""
    size = per_cell(sum(len(column) for column in columns))
    pictures = tuple(_column(column, size) for column in columns)
    rows = [_row(f"stage {at + 1}", column) for at, column in enumerate(columns)]
    if len(columns) != 1:
        rows.append(_row("all", [cell for column in columns for cell in column]))
    return Stages(pictures, figures(("stage", *CLASSES, "all"), rows), size)


def _row(name: str, cells: Sequence[Cell]) -> list[str]:
    return [name, *(count(sum(one.state == state for one in cells)) for state in CLASSES), count(len(cells))]


def _label(size: int) -> str:
    return "one cell a node, by site" if size == 1 else f"one cell is {count(size)} nodes, by site"


@dataclass(slots=True)
class _Drawing:
    """Gather what is drawn: runs of like cells as one path each, exceptions as links."""

    serving: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    within: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def run(self, state: ClassName, x: float, y: float, cells: int) -> None:
        """Add a run of cells that all serve or all wait."""
        width = cells * PITCH - 3
        if state == "serving":
            self.serving.append(f"M{number(x)} {number(y + 6)}h{width}")
        else:
            self.waiting.append(f"M{number(x)} {number(y + 6)}h{width}")
            self.within.append(f"M{number(x + 1.5)} {number(y + 6)}h{number(width - 1.5)}")

    def svg(self, width: float, height: float, size: int) -> Html:
        """Return the picture. What can be followed is beside the image, for an image hides what is in it from those who do not see it."""
        paths = [("c-s", self.serving), ("c-w", self.waiting), ("c-i", self.within)]
        still = "".join(self.names) + "".join(f'<path class="{css}" d="{"".join(runs)}"/>' for css, runs in paths if runs)
        head = f'<svg class="cells" width="{number(width)}" viewBox="0 0 {number(width)} {number(height)}"'
        label = f'aria-label="{_label(size)}"'
        if not self.links:
            return Html(f'{head} role="img" {label}>{still}</svg>')
        return Html(f'{head} role="group" {label}><g role="img" {label}>{still}</g>{"".join(self.links)}</svg>')


def _column(cells: Sequence[Cell], size: int) -> Html:
    ordered = sorted(cells, key=lambda one: (one.site, one.node))
    sites = [(site, list(mine)) for site, mine in groupby(ordered, key=lambda one: one.site)]
    if len(sites) > SITES_MAX:
        sites = [("", ordered)]
    labelled = len(sites) > 1
    longest = max((len(shown(site)) for site, _ in sites), default=0)
    left = round(min(longest, LABEL_CHARACTERS_MAX) * LABEL_CHARACTER_PX) + 8 if labelled else 0
    drawing, y, widest = _Drawing(), 0, 0
    for site, mine in sites:
        if labelled:
            drawing.names.append(_site(site, y))
        groups = [mine[at : at + size] for at in range(0, len(mine), size)]
        for at in range(0, len(groups), A_LINE):
            line = groups[at : at + A_LINE]
            _line(drawing, line, left, y)
            widest = max(widest, len(line))
            y += PITCH
        y += SITE_GAP if labelled else 0
    return drawing.svg(left + widest * PITCH, max(y, PITCH), size)


def _site(site: str, y: int) -> str:
    name = shown(site)
    short = name if len(name) <= LABEL_CHARACTERS_MAX else name[: LABEL_CHARACTERS_MAX - 1] + "…"
    return text(0, y + 10, short or "none")


def _line(drawing: _Drawing, groups: Sequence[Sequence[Cell]], left: float, y: float) -> None:
    at = 0
    for state, run in groupby(groups, key=_plain):
        mine = list(run)
        if state is not None:
            drawing.run(state, left + at * PITCH, y, len(mine))
        else:
            drawing.links.extend(_exception(group, left + (at + place) * PITCH, y) for place, group in enumerate(mine))
        at += len(mine)


def _plain(group: Sequence[Cell]) -> ClassName | None:
    """Return the class of a cell that is part of a run; None for one that is an element of its own."""
    states = {one.state for one in group}
    return states.pop() if states in ({"serving"}, {"waiting"}) else None


def _exception(group: Sequence[Cell], x: float, y: float) -> str:
    if len(group) == 1:
        one = group[0]
        label = f"{one.node}: {one.state.replace('_', ' ')}" + (f", {one.title}" if one.title else "")
        return _link(f"/nodes/{quote(one.node, safe='')}", label, _drawn(group, x, y))
    return _link(_of_group(group), _title(group), _drawn(group, x, y))


def _link(href: str, label: str, drawn: str) -> str:
    return f'<a href="{href}"><title>{words(label)}</title>{drawn}</a>'  # All but letters, digits and "_.-~" was quoted in it.


def _drawn(group: Sequence[Cell], x: float, y: float) -> str:
    worst = _worst(group)
    parts = ""
    if len(group) > 1 or worst == "moving":
        shares = {state: sum(one.state == state for one in group) / len(group) for state in ("serving", "moving")}
        if len(group) == 1:
            shares = {"serving": 0.0, "moving": group[0].done}
        parts += _filled(shares, x, y)
    return f'{parts}<use href="#{SHAPES.get(worst, "w")}" x="{number(x)}" y="{number(y)}"/>'


def _filled(shares: dict[str, float], x: float, y: float) -> str:
    """Return a cell's inside, filled from below: with what serves, and above it what moves."""
    found, bottom = "", y + 10.5
    for state, css in (("serving", "a-cur"), ("moving", "c-mf")):
        height = round(INNER_PX * min(1.0, max(0.0, shares[state])))
        if height:
            found += f'<path class="{css}" d="M{number(x + 1.5)} {number(bottom)}v-{height}h{INNER_PX}v{height}z"/>'
            bottom -= height
    return found


def _worst(group: Sequence[Cell]) -> ClassName:
    """Return the class of a cell: what is wrong in it is drawn over it, else it moves or waits as far as it is not filled."""
    states = {one.state for one in group}
    return next(state for state in BY_NEED if state in states and (state != "serving" or len(states) == 1))


def _title(group: Sequence[Cell]) -> str:
    worst, of = _worst(group), count(len(group))
    site = f"{group[0].site}, " if group[0].site and group[0].site == group[-1].site else ""
    if worst in ("moving", "waiting"):
        parts = [(sum(one.state == state for one in group), word) for state, word in _VERBS]
        return f"{site}{of} {named(len(group), 'node')}: " + ", ".join(f"{count(nodes)} {word}" for nodes, word in parts if nodes)
    wrong = [one for one in group if one.state == worst]
    why = sorted({one.title for one in wrong if one.title})[:3]
    return f"{site}{count(len(wrong))} of {of}: {worst.replace('_', ' ')}" + (f", {', '.join(why)}" if why else "")


_VERBS: Final = (("serving", "serve"), ("moving", "move"), ("waiting", "wait"))


def _of_group(group: Sequence[Cell]) -> str:
    """Return the list of the nodes that a cell is drawn for: those that are wrong, or that move."""
    worst = _worst(group)
    names = [one.node for one in group if one.state == worst]
    where = f"node in ({','.join(names)})" if len(names) <= NAMED_MAX else ",".join([*_same_site(group), f"state={worst}"])
    return f"/nodes?where={quote(where, safe='')}"


def _same_site(group: Sequence[Cell]) -> Iterator[str]:
    if group[0].site and group[0].site == group[-1].site:
        yield f"site={group[0].site}"
