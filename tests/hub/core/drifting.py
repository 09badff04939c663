"""References and intervals of made-up signals, for tests of what the hub's core says of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hub.core.drift.between_day_variance import autocorrelation, between_blocks
from hub.core.drift.e_values import Part
from hub.core.drift.reference_model import Ordinary, of_signals
from hub.core.drift.scores import reference_shares, scores_of
from schemas.signals import Signal

BINS = 8  # ordinary ones; "other" is the ninth
SECONDS = 3600


def signal(name: str, counts: Sequence[int], *, between: Sequence[float] = (), kind: str = "numeric") -> Signal:
    """A signal whose reference has these counts, "other" last."""
    edges = tuple(float(one) for one in range(len(counts) - 2)) if kind == "numeric" else ()
    categories = tuple(f"c{one}" for one in range(len(counts) - 1)) if kind == "categorical" else ()
    return Signal(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        side="input",
        tensor="X",
        edges=edges,
        categories=categories,
        counts=tuple(int(one) for one in counts),
        between=tuple(between),
    )


def flat(signals: int, *, rows: int = 20_000, sigma2: float = 0.0) -> Ordinary:
    """Equal shares, no blocks."""
    return of_signals([signal(f"s{j}", [rows // BINS] * BINS + [0]) for j in range(signals)], rows=rows, blocks=1, rho=0.0, sigma2=sigma2)


def drawn(rng: np.random.Generator, effects: NDArray[np.float64], rows: int) -> NDArray[np.int64]:
    """Counts [..., signals, bins] of rows whose scores have these means, [..., signals, 4]."""
    scores = scores_of("numeric", np.append(np.full(BINS, (1 - 1e-9) / BINS), 1e-9))[:BINS, [0, 2, 3, 4]]
    shares = np.exp(effects @ scores.T)
    counts = rng.multinomial(rows, shares / shares.sum(axis=-1, keepdims=True))
    return np.concatenate([counts, np.zeros((*counts.shape[:-1], 1), np.int64)], axis=-1)


def dependent(rng: np.random.Generator, blocks: int, rho: float, signals: int, spread: float) -> NDArray[np.float64]:
    """Block effects [blocks, signals, 4]: a first-order autoregression of this standard deviation."""
    found = np.empty((blocks, signals, 4))
    found[0] = rng.standard_normal((signals, 4))
    for at in range(1, blocks):
        found[at] = rho * found[at - 1] + np.sqrt(1 - rho * rho) * rng.standard_normal((signals, 4))
    return spread * found


def with_blocks(counts: NDArray[np.int64], rows: int, *, sigma2: float = 0.0) -> Ordinary:
    """The reference that a publisher makes of blocks [blocks, signals, bins] of so many rows each."""
    blocks, signals, _ = counts.shape
    sizes, means, made = np.full(blocks, float(rows)), [], []
    for j in range(signals):
        total = counts[:, j].sum(axis=0)
        means.append(counts[:, j] @ scores_of("numeric", reference_shares(total.astype(np.float64))) / rows)
        made.append(signal(f"s{j}", total.tolist(), between=between_blocks(means[-1], sizes).ravel().tolist()))
    return of_signals(made, rows=blocks * rows, blocks=blocks, rho=autocorrelation(means, sizes), sigma2=sigma2)


def part(counts: NDArray[np.int64], *, start: int = 0, windows: int = 1) -> Part:
    """An interval of these counts, [signals, bins]."""
    return Part(
        start=start * SECONDS,
        seconds=SECONDS,
        windows=windows,
        rows=float(counts.sum() / len(counts)),
        counts=tuple(counts.ravel().tolist()),
    )


def noise(rng: np.random.Generator, sigma2: float, windows: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The sum of so many windows' discrete Gaussian noise, drawn from the exact mass function."""
    reach = int(12 * np.sqrt(sigma2)) + 1
    values = np.arange(-reach, reach + 1)
    mass = np.exp(-(values**2) / (2 * sigma2))
    drawn_ = rng.choice(values, size=(windows, *shape), p=mass / mass.sum())
    return np.asarray(drawn_.sum(axis=0), np.int64)
