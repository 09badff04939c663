"""Read what a CSV file does not say: whether its first line has names, and which columns are texts."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from hub.core.publish.release import first_line
from schemas.errors import Code, Refused, mismatch

VALUES_SHOWN = 4


def check_header(path: Path, table: "pa.Table") -> None:
    """Check that the first line, which pyarrow takes for names, is not a row.

    Raises:
        Refused: REFERENCE_INVALID: every cell of the first line could be a value of its column.
    """
    names = table.column_names
    if not names or _numbered(names):
        return
    if all(_could_be_value(name, column) for name, column in zip(names, table.columns, strict=True)):
        shown = ", ".join(name[:16] for name in names[:VALUES_SHOWN]) + (", ..." if len(names) > VALUES_SHOWN else "")
        raise mismatch(
            Code.REFERENCE_INVALID,
            f"{path}: first line",
            expected="the columns' names; write them above the first row",
            actual=f"a row of values ({shown})",
        )


def _numbered(names: Sequence[str]) -> bool:
    """Return whether columns are numbered from 0 or 1, as a table without names is written, or at least three by consecutive years."""
    first = names[0]
    if not (first.isdecimal() and len(first) < 10 and (first in {"0", "1"} or len(names) > 2)):
        return False
    return list(names) == [str(int(first) + at) for at in range(len(names))]


def _could_be_value(name: str, column: "pa.ChunkedArray") -> bool:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _parses(float, name)
    if pa.types.is_temporal(kind):
        return _parses(np.datetime64, name.removesuffix("Z"))
    if pa.types.is_boolean(kind):
        return name.lower() in {"true", "false"}
    return name in set(column.to_pylist()) or (pa.types.is_null(kind) and not name)


def _parses(reader: Callable[[str], object], text: str) -> bool:
    with suppress(ValueError):
        reader(text)
        return True
    return False


def texts_of(path: Path, column: str) -> NDArray[Any]:
    """Return a column as the texts that the file has, [rows], also where they look like numbers, truths or dates.

    Raises:
        Refused: REFERENCE_INVALID: the file can no longer be read.
    """
    options = pa.csv.ConvertOptions(column_types={column: pa.string()}, include_columns=[column], strings_can_be_null=False)
    try:
        return np.asarray(pa.csv.read_csv(path, convert_options=options).column(column).to_numpy())
    except (OSError, pa.ArrowException) as error:
        raise Refused(Code.REFERENCE_INVALID, f"{path} cannot be read: {first_line(error)}") from error


def line_of(path: Path, row: int) -> int | None:
    """Return the line of a row, counted from 1, in a CSV file with a header; None for another file. Empty lines are no rows."""
    if path.suffix.lower() != ".csv":
        return None
    with suppress(OSError), path.open("rb") as file:
        filled = (number for number, line in enumerate(file, 1) if line.strip())
        return next(islice(filled, row + 1, None), None)
    return None
