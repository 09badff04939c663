"""Draw exact discrete Gaussian noise and what it costs. Integers and given random bytes only on the sampling path: floats leak through
rounding.

Sampler: Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020), algorithms 1 to 3. Ours, and not
OpenDP's, because that library is 264 MB on a device.
"""

import math
from collections.abc import Callable
from math import isqrt

DAY_SECONDS = 86_400
_WORDS = 512  # 64-bit words taken from the source at once


class BitSource:
    """Draw unbiased integers from a source of random bytes, such as `os.urandom`."""

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self._words: list[int] = []
        self._kept = 0
        self._bits = 0

    def bits(self, count: int) -> int:
        """Return `count` random bits."""
        while self._bits < count:
            if not self._words:
                self._words = memoryview(self._source(8 * _WORDS)).cast("Q").tolist()
            self._kept |= self._words.pop() << self._bits
            self._bits += 64
        value = self._kept & ((1 << count) - 1)
        self._kept >>= count
        self._bits -= count
        return value

    def below(self, bound: int) -> int:
        """Return a uniform draw of 0 .. bound - 1."""
        count = (bound - 1).bit_length()
        while True:
            value = self.bits(count)
            if value < bound:
                return value


def discrete_gaussian(n: int, sigma2: tuple[int, int], bits: BitSource) -> list[int]:
    """Return `n` draws with P(x) proportional to exp(-x^2 / (2 sigma^2)); `sigma2` is the variance as numerator and denominator."""
    numerator, denominator = sigma2
    scale = isqrt(numerator // denominator) + 1
    spread = 2 * numerator * denominator * scale * scale
    found: list[int] = []
    while len(found) < n:
        draw = _discrete_laplace(scale, bits)
        excess = abs(draw) * scale * denominator - numerator  # accept with exp(-(|y| - sigma^2/t)^2 / (2 sigma^2))
        if _bernoulli_exp(excess * excess, spread, bits):
            found.append(draw)
    return found


def discrete_laplace(n: int, scale: tuple[int, int], bits: BitSource) -> list[int]:
    """Return `n` draws with P(x) proportional to exp(-|x| / scale); `scale` is a fraction as numerator and denominator (algorithm 2)."""
    numerator, denominator = scale
    found: list[int] = []
    while len(found) < n:
        size = _geometric(numerator, bits) // denominator
        negative = bits.bits(1)
        if not (negative and size == 0):  # zero would otherwise be twice as likely
            found.append(-size if negative else size)
    return found


def noise(n: int, sigma2: tuple[int, int], laplace: tuple[int, int] | None, bits: BitSource) -> list[int]:
    """Return `n` draws of what a manifest asks for: the discrete Laplace where a scale is given, else the discrete Gaussian."""
    return discrete_gaussian(n, sigma2, bits) if laplace is None else discrete_laplace(n, laplace, bits)


def _discrete_laplace(scale: int, bits: BitSource) -> int:
    while True:
        size = _geometric(scale, bits)
        negative = bits.bits(1)
        if not (negative and size == 0):
            return -size if negative else size


def _geometric(scale: int, bits: BitSource) -> int:
    """Return a draw with P(x) proportional to exp(-x / scale), x >= 0."""
    while True:
        first = bits.below(scale)
        if not _bernoulli_exp_small(first, scale, bits):
            continue
        rounds = 0
        while _bernoulli_exp_small(1, 1, bits):
            rounds += 1
        return first + scale * rounds


def _bernoulli_exp(numerator: int, denominator: int, bits: BitSource) -> bool:
    """Return True with probability exp(-numerator/denominator)."""
    while numerator > denominator:
        if not _bernoulli_exp_small(1, 1, bits):
            return False
        numerator -= denominator
    return _bernoulli_exp_small(numerator, denominator, bits)


def _bernoulli_exp_small(numerator: int, denominator: int, bits: BitSource) -> bool:
    """Return the same for an exponent between 0 and 1."""
    rounds = 1
    while bits.below(denominator * rounds) < numerator:
        rounds += 1
    return rounds & 1 == 1


def epsilon_of(rho: float, delta: float) -> float:
    """Return the smallest epsilon that rho-zCDP gives at `delta` (Canonne, Kamath, Steinke 2020, corollary 13), by ternary search over
    alpha.
    """

    def at(alpha: float) -> float:
        return rho * alpha + (math.log(1 / delta) + (alpha - 1) * math.log1p(-1 / alpha) - math.log(alpha)) / (alpha - 1)

    low, high = math.log(1e-6), math.log(1e9)  # Bounds of alpha - 1.
    for _ in range(200):
        third = (high - low) / 3
        if at(1 + math.exp(low + third)) < at(1 + math.exp(high - third)):
            high -= third
        else:
            low += third
    return max(0.0, at(1 + math.exp(low)))


def day_of(start_seconds: int) -> int:
    """Return the day, counted from 1970 in UTC, that a moment falls into."""
    return start_seconds // DAY_SECONDS


def days_of(start_seconds: int, seconds: int) -> range:
    """Return every day that an interval touches: each of them pays for it."""
    return range(day_of(start_seconds), day_of(start_seconds + seconds - 1) + 1)
