"""Build sentences with links in them: the heading of a page, and what stands in its tables."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape

from fleetcast.cli.terminal_text import plain

SHORT_CHARACTERS_MAX: Final = 200  # Names, labels and reasons: what nodes and people wrote.
TEXT_CHARACTERS_MAX: Final = 2000
NAMED_MAX: Final = 3


def shown(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return a stranger's text as it may stand in a page: what does not print is written out, and it has an end."""
    found = plain(text[: characters_max + 1])
    return found if len(found) <= characters_max else f"{found[: characters_max - 1]}…"


def short(text: str) -> str:
    """Return a stranger's text, cut at the length of a line."""
    return shown(text, SHORT_CHARACTERS_MAX)


def link(text: str, href: str, tone: str = "") -> Markup:
    """Return a link; `tone` is `bad`, `warn` or nothing."""
    return Markup('<a{} href="{}">{}</a>').format(Markup(' class="{}"').format(tone) if tone else "", href, short(text))


def bold(text: str) -> Markup:
    """Return text that stands out."""
    return Markup("<b>{}</b>").format(short(text))


def code(text: str) -> Markup:
    """Return a code, a label or a command."""
    return Markup("<code>{}</code>").format(short(text))


def toned(text: str | Markup, tone: str) -> Markup:
    """Return text in the colour of what is `bad`, `warn`, `well` or `soft`."""
    return Markup('<span class="{}">{}</span>').format(tone, text if isinstance(text, Markup) else shown(text))


def said(*parts: str | Markup) -> Markup:
    """Return parts as one sentence; those that are no markup are escaped."""
    return Markup("").join(escape(part if isinstance(part, Markup) else shown(part)) for part in parts)


def listed(parts: Sequence[str | Markup], last: str = ", ") -> Markup:
    """Return parts with commas between them, and `last` before the last one."""
    if len(parts) < 2:
        return said(*parts)
    return said(Markup(", ").join(said(part) for part in parts[:-1]), last, parts[-1])


def named(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are: "a, b, c and 17 more"."""
    shown_names = [short(one) for one in names[:NAMED_MAX]]
    more = [f"{len(names) - NAMED_MAX:,} more"] if len(names) > NAMED_MAX else []
    *first, last = [*shown_names, *more]
    return f"{', '.join(first)} and {last}" if first else last


def path(*levels: str, **query: str | int | None) -> str:
    """Return the address of a page of the console; parameters that are None are left out."""
    found = "/" + "/".join(quote(one, safe="") for one in levels)
    given = {name: value for name, value in query.items() if value is not None}
    return f"{found}?{urlencode(given)}" if given else found


def nodes_where(where: str) -> str:
    """Return the address of the nodes that a selector matches."""
    return path("nodes", where=where)
