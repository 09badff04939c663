"""Measures how strongly an interval speaks against "nothing has changed": exact e-values of noisy counts. Knows one interval, and no other.

For a component with scores h_b and a number lambda, let l_b = lambda h_b - A with A = log sum_b p_b exp(lambda h_b): the log-likelihood
ratio of the reference tilted towards larger scores. For counts C of any number of rows, with the noise Z of K windows on every count,

    e = exp(sum_b l_b C_b - K sum_b log E exp(l_b Z))

has mean exactly 1 while rows follow the reference: sampling and noise are divided out by their own moment generating functions, and the
number of rows need not be known. What rows share beyond that is divided out too: a block effect u of mean m and variance P by exp(-N
lambda m - N^2 lambda^2 P / 2), and a shift too small to matter, or one that the reference cannot know of itself, by exp(-N |lambda|
tolerance).

Counts of nodes that took off their own baselines sum to nothing and follow no common distribution; theirs is exp(lambda s), over the
reference's mgf for the rows and the exact one for the fresh noise, and what each baseline got wrong for good is part of the tolerance.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hub.core.drift.between_day_variance import long_run, upper
from hub.core.drift.reference_model import Ordinary
from hub.core.publish.noise import log_mgf
from schemas.document import Fact
from schemas.limits import BINS_MAX, SIGNALS_MAX

Floats = NDArray[np.float64]

EFFECT_MIN = 0.03  # in standard deviations of a score: large samples always differ
REFERENCE_ERRORS = 2.5  # standard errors of the reference's own mean that are tolerated
# lambda in standard deviations of a score's sum: where e-values grow fastest for shifts of that many deviations an interval. With each, how
# likely the bound on T may be too small: exp(lambda^2 T / 2) forgives an error in T the less, the larger lambda is.
GRID = ((0.25, 0.1), (0.5, 0.1), (1.0, 0.1), (2.0, 0.02), (4.0, 0.001))
LAMBDAS = np.array([sign * size for sign in (1.0, -1.0) for size, _ in GRID])
DOUBTS = np.array([doubt for _ in (1, -1) for _, doubt in GRID])
COUNT_MAX = 2**53  # counts of an interval: beyond, floats skip numbers
LOG_EVIDENCE_MAX = 600.0  # one interval's: exp of it is still a number, and surer than anybody can be


class Part(Fact):
    """Hold a part of an interval: all its windows, or the late ones. Calibrated ones are differences from each node's own baseline."""

    start: Annotated[int, Field(ge=0, le=2**53)]
    seconds: Annotated[int, Field(ge=1, le=2**31)]
    windows: Annotated[int, Field(ge=1, le=2**31)]  # K
    rows: Annotated[float, Field(ge=-COUNT_MAX, le=COUNT_MAX)]  # N, estimated from noisy counts: it may be below zero
    counts: Annotated[
        tuple[Annotated[int, Field(ge=-COUNT_MAX, le=COUNT_MAX)], ...], Field(min_length=1, max_length=SIGNALS_MAX * BINS_MAX)
    ]
    calibrated: bool = False
    reference_rows: Annotated[float, Field(ge=0, le=COUNT_MAX)] = 0.0  # sum of n_i^2 / M_i
    noise_units: Annotated[float, Field(ge=0, le=COUNT_MAX)] | None = None  # sum of k_i + (n_i / M_i)^2, k_i draws of noise; else K

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.noise_units is not None and self.noise_units < self.windows:
            raise ValueError("every window carries its own noise")
        if not self.calibrated and self.reference_rows:
            raise ValueError("only calibrated windows have baselines of their own")
        return self

    def less(self, earlier: "Part") -> "Part | None":
        """Return what came after `earlier` of the same interval; None where nothing did."""
        if self.windows <= earlier.windows:
            return None
        units = None
        if self.noise_units is not None:
            units = max(float(self.windows - earlier.windows), self.noise_units - (earlier.noise_units or earlier.windows))
        return Part(
            start=self.start,
            seconds=self.seconds,
            windows=self.windows - earlier.windows,
            rows=self.rows - earlier.rows,
            counts=tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True)),
            calibrated=self.calibrated,
            reference_rows=max(0.0, self.reference_rows - earlier.reference_rows),
            noise_units=units,
        )

    @property
    def noises(self) -> float:
        """Return the noise of the counts, in windows' worth.

        That of the nodes' own baselines is in it, so that no fresh noise can be missing.
        """
        return float(self.windows) if self.noise_units is None else self.noise_units

    @property
    def own_noises(self) -> float:
        """Return the part of it that may come from the nodes' own baselines, the same in every interval; at most."""
        return self.noises - self.windows if self.calibrated else 0.0


