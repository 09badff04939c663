"""Treats accuracy as one more signal: counts of right and wrong answers by interval, where a site learns the truth later. Knows no label.

Two ordered bins, wrong below right, so that "lower" means a model that errs more. Tested by the same machinery as every other signal: what
comes weeks late is one more factor of its own interval.

A release's accuracy is a stream of its own beside that of its signals, since its windows come at another time, are of another length and
carry other noise. All that reads, tests and shows windows takes a manifest and a release's digest; for accuracy it is given the manifest of
that alone (`of_accuracy`), under a name that stands for it (`stream_of`).
"""

import math
from collections.abc import Sequence

import numpy as np

from hub.core.drift.between_day_variance import autocorrelation, between_blocks
from hub.core.drift.scores import reference_shares, scores_of
from hub.core.drift.windows import SIGMAS_MAX, Taken
from schemas.accuracy import About
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.signals import Baseline, Privacy, Signal

NAME = "accuracy"


def accuracy_baseline(blocks: Sequence[tuple[int, int]]) -> Baseline:
    """Return the reference of right and wrong answers; `blocks` are (right, wrong) by day or batch of the held-out rows, in their order.

    Raises:
        ValueError: no answers, or fewer than none.
    """
    counts = np.array(blocks, np.int64).reshape(-1, 2)
    if (counts < 0).any() or not counts.sum():
        raise ValueError(f"expected counts of right and wrong answers, found {list(blocks)[:4]}")
    counts = counts[counts.sum(axis=1) > 0]
    binned = np.column_stack([counts[:, 1], counts[:, 0], np.zeros(len(counts), np.int64)])
    sizes = counts.sum(axis=1).astype(np.float64)
    between: tuple[float, ...] = ()
    rho = None
    if len(counts) > 1:
        means = binned @ scores_of("numeric", reference_shares(binned.sum(axis=0).astype(np.float64))) / sizes[:, None]
        between = tuple(between_blocks(means, sizes).ravel().tolist())
        rho = round(autocorrelation([means], sizes), 4)
    signal = Signal(
        name=NAME, kind="numeric", side="output", tensor=NAME, edges=(0.5,), counts=tuple(binned.sum(axis=0).tolist()), between=between
    )
    return Baseline(rows=int(counts.sum()), blocks=len(counts), autocorrelation=rho, signals=(signal,))


# The stream


def stream_of(release: bytes) -> bytes:
    """Return the name under which the accuracy of a release is followed, as its signals are under its own digest; 32 bytes."""
    return sha256(b"accuracy of " + release)


def of_accuracy(manifest: Manifest) -> Manifest:
    """Return the release as if its accuracy were all that is watched.

    Raises:
        Refused: WINDOW_ACCURACY: it has no reference of right and wrong answers.
    """
    if manifest.accuracy is None:
        raise Refused(Code.WINDOW_ACCURACY, f"{manifest.model} {manifest.version} has no reference of right and wrong answers")
    return manifest.model_copy(update={"baseline": manifest.accuracy.baseline, "privacy": manifest.accuracy.privacy})


def about(manifest: Manifest) -> About | None:
    """Return what the windows are about that are read by this manifest."""
    return "accuracy" if manifest.accuracy is not None and manifest.baseline is manifest.accuracy.baseline else None


def check_answers(taken: Taken, privacy: Privacy) -> None:
    """Check that a window holds right and wrong answers and nothing else.

    Raises:
        Refused: WINDOW_ABSURD: "other" is more than noise.
    """
    other, most = int(taken.counts[-1]), SIGMAS_MAX * math.sqrt(taken.noise_units * privacy.sigma2)
    if abs(other) > most:
        raise mismatch(Code.WINDOW_ABSURD, "answers that are neither right nor wrong", expected=f"0 ± {most:.0f}", actual=other)


def shares_in_words(counts: Sequence[int], manifest: Manifest) -> str:
    """Return how many answers of an interval were right, and how many in the reference, to end a sentence.

    The text is empty where the release is about anything but accuracy.
    """
    if about(manifest) is None or manifest.baseline is None or counts[0] + counts[1] < 1:
        return ""
    wrong, right, _ = counts
    expected = manifest.baseline.signals[0].counts
    seen = min(1.0, max(0.0, right / (wrong + right)))
    return f"; {100 * seen:.0f} % of answers right, {100 * expected[1] / sum(expected):.0f} % in the reference"
