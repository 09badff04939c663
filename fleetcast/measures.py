"""Compute the quantities that signals watch, over batches of rows: publishers and nodes use the same functions.

Every measure takes a tensor as [rows, ...] and returns [rows] numbers, NaN if there is nothing to measure; categorical ones return the
category. Randomness is SHAKE-256 of the seed and not a library's generator, whose streams change between versions.
"""

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.signals import Signal

Values = NDArray[Any]
Floats = NDArray[np.float64]

COORDINATES_MIN = 64  # Values that a projection adds; a row with fewer uses all of them.


def measured(signal: Signal, values: Values) -> Values:
    """Return a signal's quantity, shape [rows], from its tensor's values [rows, ...].

    Raises:
        ValueError: the tensor holds texts where numbers are measured, or the other way round.
    """
    flat = values.reshape(len(values), -1)
    if signal.measure is None:
        return flat[:, signal.column] if signal.column < flat.shape[1] else np.full(len(flat), math.nan)
    return MEASURES[signal.measure](signal, flat)


def mean(signal: Signal, flat: Values) -> Floats:
    """Return the mean of the row's values."""
    found: Floats = flat.mean(axis=1, dtype=np.float64)
    return found


def deviation(signal: Signal, flat: Values) -> Floats:
    """Return the standard deviation of the row's values."""
    found: Floats = flat.std(axis=1, dtype=np.float64)
    return found


def sparsity(signal: Signal, flat: Values) -> Floats:
    """Return the share of the row's values that are zero."""
    found: Floats = 1 - np.count_nonzero(flat, axis=1) / flat.shape[1]
    return found


def projection(signal: Signal, flat: Values) -> Floats:
    """Return a very sparse random projection: about the square root of the row's width of its values, each with a random sign.

    The result is scaled to keep the row's root mean square (Li, Hastie and Church, "Very Sparse Random Projections", KDD 2006).
    """
    places, signs = coordinates(signal.seed or 0, signal.column, flat.shape[1])
    found: Floats = (flat[:, places].astype(np.float64) @ signs) / math.sqrt(len(places))
    return found


@lru_cache(maxsize=256)
def coordinates(seed: int, number: int, width: int) -> tuple[NDArray[np.int64], Floats]:
    """Return which of a row's `width` values a projection adds, and with which signs."""
    count = width if width <= COORDINATES_MIN else max(COORDINATES_MIN, math.isqrt(width))
    random = np.frombuffer(hashlib.shake_256(f"{seed}.{number}".encode()).digest(8 * count), "<u4").astype(np.int64)
    places = np.arange(width) if count == width else (random[:count] * width) >> 32
    return places.astype(np.int64), 1.0 - 2.0 * (random[count:] & 1).astype(np.float64)


def length(signal: Signal, flat: Values) -> Floats:
    """Return the number of tokens in the row that are not padding; for texts, the number of words."""
    if flat.dtype == object:
        return np.array([sum(len(_text(one).split()) for one in row) for row in flat.tolist()], np.float64)
    found: Floats = np.count_nonzero(_tokens(signal, flat), axis=1).astype(np.float64)
    return found


def unknown(signal: Signal, flat: Values) -> Floats:
    """Return the share of the row's tokens that are the token for words outside the vocabulary."""
    tokens = np.count_nonzero(_tokens(signal, flat), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.count_nonzero(flat == signal.unknown, axis=1) / tokens
    return found


def surprisal(signal: Signal, flat: Values) -> Floats:
    """Return the mean of the negative log-probabilities in the row, in nats per token; other values are left out."""
    known = np.isfinite(flat) & (flat <= 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = -np.where(known, flat, 0).sum(axis=1, dtype=np.float64) / np.count_nonzero(known, axis=1)
    return found


def top_class(signal: Signal, flat: Values) -> Floats:
    """Return the index of the row's largest score."""
    return np.where(np.isnan(flat).any(axis=1), math.nan, flat.argmax(axis=1)) if flat.dtype.kind == "f" else flat.argmax(axis=1) * 1.0


def confidence(signal: Signal, flat: Values) -> Floats:
    """Return the row's largest probability."""
    found: Floats = _probabilities(signal, flat).max(axis=1)
    return found


def entropy(signal: Signal, flat: Values) -> Floats:
    """Return the entropy of the row's probabilities, in nats."""
    shares = _probabilities(signal, flat)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = -np.where(shares > 0, shares * np.log(shares), shares * 0.0).sum(axis=1)
    return found


def refusal(signal: Signal, flat: Values) -> Values:
    """Return "yes" for an answer that begins with one of the phrases that refuse, else "no"."""
    begins = tuple(phrase.casefold() for phrase in signal.phrases or ())
    answers_yes = [_text(row[0]).lstrip().casefold().startswith(begins) if row else False for row in flat.tolist()]
    return np.array(["yes" if one else "no" for one in answers_yes], object)


MEASURES: dict[str, Callable[[Signal, Values], Values]] = {
    "mean": mean,
    "deviation": deviation,
    "sparsity": sparsity,
    "projection": projection,
    "length": length,
    "unknown": unknown,
    "surprisal": surprisal,
    "class": top_class,
    "confidence": confidence,
    "entropy": entropy,
    "refusal": refusal,
}  # A runtime reports the rest: "stop", why an answer ended, and "tokens", how many it read from an input or wrote to an output.


def _tokens(signal: Signal, flat: Values) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.ones(flat.shape, bool) if signal.padding is None else flat != signal.padding
    return found


def _probabilities(signal: Signal, flat: Values) -> Floats:
    scores = flat.astype(np.float64)
    if not signal.softmax:
        return scores
    with np.errstate(invalid="ignore"):
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
