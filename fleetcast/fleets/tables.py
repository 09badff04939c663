"""Hold rows of a kind: a sequence that shows itself as a table, and becomes a frame of pandas or polars.

Columns and their types do not depend on the rows, so that an empty table is a frame with the same columns. Only what nodes are called by,
labels and models, makes columns of its own: `labels.site`, `serves.delay`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_type_hints, overload

from fleetcast.fleets.errors import NotInstalled

if TYPE_CHECKING:
    import pandas
    import polars

T = TypeVar("T")
SHOWN_ROWS = 20
CELL_CHARACTERS = 64
_PANDAS = {int: "Int64", float: "Float64", bool: "boolean", str: "string", datetime: "datetime64[us, UTC]"}


class Table(Sequence[T], Generic[T]):
    """Hold rows in their order.

    >>> from fleetcast.fleets.results import PlannedSite
    >>> sites = Table(PlannedSite, [PlannedSite("jfk", 2, 800, 400), PlannedSite("lga", 1, 400, 400)])
    >>> sites
    site  nodes  fetch_bytes  relayed_bytes
    jfk   2      800          400
    lga   1      400          400
    >>> sum(one.fetch_bytes for one in sites), sites[:1][0].site
    (1200, 'jfk')
    """

    __slots__ = ("_kind", "_rows")

    def __init__(self, kind: type[T], rows: Sequence[T]) -> None:
        self._kind, self._rows = kind, tuple(rows)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> "Table[T]": ...
    def __getitem__(self, at: int | slice) -> "T | Table[T]":
        """Return a row, or a table of some rows."""
        return Table(self._kind, self._rows[at]) if isinstance(at, slice) else self._rows[at]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __iter__(self) -> Iterator[T]:
        """Return the rows one after another."""
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        """Return whether these are the same rows."""
        return isinstance(other, Table) and self._rows == other._rows

    def __hash__(self) -> int:
        """Return the same number for the same rows."""
        return hash(self._rows)

    def __repr__(self) -> str:
        """Return the first rows, in columns."""
        if not self._rows:
            return f"<no {self._kind.__name__}>"
        heads, cells = self._cells()
        widths = [max(len(one[at]) for one in [heads, *cells]) for at in range(len(heads))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(one, widths, strict=True)).rstrip() for one in [heads, *cells]]
        return "\n".join([*lines, *([f"... and {len(self) - SHOWN_ROWS} more"] if len(self) > SHOWN_ROWS else [])])

    def _repr_html_(self) -> str:
        heads, cells = self._cells()
        head = "".join(f"<th>{escape(one)}</th>" for one in heads)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        more = f"<p>... and {len(self) - SHOWN_ROWS} more</p>" if len(self) > SHOWN_ROWS else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        columns = self.columns(SHOWN_ROWS)
        used = [name for name, (_, values) in columns.items() if any(value not in (None, "", ()) for value in values)]
        heads = used or list(columns)
        rows = zip(*(columns[name][1] for name in heads), strict=True) if self._rows else ()
        return heads, [[in_cell(value) for value in row] for row in rows]

    def columns(self, rows: int | None = None) -> dict[str, tuple[type, list[Any]]]:
        """Return each column's type and values, of all rows or of the first ones."""
        found: dict[str, tuple[type, list[Any]]] = {}
        some = self._rows[:rows]
        for name, kind in kinds_of(self._kind).items():
            values = [getattr(row, name) for row in some]
            if kind is dict:
                keys = sorted({key for value in values for key in value})
                found.update({f"{name}.{key}": (_kind_in(values, key), [value.get(key) for value in values]) for key in keys})
            else:
                found[name] = (kind, [", ".join(map(str, value)) if isinstance(value, tuple) else value for value in values])
        return found

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a DataFrame; what is not known is missing.

        Raises:
            NotInstalled: pandas is not installed.
        """
        try:
            import pandas  # noqa: PLC0415  # an extra
        except ImportError:
            raise NotInstalled("pandas", "pandas", "to_pandas()") from None
        columns = self.columns()
        return pandas.DataFrame({name: pandas.Series(values, dtype=_PANDAS[kind]) for name, (kind, values) in columns.items()})

    def to_polars(self) -> "polars.DataFrame":
        """Return a DataFrame; what is not known is null.

        Raises:
            NotInstalled: polars is not installed.
        """
        try:
            import polars  # noqa: PLC0415  # an extra
        except ImportError:
            raise NotInstalled("polars", "polars", "to_polars()") from None
        kinds: Mapping[type, Any] = {
            int: polars.Int64,
            float: polars.Float64,
            bool: polars.Boolean,
            str: polars.String,
            datetime: polars.Datetime("us", "UTC"),
        }
        return polars.DataFrame([polars.Series(name, values, dtype=kinds[kind]) for name, (kind, values) in self.columns().items()])


def in_cell(value: object) -> str:
    """Return a value for a table: on one line, without what a stranger's text could do to a terminal."""
    if value is None:
        return "-"
    text = value.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00") if isinstance(value, datetime) else str(value)
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"


def _kind_in(values: Sequence[Mapping[str, Any]], key: str) -> type:
    """Return the type of what is under a key: a number where every value is one, and else a text."""
    found = {type(value[key]) for value in values if value.get(key) is not None}
    return found.pop() if len(found) == 1 and found <= {int, float, bool} else str


def kinds_of(kind: type[Any]) -> dict[str, type]:
    """Return the type of each field that becomes a column; several texts become one, and what has fields of its own is left out."""
    hints, found = get_type_hints(kind), dict[str, type]()
    for one in fields(kind):
        hint = hints[one.name]
        options = {hint, *get_args(hint)}
        if getattr(hint, "__origin__", None) is tuple:
            if get_args(hint)[0] is str:
                found[one.name] = str
        elif getattr(hint, "__origin__", None) is Table:
            continue
        elif "Mapping" in str(hint):
            found[one.name] = dict
        else:
            found[one.name] = next(known for known in (datetime, bool, int, float, str) if known in options)
    return found
