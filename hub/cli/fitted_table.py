"""Fit a table to a terminal without cutting anything: fold the columns that hold sentences, or print a block for each row."""

import textwrap
from collections.abc import Sequence

GAP = "  "
FOLDED_CHARACTERS_MIN = 16  # A sentence folded to less than that is hard to read.


def fitted(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table for a terminal of this many characters.

    A code, a name and a time stand whole on one line. Only cells with spaces in them are folded, between words. Where the columns that
    cannot be folded are wider than the terminal together, each row is a block of lines, one for each column.
    """
    natural = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    least = [_least(head, [row[at] for row in rows], whole) for at, (head, whole) in enumerate(zip(heads, natural, strict=True))]
    room = width - len(GAP) * (len(heads) - 1)
    if sum(natural) <= room:
        return _table(heads, rows, natural)
    if sum(least) <= room:
        return _table(heads, rows, _shared(least, natural, room))
    return _blocks(heads, rows, width)


def _least(head: str, cells: Sequence[str], natural: int) -> int:
    words = max((len(word) for cell in [head, *cells] for word in cell.split(" ")), default=0)
    if any(_is_folded(cell) for cell in cells):
        return min(natural, max(words, FOLDED_CHARACTERS_MIN))
    whole = max((len(cell) for cell in cells), default=0)
    return max(words, whole)  # the head alone may be folded


def _is_folded(cell: str) -> bool:
    """Return whether a cell is a sentence or a list. A time such as "2026-11-26 12:00:01 UTC" stays whole, and so does "1 of 3"."""
    return " " in cell and len(cell) > FOLDED_CHARACTERS_MIN and not cell[:10].replace("-", "").isdigit()


def _shared(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Give the room that is left to the columns in turn, until each has what it would like."""
    widths, left = list(least), room - sum(least)
    while left and (wanting := [at for at in range(len(widths)) if widths[at] < natural[at]]):
        for at in wanting[:left]:
            widths[at] += 1
        left -= len(wanting[:left])
    return widths


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    lines = []
    for row in [heads, *rows]:
        folded = [_fold(cell, width) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(len(one) for one in folded)):
            cells = [one[number] if number < len(one) else "" for one in folded]
            lines.append(GAP.join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
    return lines


def _blocks(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Print the first column as the head of its block, and each other column on a line of its own."""
    indent = max(len(head) for head in heads) + 4
    lines = []
    for number, row in enumerate(rows):
        lines += [""] if number else []
        lines += _fold(row[0], width)
        for head, cell in zip(heads[1:], row[1:], strict=True):
            first, *more = _fold(cell, max(width - indent, FOLDED_CHARACTERS_MIN))
            lines += [f"  {head:<{indent - 4}}  {first}", *(" " * indent + line for line in more)]
    return lines


def _fold(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) or [""]
