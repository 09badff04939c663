"""Define the signals of a model, the reference that they are compared with, and the noise on their counts.

Every field that the first manifests lacked is absent by default, so that their bytes, and with them their digest, stay the same.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas import limits
from schemas.document import Fact
from schemas.quantities import Count

TensorName = Annotated[str, Field(min_length=1, max_length=256)]
Measure = Literal[
    "mean",
    "deviation",
    "sparsity",
    "projection",
    "length",
    "unknown",
    "surprisal",
    "class",
    "confidence",
    "entropy",
    "stop",
    "refusal",
    "tokens",
]  # fleetcast/measures.py explains each.
Quantity = Literal["latency_ms", "error", "memory_mib"]  # Quantity of a signal whose side is "service", in the field `tensor`.

STEP_SIGMAS = 4  # Counts travel in steps of at most a quarter of the noise's deviation; that adds about half a percent to its variance.


class Season(Fact):
    """Divide the week into hours with a reference of their own: `24 / hours` a day, and weekends apart if `weekends` is set."""

    hours: Literal[1, 2, 3, 4, 6, 8, 12, 24]
    weekends: bool = False
    offset_minutes: Annotated[int, Field(ge=-14 * 60, le=14 * 60)] = 0  # Offset of the sites' clock from UTC.

    @property
    def keys(self) -> int:
        """Return how many references there are."""
        return 24 // self.hours * (2 if self.weekends else 1)

    def key_of(self, seconds: int) -> int:
        """Return the reference for a window that starts at `seconds` since 1970, UTC."""
        day, second = divmod(seconds + 60 * self.offset_minutes, 86_400)
        key = second // (3600 * self.hours)
        weekend = (day + 3) % 7 >= 5  # The first day of 1970 was a Thursday.
        return key + (24 // self.hours if self.weekends and weekend else 0)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not 2 <= self.keys <= limits.SEASON_KEYS_MAX:
            raise ValueError(f"a season has 2 to {limits.SEASON_KEYS_MAX} keys; this one has {self.keys}")
        return self


class Signal(Fact):
    """Describe one watched quantity and its reference.

    A numeric signal has `len(edges) + 1` ordered bins (`bin = searchsorted(edges, x, side="right")`), a categorical one has a bin a
    category. Both have one more, the last: "other", for values that are not finite or were never seen. `counts` are the reference's, in
    that
    order; they are all zero if the publisher has none, and the signal is then compared only with the node's own baseline.
    `between` is the covariance of the mean scores between blocks of the reference (row-major, q by q, q scores): see
    hub/core/drift/interval_significance.py. Without a `measure` the quantity is the value in `column`.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    kind: Literal["numeric", "categorical"]
    side: Literal["input", "output", "service"]
    tensor: TensorName
    column: Annotated[int, Field(ge=0, le=2**31)] = 0  # Position in the tensor's flattened row; for a projection, its number.
    edges: Annotated[tuple[float, ...], Field(max_length=limits.BINS_MAX - 2)] = ()
    categories: Annotated[tuple[float | str, ...], Field(max_length=limits.CATEGORIES_MAX)] = ()
    counts: Annotated[tuple[Count, ...], Field(min_length=2, max_length=limits.BINS_MAX)]
    between: Annotated[tuple[float, ...], Field(max_length=limits.BETWEEN_SCORES_MAX**2)] = ()
    measure: Measure | None = None
    seed: Annotated[int, Field(ge=0, le=2**53)] | None = None  # Seed of a projection.
    softmax: bool | None = None  # The output has logits, not probabilities.
    padding: Annotated[int, Field(ge=-(2**31), le=2**31)] | None = None  # Id of the padding token.
    unknown: Annotated[int, Field(ge=-(2**31), le=2**31)] | None = None  # Id of the token for words outside the vocabulary.
    phrases: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=limits.PHRASES_MAX)] | None = (
        None  # An answer that begins with one of these is a refusal.
    )
    # The `counts` of each season's key.
    seasons: Annotated[tuple[tuple[Count, ...], ...], Field(max_length=limits.SEASON_KEYS_MAX)] | None = None

    @property
    def bins(self) -> int:
        """Return the number of bins, "other" included."""
        return len(self.counts)

    @property
    def is_of_request(self) -> bool:
        """Return whether its value belongs to a whole request, and not to each of its rows: it is counted once a request."""
        return self.side == "service" or self.measure in {"stop", "tokens"}

    def reference(self, key: int | None) -> tuple[int, ...]:
        """Return the counts to compare with at a season's key; None means all together."""
        return self.counts if key is None or self.seasons is None else self.seasons[key]

    @property
    def binning(self) -> tuple[object, ...]:
        """Return all that decides the bin of a value: it stays the same when only the reference changes."""
        return (self.kind, self.side, self.tensor, self.column, self.edges, self.categories, *self._rule)

    @property
    def _rule(self) -> tuple[object, ...]:
        return self.measure, self.seed, self.softmax, self.padding, self.unknown, self.phrases

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        ordinary = len(self.edges) + 1 if self.kind == "numeric" else len(self.categories)
        if len(self.counts) != ordinary + 1:
            raise ValueError("counts must have one entry a bin and one for 'other'")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must rise")
        if math.isqrt(len(self.between)) ** 2 != len(self.between):
            raise ValueError("between must be a square matrix")
        if (self.measure == "projection") != (self.seed is not None):
            raise ValueError("the measure projection needs a seed, and no other measure has one")
        if (self.measure == "unknown") and self.unknown is None:
            raise ValueError("the measure unknown needs the id of the unknown token")
        if (self.measure == "refusal") != (self.phrases is not None):
            raise ValueError("the measure refusal needs phrases, and no other measure has them")
        if self.side == "service" and self.tensor not in Quantity.__args__:  # type: ignore[attr-defined]
            raise ValueError(f"a service has no quantity {self.tensor!r}")
        if any(len(counts) != len(self.counts) for counts in self.seasons or ()):
            raise ValueError("each season has counts for the same bins")
        return self


