"""Decide whether two releases answer alike. What leaves the device is how many rows were compared and how many agreed, never the rows."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from node.core.inference.tensors import Array
from schemas.manifest import Shadow


class Agreement(NamedTuple):
    """Hold rows that were compared, and those on which every output agreed."""

    rows: int = 0
    agreed: int = 0

    @property
    def ratio(self) -> float:
        """Return the share of rows that agreed; 1 while nothing was compared."""
        return self.agreed / self.rows if self.rows else 1.0

    def plus(self, other: "Agreement") -> "Agreement":
        """Return both counts together."""
        return Agreement(self.rows + other.rows, self.agreed + other.agreed)


def compare(serving: Mapping[str, Array], shadow: Mapping[str, Array], *, rows: int, terms: Shadow) -> Agreement:
    """Compare row by row the outputs that both have (schemas.manifest.Shadow says when two agree); without a row axis the whole is one
    row.
    """
    shared = sorted(set(serving) & set(shadow))
    if not shared:
        return Agreement(rows, 0)
    by_row = all(one[name].shape[:1] == (rows,) for one in (serving, shadow) for name in shared)
    count = rows if by_row else 1
    agreed = np.ones(count, bool)
    for name in shared:
        old, new = (one[name].reshape(count, -1) for one in (serving, shadow))
        agreed &= _rows_agree(old, new, terms) if old.shape == new.shape else np.zeros(count, bool)
    return Agreement(count, int(agreed.sum()))


def _rows_agree(old: Array, new: Array, terms: Shadow) -> Array:
    """Return [rows, columns] of one output."""
    if old.dtype.kind != "f" or new.dtype.kind != "f":
        return np.asarray((old.astype(str) == new.astype(str)).all(axis=1))
    if old.shape[1] > 1:
        finite = np.isfinite(old).all(axis=1) & np.isfinite(new).all(axis=1)
        return np.asarray(finite & (old.argmax(axis=1) == new.argmax(axis=1)))
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(new.astype(np.float64) - old) <= terms.absolute_tolerance + terms.relative_tolerance * np.abs(old)
    return np.asarray(near.all(axis=1))
