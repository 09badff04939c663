"""Shows several intervals as one period, and differences from nodes' own baselines as counts."""

import math
from collections.abc import Sequence

from schemas.analytics_messages import MergedWindow, SignalCounts
from schemas.manifest import Manifest


def on_reference(window: MergedWindow, manifest: Manifest) -> MergedWindow:
    """Return the window as counts: differences from nodes' own baselines are put on top of what the reference expects of its rows."""
    if not window.calibrated or manifest.baseline is None:
        return window
    key, found = manifest.baseline.key_of(window.start), []
    for counted, signal in zip(window.signals, manifest.baseline.signals, strict=True):
        reference = signal.reference(key)
        expected = [window.rows * count / (sum(reference) or 1) for count in reference]
        counts = tuple(round(center) + change for center, change in zip(expected, counted.counts, strict=True))
        found.append(counted.model_copy(update={"counts": counts, "expected": tuple(round(one, 2) for one in expected)}))
    return window.model_copy(update={"signals": tuple(found), "calibrated": None, "reference_rows": None})


def together(parts: Sequence[MergedWindow]) -> MergedWindow | None:
    """Add up intervals of one release and cohort to one that begins with the first and ends with the last; None where there are none.

    Noise of separate windows is independent: its variances add, as the counts do. Counts and differences do not: of both, those of more
    nodes are taken.
    """
    if not parts:
        return None
    plain, calibrated = [part for part in parts if not part.calibrated], [part for part in parts if part.calibrated]
    parts = max(plain, calibrated, key=lambda some: sum(part.windows for part in some))
    first, last = min(parts, key=lambda one: one.start), max(parts, key=lambda one: one.start + one.seconds)
    signals = tuple(
        SignalCounts(
            name=signal.name,
            kind=signal.kind,
            edges=signal.edges,
            categories=signal.categories,
            counts=tuple(sum(column) for column in zip(*(part.signals[at].counts for part in parts), strict=True)),
            expected=tuple(round(sum(column), 2) for column in zip(*(part.signals[at].expected for part in parts), strict=True)),
        )
        for at, signal in enumerate(first.signals)
    )
    return first.model_copy(
        update={
            "seconds": last.start + last.seconds - first.start,
            "windows": sum(part.windows for part in parts),
            "rows": sum(part.rows for part in parts),
            "noise_sd": math.sqrt(sum(part.noise_sd**2 for part in parts)),
            "signals": signals,
            "left_out": sum(part.left_out or 0 for part in parts) or None,
        }
    )
