"""Write rows as CSV that a spreadsheet takes for data and never for a formula: what is exported was written by strangers."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

ROWS_AT_ONCE: Final = 200
CELL_CHARACTERS_MAX: Final = 8000  # Spreadsheets take at most 32,767.
# With these a spreadsheet takes a cell for a formula, some also in their wide forms. A text that begins so gets an apostrophe in front.
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(value: Any) -> str:
    """Return a value as a cell. A number stays a number, also below zero; lists and objects are text."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case Mapping():
            text = "; ".join(f"{name}={one if isinstance(one, str) else json.dumps(one)}" for name, one in value.items())
        case list() | tuple():
            text = "; ".join(one if isinstance(one, str) else json.dumps(one) for one in value)
        case _:
            text = str(value)
    text = "".join(one if one.isprintable() or one in "\t\r\n" else "\ufffd" for one in text[:CELL_CHARACTERS_MAX])
    return f"'{text}" if text.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text


def lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield a table by RFC 4180, in pieces: its head, then its rows as they come."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)  # Where a spreadsheet splits at semicolons, a cell stays whole.
    writer.writerow(columns)
    for number, row in enumerate(rows, 1):
        writer.writerow([cell(row.get(name)) for name in columns])
        if number % ROWS_AT_ONCE == 0:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()
