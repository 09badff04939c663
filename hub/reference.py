"""Reads the publisher's reference data: columns by name, from Parquet, CSV or npz. Knows no model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from schemas.errors import Code, Refused, mismatch

BYTES_MAX = 2 * 1024**3  # a reference is a sample; beyond this it would not be read on a laptop
ROWS_MIN = 20  # fewer say nothing about a distribution
COLUMNS_MAX = 4096


@dataclass(frozen=True)
class Reference:
    """Columns of equal length, in the file's order."""

    columns: dict[str, NDArray[Any]]
    path: Path

    @property
    def rows(self) -> int:
        """How many."""
        return len(next(iter(self.columns.values())))

    def without(self, name: str | None) -> dict[str, NDArray[Any]]:
        """The columns but one."""
        return {key: column for key, column in self.columns.items() if key != name}

    def column(self, name: str) -> NDArray[Any]:
        """One column.

        Raises:
            Refused: there is none of that name.
        """
        if name not in self.columns:
            raise mismatch(
                Code.REFERENCE_INVALID, f"{self.path}: column {name!r}", expected="one of the columns", actual=list(self.columns)
            )
        return self.columns[name]


def read_reference(path: Path) -> Reference:
    """The reference in a .parquet, .csv or .npz file.

    Raises:
        Refused: absent, too large, of another kind, unreadable, or without enough rows.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise Refused(Code.REFERENCE_INVALID, f"{path}: {error.strerror}") from None
    if size > BYTES_MAX:
        raise mismatch(Code.REFERENCE_INVALID, f"{path}: size", expected=f"at most {BYTES_MAX} bytes", actual=size)
    try:
        match path.suffix:
            case ".parquet":
                columns = _of_table(pa.parquet.read_table(path))
            case ".csv":
                columns = _of_table(pa.csv.read_csv(path))
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    columns = {name: arrays[name] for name in arrays.files}
            case other:
                raise mismatch(Code.REFERENCE_INVALID, f"{path}: kind of file", expected=".parquet, .csv or .npz", actual=other or "none")
    except (pa.ArrowException, ValueError, OSError, KeyError, EOFError) as error:
        raise Refused(Code.REFERENCE_INVALID, f"{path} could not be read as {path.suffix}: {str(error)[:200]}") from error
    lengths = {name: len(column) if column.ndim == 1 else -1 for name, column in columns.items()}
    if not columns or len(columns) > COLUMNS_MAX or len(set(lengths.values())) != 1 or -1 in lengths.values():
        raise Refused(Code.REFERENCE_INVALID, f"{path}: columns must be one-dimensional and of one length, found {lengths or 'none'}")
    reference = Reference(columns, path)
    if reference.rows < ROWS_MIN:
        raise mismatch(Code.REFERENCE_INVALID, f"{path}: rows", expected=f"at least {ROWS_MIN}", actual=reference.rows)
    return reference


def _of_table(table: "pa.Table") -> dict[str, NDArray[Any]]:
    return {name: np.asarray(table.column(name).to_numpy()) for name in table.column_names}