class Baseline(Fact):
    """Describe the reference against which windows are compared: its rows, and the number of blocks (days, shifts) they came in."""

    rows: Annotated[int, Field(ge=1, le=2**53)]
    blocks: Annotated[int, Field(ge=1, le=2**31)]
    signals: Annotated[tuple[Signal, ...], Field(min_length=1, max_length=limits.SIGNALS_MAX)]
    # Autocorrelation of the blocks' effects, pooled over signals: hub/core/drift/between_day_variance.py.
    autocorrelation: Annotated[float, Field(ge=0, lt=1)] | None = None
    season: Season | None = None
    # Rows that a node collects before it uses its own baseline.
    calibration_rows: Annotated[int, Field(ge=limits.CALIBRATION_ROWS_MIN, le=2**40)] | None = None

    @property
    def bins(self) -> int:
        """Return the number of bins of all signals together."""
        return sum(signal.bins for signal in self.signals)

    def key_of(self, start_seconds: int) -> int | None:
        """Return the season's key for a window; None without seasons."""
        return None if self.season is None else self.season.key_of(start_seconds)

    @model_validator(mode="after")
    def _seasons_agree(self) -> Self:
        keys = None if self.season is None else self.season.keys
        if any(signal.seasons is not None and len(signal.seasons) != keys for signal in self.signals):
            raise ValueError("a signal has counts for each key of the season, or for none")
        return self


class Privacy(Fact):
    """Describe the noise of a window: epsilon and delta are the promise for a record in a window, sigma2 is the sampler's variance.

    With a `laplace` scale the noise is the discrete Laplace's, delta is 0, and sigma2 is that noise's variance.
    """

    epsilon: Annotated[float, Field(gt=0, le=64)]
    delta: Annotated[float, Field(ge=0, lt=1)]
    sigma2_numerator: Annotated[int, Field(ge=1, le=2**53)]
    sigma2_denominator: Annotated[int, Field(ge=1, le=2**31)]
    window_seconds: Annotated[int, Field(ge=1, le=limits.WINDOW_SECONDS_MAX)]
    laplace_numerator: Annotated[int, Field(ge=1, le=2**31)] | None = None
    laplace_denominator: Annotated[int, Field(ge=1, le=2**31)] | None = None

    @property
    def sigma2(self) -> float:
        """Return the variance of the noise on every count, and of the steps in which counts travel."""
        return self.sigma2_numerator / self.sigma2_denominator + (self.step**2 - 1) / 12

    @property
    def step(self) -> int:
        """Return the step in which counts travel; it is odd, so that rounding favours neither side."""
        half = 2 * STEP_SIGMAS
        return 2 * math.isqrt(self.sigma2_numerator // (half * half * self.sigma2_denominator)) + 1

    @property
    def laplace(self) -> tuple[int, int] | None:
        """Return the scale of discrete Laplace noise, as a fraction."""
        if self.laplace_numerator is None or self.laplace_denominator is None:
            return None
        return self.laplace_numerator, self.laplace_denominator

    def rho(self, signals: int) -> float:
        """Return the zero-concentrated differential privacy of a window or an own baseline: a record touches one bin in each signal.

        Gaussian noise has rho = signals / (2 sigma^2) (Canonne, Kamath, Steinke 2020). Laplace noise has epsilon = signals / scale and
        rho = epsilon^2 / 2 (Bun and Steinke 2016, proposition 1.4).
        """
        if self.laplace is not None:
            return (signals * self.laplace[1] / self.laplace[0]) ** 2 / 2
        return signals * self.sigma2_denominator / (2 * self.sigma2_numerator)

    @model_validator(mode="after")
    def _pure_or_not(self) -> Self:
        if (self.laplace_numerator is None) != (self.laplace_denominator is None):
            raise ValueError("a scale has a numerator and a denominator")
        if (self.delta == 0) != (self.laplace is not None):
            raise ValueError("delta is 0 with Laplace noise, and only with it")
        return self
