"""Read the publisher's reference data, columns by name from Parquet, CSV or npz, and fit it to a model's inputs. Knows no ONNX.

Which column feeds what:

- A model with one input [rows, d] takes d columns, in the file's order, or those that are named and in that order. Where nothing names
  them, the order must be that of the release before. A model with one input a column takes each by the input's name. Arrays of an npz
  with more axes are whole inputs, [rows, ...], by the inputs' names.
- The block column (day, shift, batch) is not a feature. Where names are not given and there are more columns than places, those called
  `label`, `target` or `prediction`, or as one of the model's outputs, are left out. Any other column too many is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from fleetcast.golden_file import plain_arrays
from hub.core.publish.column_findings import finding
from hub.core.publish.release import DTYPES, Feature, Fitted, OrderedBy, first_line, kind_of, listed
from hub.publish.csv_table import check_header, line_of, texts_of
from hub.publish.publish_request import FeatureOrder
from schemas.errors import Code, Refused, mismatch
from schemas.limits import CATEGORIES_MAX
from schemas.manifest import Tensor

BYTES_MAX = 2 * 1024**3  # A reference is a sample; a larger one could not be read on a laptop.
CELLS_MAX = 2**28  # 2 GiB of doubles: a small compressed file may hold large columns.
ROWS_MIN = 20  # Fewer rows do not describe a distribution.
COLUMNS_MAX = 4096
MEND = "; drop these rows of the reference or fill them, also where the model fills missing values by itself"
LABEL_NAMES = frozenset({"label", "target", "prediction"})
_ROW_NUMBERS = re.compile(r"__index_level_\d+__")  # Pandas adds these to the file of a filtered frame.

Array = NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """Hold columns of equal length, in the file's order."""

    columns: dict[str, Array]
    path: Path

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))

    def without(self, name: str | None) -> "Reference":
        """Return the reference without a column that is not a feature."""
        return Reference({one: column for one, column in self.columns.items() if one != name}, self.path)

    def fit(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        named: Sequence[str] | None,
        blocks_column: str | None,
        time_column: str | None = None,
        order_before: FeatureOrder | None = None,
    ) -> Fitted:
        """Return the columns as the model takes them.

        `named` gives the columns and their order, `blocks_column` the column with the block, and `time_column` the one with each row's
        time. `order_before` is the order of the release before.

        Raises:
            Refused: REFERENCE_INVALID: columns do not match the inputs or have another order than before, or a value is missing or does
                not fit its input.
        """
        blocks = None if blocks_column is None else self.blocks(blocks_column)
        times = None if time_column is None else self._times(time_column)
        columns = [name for name in self.columns if name not in {blocks_column, time_column}]
        if any(self.columns[name].ndim > 1 for name in columns):
            return self._fit_whole(inputs, columns, blocks, times)
        places = self._match(inputs, [tensor.name for tensor in outputs], columns, named)
        by_place = len(inputs) == 1 and len(places) > 1
        ordered_by: OrderedBy = "file" if by_place and named is None else "names"
        if ordered_by == "file" and order_before is not None:
            self._check_order(places, order_before)
        fitted = {name: self._as_input(name, tensor) for name, tensor, _ in places}
        sources = {name: fitted[name] if tensor.datatype == "BYTES" else self.columns[name] for name, tensor, _ in places}
        kinds = {name: kind_of(column, categories_max=CATEGORIES_MAX) for name, column in sources.items()}
        features = tuple(Feature(name, tensor, place, kinds[name]) for name, tensor, place in places)
        findings = {name: found for name, column in sources.items() if (found := finding(name, column)) is not None}
        return Fitted(features, fitted, blocks, times, findings, ordered_by)

    def _check_order(self, places: Sequence[tuple[str, Tensor, int]], before: FeatureOrder) -> None:
        """Check that columns whose names the release before knew feed the places that they fed there."""
        now = {(tensor.name, place): name for name, tensor, place in places}
        moved = [place for place, name in before.columns.items() if place in now and now[place] != name and name in now.values()]
        if moved:
            known = [before.columns.get(place, now[place]) for place in sorted(now)]
            raise Refused(
                Code.REFERENCE_INVALID,
                f"{self.path}: order of columns, which the model does not name: expected {listed(known)} as in {before.version}, found"
                f" {listed([now[place] for place in sorted(now)])}; name the columns in the model's order with --columns",
            )

    def _fit_whole(self, inputs: Sequence[Tensor], columns: Sequence[str], blocks: Array | None, times: Array | None) -> Fitted:
        """Return arrays [rows, ...] by the inputs' names, such as images."""
        by_name = {tensor.name: tensor for tensor in inputs}
        if set(columns) != set(by_name):
            raise mismatch(Code.REFERENCE_INVALID, f"{self.path}: arrays", expected=listed(list(by_name)), actual=listed(list(columns)))
        for name, tensor in by_name.items():
            shape, axes = self.columns[name].shape[1:], tensor.shape[1:]
            fits = len(shape) == len(axes) and all(have >= 1 and want in (-1, have) for have, want in zip(shape, axes, strict=True))
            if not fits or tensor.shape[:1] not in ((-1,), (1,)):
                what = f"{self.path}: shape of {name!r}"
                raise mismatch(Code.REFERENCE_INVALID, what, expected=["rows", *axes], actual=list(self.columns[name].shape))
        fitted = {name: self._as_input(name, tensor) for name, tensor in by_name.items()}
        return Fitted(tuple(Feature(name, tensor, 0, "numeric") for name, tensor in by_name.items()), fitted, blocks, times)

    def _match(
        self, inputs: Sequence[Tensor], outputs: Sequence[str], columns: Sequence[str], named: Sequence[str] | None
    ) -> list[tuple[str, Tensor, int]]:
        for tensor in inputs:
            if not tensor.shape or tensor.shape[0] not in (-1, 1):
                what = f"input {tensor.name!r}, to be fed with rows of a reference: its first axis"
                raise mismatch(Code.REFERENCE_INVALID, what, expected="free", actual=tensor.shape[0] if tensor.shape else "none")
        if named is not None:
            if len(set(named)) != len(named) or not set(named) <= set(columns):
                raise mismatch(
                    Code.REFERENCE_INVALID, f"{self.path}: feature columns", expected=f"{listed(named)}, each once", actual=listed(columns)
                )
            candidates = [list(named)]
        else:
            features = [name for name in columns if name.lower() not in LABEL_NAMES and name not in outputs]
            candidates = [features, list(columns)]
        for candidate in candidates:
            if (places := _places(inputs, candidate)) is not None:
                return places
        raise mismatch(Code.REFERENCE_INVALID, f"{self.path}: columns", expected=_wanted(inputs), actual=listed(named or columns))

    def blocks(self, name: str) -> Array:
        """Return the day, shift or batch of each row, from a column.

        Raises:
            Refused: REFERENCE_INVALID: there is no such column, or a value is missing.
        """
        if name not in self.columns:
            raise mismatch(Code.REFERENCE_INVALID, f"{self.path}: block column", expected=name, actual=listed(list(self.columns)))
        values = self._present(name)
        if values.dtype.kind not in "biufMUO":
            raise mismatch(Code.REFERENCE_INVALID, f"block column {name!r}", expected="days, numbers or texts", actual=values.dtype)
        return values

    def _times(self, name: str) -> Array:
        """Return seconds since 1970, [rows], from dates or from numbers that are seconds."""
        if name not in self.columns:
            raise mismatch(Code.REFERENCE_INVALID, f"{self.path}: time column", expected=name, actual=listed(list(self.columns)))
        values = self._present(name)
        if values.dtype.kind == "M":
            return values.astype("datetime64[s]").astype(np.int64)
        if values.dtype.kind not in "iuf":
            raise mismatch(Code.REFERENCE_INVALID, f"time column {name!r}", expected="dates, or seconds since 1970", actual=values.dtype)
        return values.astype(np.int64)

    def _as_input(self, name: str, tensor: Tensor) -> Array:
        """Return the column in its input's dtype: a node must count the same values, or ties at an edge fall on different sides."""
        values, dtype = self._present(name), DTYPES[tensor.datatype]
        if tensor.datatype == "BYTES" and values.dtype.kind != "O" and self.path.suffix.lower() == ".csv":
            values = texts_of(self.path, name)  # Postcodes, flags and dates that are texts to the model.
        if values.dtype.kind not in ("OU" if tensor.datatype == "BYTES" else "biuf"):
            what = f"{self.path}: column {name!r} for input {tensor.name!r}"
            mend = "make texts of it" if tensor.datatype == "BYTES" else "make numbers of it"
            found = values.dtype if values.dtype != object else "texts"
            raise mismatch(Code.REFERENCE_INVALID, what, expected=tensor.datatype, actual=f"{found}: {mend}, or leave the column out")
        if tensor.datatype == "BYTES":
            return values.astype(dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            cast = values.astype(dtype)
        self._all(name, np.isfinite(cast) if dtype.kind == "f" else cast == values, f"a value that fits {tensor.datatype}")
        return cast

    def _present(self, name: str) -> Array:
        """Return the column after checking that no value is missing."""
        values = self.columns[name]
        if values.dtype.kind == "f":
            self._all(name, np.isfinite(values), "a finite number", mend=MEND)
        elif values.dtype.kind == "M":
            self._all(name, ~np.isnat(values), "a date", mend=MEND)
        elif values.dtype.kind == "O":
            self._all(name, np.array([isinstance(value, str) for value in values], bool), "a text or a number in every row", mend=MEND)
        return values

    def _all(self, name: str, good: NDArray[np.bool_], expected: str, *, mend: str = "") -> None:
        bad = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
        if len(bad):
            rows = "1 such row" if len(bad) == 1 else f"{len(bad)} such rows"
            line = line_of(self.path, int(bad[0]))
            what = (
                f"{self.path}: column {name!r}, row {bad[0]} (counted from 0; {rows}{'' if line is None else f'; line {line} of the file'})"
            )
            raise mismatch(Code.REFERENCE_INVALID, what, expected=expected, actual=str(self.columns[name][bad[0]])[:64] + mend)


def read_reference(path: Path) -> Reference:
    """Return the reference from a .parquet, .csv or .npz file.

    Raises:
        Refused: REFERENCE_INVALID: the file is absent, too large, of another kind, unreadable, or has too few rows.
    """
    try:
        size = path.stat().st_size
        if size > BYTES_MAX:
            raise mismatch(Code.REFERENCE_INVALID, f"{path}: size", expected=f"at most {BYTES_MAX} bytes", actual=size)
        match path.suffix.lower():
            case ".parquet":
                columns = _of_parquet(path)
            case ".csv":
                table = pa.csv.read_csv(path)
                check_header(path, table)
                columns = _of_table(path, table)
            case ".npz":
                with path.open("rb") as file:
                    columns = plain_arrays(str(path), file, Code.REFERENCE_INVALID, bytes_max=BYTES_MAX)
            case other:
                raise mismatch(Code.REFERENCE_INVALID, f"{path}: kind of file", expected=".parquet, .csv or .npz", actual=other or "none")
    except OSError as error:
        raise Refused(Code.REFERENCE_INVALID, f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    except (pa.ArrowException, ValueError, KeyError, EOFError) as error:
        raise Refused(Code.REFERENCE_INVALID, f"{path} cannot be read as {path.suffix}: {first_line(error)}") from error
    shapes = {name: list(column.shape) for name, column in columns.items()}
    lengths = {shape[0] for shape in shapes.values() if shape}
    if not 1 <= len(columns) <= COLUMNS_MAX:
        raise mismatch(Code.REFERENCE_INVALID, f"{path}: number of columns", expected=f"1 to {COLUMNS_MAX}", actual=len(columns))
    if len(lengths) != 1 or not all(shapes.values()):
        raise mismatch(Code.REFERENCE_INVALID, f"{path}: shapes", expected="one first axis of one length", actual=str(shapes)[:200])
    reference = Reference(columns, path)
    if reference.rows < ROWS_MIN:
        raise mismatch(Code.REFERENCE_INVALID, f"{path}: rows", expected=f"at least {ROWS_MIN}", actual=reference.rows)
    return reference


def _places(inputs: Sequence[Tensor], columns: Sequence[str]) -> list[tuple[str, Tensor, int]] | None:
    """Return (column, input, place in its row) for each column, or None if these columns are not what the inputs take."""
    if len(inputs) == 1 and len(inputs[0].shape) > 1:
        width = _width(inputs[0])
        fits = bool(columns) and len(columns) == (width or len(columns))
        return [(name, inputs[0], place) for place, name in enumerate(columns)] if fits else None
    if {tensor.name for tensor in inputs} != set(columns) or any(_width(tensor) not in (1, None) for tensor in inputs):
        return None
    return [(tensor.name, tensor, 0) for tensor in inputs]


def _width(tensor: Tensor) -> int | None:
    """Return the number of values in a row of this input; None if its only axis beside the rows is free."""
    axes = tensor.shape[1:]
    if len(axes) == 1 and axes[0] < 0:
        return None
    width = 1
    for axis in axes:
        width *= max(axis, 1)
    return width


def _wanted(inputs: Sequence[Tensor]) -> str:
    if len(inputs) == 1 and len(inputs[0].shape) > 1:
        return f"{_width(inputs[0]) or 'some'} columns for input {inputs[0].name!r} of shape {list(inputs[0].shape)}"
    wide = [tensor.name for tensor in inputs if _width(tensor) not in (1, None)]
    return f"one column an input, {listed([tensor.name for tensor in inputs])}" + (f", but {listed(wide)} take more" if wide else "")


def _of_parquet(path: Path) -> dict[str, Array]:
    with pa.parquet.ParquetFile(path) as file:
        cells = file.metadata.num_rows * file.metadata.num_columns
        if cells > CELLS_MAX:
            raise mismatch(Code.REFERENCE_INVALID, f"{path}: values", expected=f"at most {CELLS_MAX}", actual=cells)
        return _of_table(path, file.read())


def _of_table(path: Path, table: "pa.Table") -> dict[str, Array]:
    if len(set(table.column_names)) != len(table.column_names):
        raise mismatch(Code.REFERENCE_INVALID, f"{path}: column names", expected="each once", actual=listed(table.column_names))
    return {
        name: _of_column(column) for name, column in zip(table.column_names, table.columns, strict=True) if not _ROW_NUMBERS.fullmatch(name)
    }


def _of_column(column: "pa.ChunkedArray") -> Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy())
