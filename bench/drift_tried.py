"""What was tried to find shifts sooner, each beside what is delivered: other grids of lambda, other weights, other bins, other budgets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from bench import drift_allocation
from bench import drift_ours as ours
from bench import drift_streams as streams
from hub.core.drift import detector, e_values
from hub.core.drift.reference_model import Ordinary

REPEATS = 15
Grid = tuple[tuple[float, float], ...]
PROTOTYPE: Grid = ((0.25, 0.1), (0.5, 0.1), (1.0, 0.1), (2.0, 0.02))
FINE: Grid = tuple((0.25 * 2 ** (step / 2), 0.1 if step < 5 else 0.02 if step < 8 else 0.001) for step in range(9))
WIDE: Grid = (*e_values.GRID, (8.0, 0.0001))


def variants() -> Iterator[tuple[str, str, Callable[[int], dict[str, float]]]]:
    """Each with its name, what it is, and its median delays for so many nodes at epsilon 1."""
    yield (
        "delivered",
        "delivered: lambda 1/4 to 4, half a signal's weight to its rank, 8 bins, 12 signals",
        lambda nodes: ours.delays(nodes, repeats=REPEATS),
    )
    yield "lambda-to-2", "lambda 1/4 to 2", lambda nodes: _with_grid(PROTOTYPE, nodes)
    yield "lambda-fine", "lambda 1/4 to 4 in steps of sqrt 2", lambda nodes: _with_grid(FINE, nodes)
    yield "lambda-to-8", "lambda 1/4 to 8", lambda nodes: _with_grid(WIDE, nodes)
    yield "weights-alike", "all components of one weight", lambda nodes: ours.delays(nodes, repeats=REPEATS, alter=_alike)
    yield "ranks-only", "rank scores only", lambda nodes: ours.delays(nodes, repeats=REPEATS, alter=_ranks)
    for bins in (4, 6, 16):
        rows = streams.shuffled(7, bins=bins)
        yield f"bins-{bins}", f"{bins} bins", lambda nodes, rows=rows: ours.delays(nodes, repeats=REPEATS, rows=rows)  # type: ignore[misc]
    few = tuple(streams.FEATURES[column] for column in streams.SHIFTED)
    yield (
        "three-signals",
        "only the three that shift are watched",
        lambda nodes: ours.delays(nodes, repeats=REPEATS, rows=streams.shuffled(7, features=few), columns=range(3)),
    )
    yield "no-tolerance", "no tolerance (not honest: large samples always drift)", _without_tolerance
    yield from drift_allocation.variants()


def _alike(known: Ordinary) -> Ordinary:
    return replace(known, log_weights=np.full(known.components, -np.log(known.components)))


def _ranks(known: Ordinary) -> Ordinary:
    weights = np.where(known.rank == 0, 1 / len(known.names), 1e-300)
    return replace(known, log_weights=np.log(weights))


def _with_grid(grid: Grid, nodes: int) -> dict[str, float]:
    lambdas = np.array([sign * size for sign in (1.0, -1.0) for size, _ in grid])
    with _patched(lambdas, np.array([doubt for _ in (1, -1) for _, doubt in grid]), e_values.EFFECT_MIN):
        return ours.delays(nodes, repeats=REPEATS)


def _without_tolerance(nodes: int) -> dict[str, float]:
    with _patched(e_values.LAMBDAS, e_values.DOUBTS, 0.0):
        return ours.delays(nodes, repeats=REPEATS)


@contextmanager
def _patched(lambdas: np.ndarray, doubts: np.ndarray, effect_min: float) -> Iterator[None]:
    """The product's constants, changed for an experiment."""
    before = (e_values.LAMBDAS, e_values.DOUBTS, e_values.EFFECT_MIN)
    try:
        e_values.LAMBDAS = detector.LAMBDAS = lambdas
        e_values.DOUBTS, e_values.EFFECT_MIN = doubts, effect_min
        _forget()
        yield
    finally:
        e_values.LAMBDAS = detector.LAMBDAS = before[0]
        e_values.DOUBTS, e_values.EFFECT_MIN = before[1:]
        _forget()


def _forget() -> None:
    e_values.plan.cache_clear()
    e_values.doubts.cache_clear()
