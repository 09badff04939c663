"""Find columns of a reference that say nothing about drift: one value in every row, a number of the row, the time of the row."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.limits import CATEGORIES_MAX

DISTINCT_SHARE_MIN = 0.95  # Share of distinct texts from which on a column names rows and not categories.
ID_SPREAD_MAX = 2.0  # Numbers of rows lie this densely; prices and counts that differ in every row do not.
WORDS_MIN = 2.0  # Average words of a text; a category and a name have fewer.
WORDS_ROWS = 1000
TIME_NAMES = frozenset({"time", "timestamp", "date", "datetime", "ts", "at"})
# Seconds, milliseconds, microseconds and nanoseconds since 1970, from 2001 to 2100.
EPOCH_RANGES = tuple((978_307_200 * unit, 4_102_444_800 * unit) for unit in (1, 10**3, 10**6, 10**9))
_ID_NAME = re.compile(r"(^|_)(id|index|idx|row|key|uuid|unnamed: 0)$")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?")

Array = NDArray[Any]


def finding(name: str, values: Array) -> str | None:
    """Return why a column [rows] is not watched unless it is named, or None."""
    if values.ndim != 1 or not len(values):
        return None
    if values.dtype.kind in "OU":
        return _of_texts(values)
    if values.dtype.kind not in "iufM":
        return None if len(np.unique(values)) > 1 else "constant"
    distinct = np.unique(values)
    if len(distinct) == 1:
        return "constant"
    if _times(name, values):
        return "time"
    return "id" if _numbers_rows(name, values, distinct) else None


def _of_texts(values: Array) -> str | None:
    texts = [str(one) for one in values.tolist()]
    distinct = set(texts)
    if len(distinct) == 1:
        return "constant"
    if len(distinct) <= CATEGORIES_MAX:
        return None
    if all(_DATE.fullmatch(one) for one in texts[:WORDS_ROWS]):
        return "time"
    if len(distinct) >= DISTINCT_SHARE_MIN * len(texts) and words(values) < WORDS_MIN:
        return "id"
    return None


def words(values: Array) -> float:
    """Return the average number of words of a column's first texts."""
    return float(np.mean([len(str(one).split()) for one in values[:WORDS_ROWS]]))


def _times(name: str, values: Array) -> bool:
    if values.dtype.kind == "M":
        return True
    low, high = float(values.min()), float(values.max())
    in_epoch = any(begin <= low and high <= end for begin, end in EPOCH_RANGES)
    ordered = bool((np.diff(values.astype(np.float64)) >= 0).all())
    return (in_epoch and (ordered or name.lower() in TIME_NAMES)) or (ordered and name.lower() in TIME_NAMES)


def _numbers_rows(name: str, values: Array, distinct: Array) -> bool:
    """Return whether the values are whole numbers, different in every row, and named or as dense as numbers of rows are."""
    if len(distinct) != len(values):
        return False
    named = not name or bool(_ID_NAME.search(name.lower()))
    if values.dtype.kind == "f":
        return named and bool((distinct == np.floor(distinct)).all())
    return named or bool(float(distinct[-1]) - float(distinct[0]) + 1 <= ID_SPREAD_MAX * len(values))
