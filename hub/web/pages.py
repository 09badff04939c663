"""Cut lists into pages: a cursor is the key of the last row of a page, so that page 90 costs what page 1 does."""

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from schemas.errors import Code, Refused

T = TypeVar("T")


class Numbered(Protocol):
    """Have an id that rises with time."""

    @property
    def id(self) -> int:
        """Return it."""


Row = TypeVar("Row", bound=Numbered)
CURSOR_CHARACTERS_MAX = 400


def cursor_of(key: Sequence[str | int]) -> str:
    """Return the cursor that names a row."""
    return base64.urlsafe_b64encode(json.dumps(list(key), separators=(",", ":")).encode()).decode().rstrip("=")


def key_of(cursor: str, kinds: Sequence[type]) -> list[Any]:
    """Return the key that a cursor names.

    Raises:
        Refused: REQUEST_INVALID: no page of this list ended with it.
    """
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        found = None
    if (
        not isinstance(found, list)
        or [type(one) for one in found] != list(kinds)
        or any(abs(one) >= 2**62 for one in found if type(one) is int)
    ):
        raise Refused(Code.REQUEST_INVALID, "cursor is not one that this list has given as `next`: begin without one")
    return found


def newest(
    before: int | None,
    limit: int,
    *,
    read: Callable[[int | None, int], Sequence[Row]],
    wanted: Callable[[Row], bool],
    scan_max: int,
    at_once: int,
) -> tuple[list[Row], bool]:
    """Return the newest rows that are wanted, and whether there may be more; `read` gives those before an id, at most so many.

    At most about `scan_max` rows are looked at: where few are wanted, a page may have fewer than its limit, and more behind it.
    """
    found: list[Row] = []
    scanned, size = 0, limit + 1
    while scanned < scan_max:
        rows = read(before, size)
        for row in rows:
            before, scanned = row.id, scanned + 1
            if wanted(row):
                found.append(row)
                if len(found) > limit:
                    return found[:limit], True
        if len(rows) < size:
            return found, False
        size = at_once
    return found, True


def page(rows: Sequence[T], key: Callable[[T], Sequence[str]], *, limit: int, cursor: str | None) -> dict[str, Any]:
    """Return a page of rows that are sorted by their key, which is made of texts."""
    after = key_of(cursor, [str] * len(key(rows[0]))) if cursor is not None and rows else None
    left = [row for row in rows if after is None or list(key(row)) > after]
    return ended(left[: limit + 1], lambda row: cursor_of(key(row)), limit=limit, total=len(rows))


def ended(rows: Sequence[T], cursor: Callable[[T], str], *, limit: int, total: int | None = None) -> dict[str, Any]:
    """Return a page of rows, of which one more than the limit was read where there are more."""
    is_more = len(rows) > limit
    shown = list(rows[:limit])
    return {"items": shown, "next": cursor(shown[-1]) if is_more else None, "total": total}
