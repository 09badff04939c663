"""Gives rows as a model takes them, a few at a time, with what is true of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BATCH_BYTES_MAX = 16 * 2**20  # inputs at a time: images of a few hundred kilobytes go by dozens, rows of numbers by thousands
BATCH_ROWS_MAX = 4096


@dataclass(frozen=True)
class Samples:
    """`arrays` by input, the rows along the first axis. `alone`: each is a whole input of its own, not a row of a larger one."""

    arrays: Mapping[str, Array]
    truth: Array | None = None
    alone: bool = False
    blocks: Array | None = None  # which day, shift or batch each row is from

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.arrays.values())))

    def feeds(self, at: int, rows: int) -> dict[str, Array]:
        """Return inputs for `rows` rows from the one numbered `at`."""
        if self.alone:
            return {name: np.ascontiguousarray(array[at]) for name, array in self.arrays.items()}
        return {name: np.ascontiguousarray(array[at : at + rows]) for name, array in self.arrays.items()}

    def batches(self, rows_max: int = BATCH_ROWS_MAX) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """Yield the first row, number of rows and inputs, until there are no more."""
        row_bytes = max(1, sum(array.nbytes // max(1, len(array)) for array in self.arrays.values()))
        step = 1 if self.alone else max(1, min(rows_max, BATCH_BYTES_MAX // row_bytes))
        for at in range(0, self.rows, step):
            rows = min(step, self.rows - at)
            yield at, rows, self.feeds(at, rows)
