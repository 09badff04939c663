"""Whether signals should share the budget unequally, at the same cost in privacy: by a publisher's guess, or by what is suspected.

A record moves one bin of each signal by one, so noise of variances sigma_j^2 costs rho = sum_j 1 / (2 sigma_j^2) in zCDP (Bun and Steinke
2016, and Canonne, Kamath, Steinke 2020 for the discrete Gaussian). A signal with the share w_j of it gets sigma_j^2 = sigma^2 / (d w_j),
with sigma^2 what each of d equal ones has. Epsilon at a given delta is the same as of equal shares up to the discreteness of the noise, for
it depends on rho alone. What the hub suspects is known before the noise is drawn, so e-values stay e-values whatever it chooses.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bench import drift_ours as ours
from bench import drift_streams as streams
from hub.core.drift import detector, e_values
from hub.core.drift.reference_model import Ordinary
from hub.core.publish.noise import log_mgf

WRONG = (2, 3, 4)  # signals that do not shift
SUSPECTS = 3
LOG_SUSPICION = float(np.log(10.0))  # of a signal's own evidence, from which the budget leans towards it
REPEATS = 15

Shares = NDArray[np.float64]
Choice = Callable[[ours.Stream], Ordinary]


def variants() -> Iterator[tuple[str, str, Callable[[int], dict[str, float]]]]:
    """Each with its name, what it is, and its median delays for so many nodes at epsilon 1."""
    guessed = "half of the budget for three signals, "
    yield "share-guessed", guessed + "guessed right before it shifts", lambda nodes: delays(nodes, lambda: _guessed(streams.SHIFTED))
    yield "share-guessed-wrong", guessed + "guessed wrong", lambda nodes: delays(nodes, lambda: _guessed(WRONG))
    yield "share-suspected", guessed + "the most suspected, once one is at 10 to 1", lambda nodes: delays(nodes, lambda: _Suspected(0.5))
    suspected = "three quarters for the three most suspected, once one is at 10 to 1"
    yield "share-suspected-more", suspected, lambda nodes: delays(nodes, lambda: _Suspected(0.75))
    yield "share-suspected-late", suspected + ", heard of a window later", lambda nodes: delays(nodes, lambda: _Suspected(0.75, late=True))


def false_alarms(nodes: int = 10, windows: int = ours.FALSE_ALARM_WINDOWS) -> float:
    """Alarms per 1,000 windows without drift, with three quarters of the budget for the most suspected."""
    rows, rng = streams.shuffled(7), np.random.default_rng(nodes)
    choose, found = _Suspected(0.75), 0
    with _by_signal():
        stream = ours.Stream(_allotted(()))
        for at in range(windows):
            stream.reference = choose(stream)
            counts = streams.counted(rows.bins[rng.integers(0, len(rows.pool), nodes * streams.NODE_ROWS)], stream.reference.size)
            found += stream.step(ours.plain(counts + _noise(rng, stream.reference, nodes), start=at, windows=nodes, signals=_signals()))
    return 1000 * found / windows


def delays(nodes: int, chooser: Callable[[], Choice]) -> dict[str, float]:
    """As `ours.delays`, with noise that is chosen before every window."""
    rows = streams.shuffled(7)
    found = {}
    with _by_signal():
        for shift in ours.SHIFTS:
            moved = rows.pool.copy()
            for column in streams.SHIFTED:
                moved[:, column] += shift * rows.reference[:, column].std()
            found[str(shift)] = _median_delay(rows, nodes, chooser, streams.binned(rows.baseline, moved), 1.0)
        frame = streams.joined()
        july = streams.binned(rows.baseline, frame[frame.month == 7][list(streams.FEATURES)].to_numpy(np.float64))
        found["season"] = _median_delay(rows, nodes, chooser, july, ours.SEASON_SHARE)
    return found


def _median_delay(rows: streams.Rows, nodes: int, chooser: Callable[[], Choice], moved: ours.Ints, share: float) -> float:
    rng, total, found = np.random.default_rng(nodes), nodes * streams.NODE_ROWS, []
    for _ in range(REPEATS):
        stream, choose, delay = ours.Stream(_allotted(())), chooser(), ours.DELAY_MAX + 1
        for at in range(ours.WARM_UP + ours.DELAY_MAX):
            stream.reference = choose(stream)
            mine = round(share * total) if at >= ours.WARM_UP else 0
            drawn = [rows.bins[rng.integers(0, len(rows.pool), total - mine)], moved[rng.integers(0, len(moved), mine)]]
            counts = streams.counted(np.concatenate(drawn), stream.reference.size) + _noise(rng, stream.reference, nodes)
            if stream.step(ours.plain(counts, start=at, windows=nodes, signals=_signals())) and at >= ours.WARM_UP:
                delay = at - ours.WARM_UP + 1
                break
        found.append(delay)
    return float(np.median(found))


def _guessed(favoured: Sequence[int]) -> Choice:
    return lambda stream: _allotted(tuple(favoured))


class _Suspected:
    """The signals with the most evidence so far, unless nothing has reached the threshold; or what was so a window ago."""

    def __init__(self, share: float, *, late: bool = False) -> None:
        self._share, self._late, self._before = share, late, _allotted(())

    def __call__(self, stream: ours.Stream) -> Ordinary:
        known = stream.reference
        own = detector._cells(stream.state)[0].max(axis=1)  # an experiment with the product's insides
        worst = np.array([own[known.owner == signal].max() for signal in range(_signals())])
        suspects = tuple(sorted(np.argsort(-worst)[:SUSPECTS].tolist())) if worst.max() > LOG_SUSPICION else ()
        now, self._before, before = _allotted(suspects, self._share), _allotted(suspects, self._share), self._before
        return before if self._late else now


def _signals() -> int:
    return len(streams.FEATURES)


@cache
def _allotted(favoured: tuple[int, ...], share: float = 0.5) -> Ordinary:
    """What is ordinary when these signals have this share of the budget: `sigma2` is an array, [J], in place of a number."""
    known = streams.shuffled(7).ordinary(1.0)
    shares = np.full(_signals(), 1 / _signals())
    if favoured:
        shares[:] = (1 - share) / (_signals() - len(favoured))
        shares[list(favoured)] = share / len(favoured)
    assert abs(shares.sum() - 1) < 1e-12  # the same rho
    return replace(known, sigma2=known.sigma2 / (_signals() * shares)[known.owner])  # type: ignore[arg-type]


def _noise(rng: np.random.Generator, known: Ordinary, windows: int) -> ours.Ints:
    variance = np.zeros(known.size + 1)
    variance[known.gather] = np.asarray(known.sigma2)[:, None]
    return np.round(rng.normal(0, 1, known.size) * np.sqrt(windows * variance[:-1])).astype(np.int64)


@contextmanager
def _by_signal() -> Iterator[None]:
    """The noise's moment generating function, of a variance a component."""

    def by_component(tilt: NDArray[np.float64], sigma2: Shares) -> NDArray[np.float64]:
        return np.stack([log_mgf(one, float(variance)) for one, variance in zip(tilt, sigma2, strict=True)])

    before = e_values.log_mgf
    try:
        e_values.log_mgf = by_component  # type: ignore[assignment]
        yield
    finally:
        e_values.log_mgf = before