@dataclass(frozen=True, eq=False)
class Plan:
    """Hold everything that depends on an interval's size only, for J components and L lambdas."""

    lambdas: Floats  # [J, L], of a score's sum
    tilt: Floats  # [J, L, B]: l_b
    noise: Floats  # [J, L]: sum over bins of log E exp(l_b Z), of one window
    rows: Floats  # [J, L]: A, to be taken off per row where the counts do not say the rows


@lru_cache(maxsize=256)
def plan(ordinary: Ordinary, *, windows: float, rows: float, calibrated: bool) -> Plan:
    """Return tilts for about this number of windows and rows; any are valid, these are the sharpest."""
    spread = rows + windows * ordinary.sigma2 * ordinary.noise_gain + rows * rows * innovation_variance(ordinary)
    lambdas = LAMBDAS / np.sqrt(spread)[:, None]
    exponents = lambdas[:, :, None] * ordinary.design[:, None, :]
    peak = exponents.max(axis=2, keepdims=True)
    per_row = np.log((ordinary.shares[:, None, :] * np.exp(exponents - peak)).sum(axis=2)) + peak[:, :, 0]
    inside = ordinary.gather[:, None, :] < ordinary.size
    tilt = exponents if calibrated else np.where(inside, exponents - per_row[:, :, None], 0.0)
    noise = log_mgf(tilt, ordinary.sigma2).sum(axis=2)
    return Plan(lambdas, tilt, noise, per_row)


def log_evidence(part: Part, ordinary: Ordinary, chosen: Plan, *, mean: Floats, variance: Floats, response: Floats) -> Floats:
    """Return the logarithms of the e-values, [J, L], given what the past says of the block effect.

    The past says its mean and variance, [J], and which part of a constant shift it has not taken up already, [J].
    """
    rows = max(part.rows, 0.0)
    lambdas = chosen.lambdas
    found: Floats = np.einsum("jlb,jb->jl", chosen.tilt, ordinary.binned(part.counts)) - part.noises * chosen.noise
    if part.calibrated:
        found -= rows * chosen.rows
    found -= rows * lambdas * mean[:, None] + (rows * lambdas) ** 2 * variance[:, None] * doubts(ordinary) / 2
    found -= rows * np.abs(lambdas) * (tolerance(part, ordinary) * response)[:, None]
    testable = True if part.calibrated else ordinary.known[ordinary.owner][:, None]
    return np.clip(np.where(testable, found, 0.0), -LOG_EVIDENCE_MAX, LOG_EVIDENCE_MAX)


def tolerance(part: Part, ordinary: Ordinary) -> Floats:
    """Return the shift of every component that is no drift, [J], in score units a row.

    It is the least that matters, or 2.5 standard errors of what the interval is compared with, whichever is more.
    """
    rows = max(part.rows, 1.0)
    if part.calibrated:
        own = (part.reference_rows + part.own_noises * ordinary.sigma2 * ordinary.noise_gain) / rows**2
        blocks = max(1.0, rows / part.reference_rows) if part.reference_rows > 0 else 1.0  # intervals that a node calibrated over
    else:
        own, blocks = np.full(ordinary.components, 1 / ordinary.reference_rows), float(ordinary.blocks)
    error = np.sqrt(own + ordinary.between * long_run(ordinary.rho) / blocks)
    found: Floats = np.maximum(np.maximum(EFFECT_MIN, ordinary.least), REFERENCE_ERRORS * error)
    return found


@lru_cache(maxsize=256)
def effect_variance(ordinary: Ordinary) -> Floats:
    """Return the upper 90 % bound of the block effects' variance, [J]."""
    return upper(ordinary.between, sampling=ordinary.sampling, blocks=ordinary.blocks, rho=ordinary.rho, doubt=0.1)


def innovation_variance(ordinary: Ordinary) -> Floats:
    """Return how much of it the block before does not tell, [J]."""
    return effect_variance(ordinary) * (1 - ordinary.rho**2)


@lru_cache(maxsize=256)
def doubts(ordinary: Ordinary) -> Floats:
    """Return by how much a lambda has to take a larger variance than the 90 % bound, [J, L]."""
    usual = effect_variance(ordinary)
    found = np.ones((ordinary.components, len(LAMBDAS)))
    for column, doubt in enumerate(DOUBTS):
        bound = upper(ordinary.between, sampling=ordinary.sampling, blocks=ordinary.blocks, rho=ordinary.rho, doubt=float(doubt))
        found[:, column] = np.divide(bound, usual, out=np.ones_like(usual), where=usual > 0)
    return found


def rounded(size: float) -> float:
    """Return the nearest power of the square root of two: sizes that plans are made for, few enough to keep them."""
    return float(2.0 ** (round(2 * math.log2(max(size, 1.0))) / 2))
