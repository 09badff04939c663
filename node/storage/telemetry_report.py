"""Report what telemetry sent about this device and what it spent: read off the store, decoded by the release's own manifest."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from node.core.telemetry import privacy
from node.storage.store import NodeStore
from schemas import codec
from schemas.manifest import Manifest
from schemas.signals import Baseline, Privacy
from schemas.window import Expectation, Window, read_counts

DELTA = 1e-6  # at which a day's epsilon is stated
KINDS = ("window", "labels", "baseline")  # first words of what the ledger's entries say that they are for
FindManifest = Callable[[bytes], Manifest | None]


def windows(store: NodeStore, manifest_of: FindManifest, *, limit: int) -> Iterator[dict[str, Any]]:
    """Return the newest windows that left or wait to leave, byte for byte and decoded.

    `manifest_of` finds a release by the first bytes of its digest; without it the counts stay undecoded.
    """
    answers = {one.release[:8]: (one.accuracy.baseline, one.accuracy.privacy) for one in store.declared()}
    for _, topic, payload, sent in store.outbox_payloads("window", limit):
        window = codec.decode(Window, payload)
        watched = _watched(manifest_of(window.release)) if window.about is None else answers.get(window.release)
        yield {
            "topic": topic,
            "sent": sent,
            "start": _time(window.start),
            "seconds": window.seconds,
            "release": window.release.hex(),
            "about": window.about or "signals",
            "windows": window.noises,
            "rows_noisy": window.rows,
            "own_baseline_rows": None if window.own_rows_log2 is None else 1 << window.own_rows_log2,
            "bytes": len(payload),
            "payload_hex": payload.hex(),
            "signals": None if watched is None else _signals(window, *watched),
        }


def _watched(manifest: Manifest | None) -> tuple[Baseline, Privacy] | None:
    if manifest is None or manifest.baseline is None or manifest.privacy is None:
        return None
    return manifest.baseline, manifest.privacy


def _signals(window: Window, baseline: Baseline, noise: Privacy) -> list[dict[str, Any]]:
    counts = read_counts(window, expectation=Expectation(baseline), privacy=noise, bins=baseline.bins).tolist()
    found, at = [], 0
    for signal in baseline.signals:
        found.append({"name": signal.name, "counts": counts[at : at + signal.bins], "bins": _bins(signal.edges, signal.categories)})
        at += signal.bins
    return found


def _bins(edges: tuple[float, ...], categories: tuple[float | str, ...]) -> list[str]:
    if categories:
        return [*map(str, categories), "other"]
    ends = [f"{edge:.6g}" for edge in edges]
    return [f"below {ends[0]}", *(f"{low} to {high}" for low, high in pairwise(ends)), f"{ends[-1]} or more", "other"]


def spent(store: NodeStore, *, rho_day_max: float) -> list[dict[str, Any]]:
    """Return what each day has spent, as zCDP rho and as epsilon: of one record in one window, and of all that the device sent about the
    day.
    """
    of_records: dict[int, float] = {}
    counted: dict[int, int] = {}
    for day, by_model in _charged(store).items():
        # A record is in one window of its model, in one of labels, and in the own baseline if that was gathered from its day.
        of_records[day] = max(
            max(rhos["window"], default=0.0) + max(rhos["labels"], default=0.0) + sum(rhos["baseline"]) for rhos in by_model.values()
        )
        counted[day] = sum(len(rhos["window"]) + len(rhos["labels"]) for rhos in by_model.values())
    return [
        {
            "day": _time(day * privacy.DAY_SECONDS)[:10],
            "rho": rho,
            "rho_day_max": rho_day_max,
            "windows": counted.get(day, 0),
            "epsilon_record_window": _epsilon(of_records.get(day, 0.0)),
            "epsilon_day": _epsilon(rho),
            "delta": DELTA,
        }
        for day, rho in store.spent_days().items()
    ]


def _charged(store: NodeStore) -> dict[int, dict[str, dict[str, list[float]]]]:
    """Charges by day, model and kind."""
    found: dict[int, dict[str, dict[str, list[float]]]] = {}
    for entry in store.ledger()[1]:
        kind, model, *_ = [*entry.what.split(), "", ""]
        for day in entry.days if kind in KINDS else ():
            found.setdefault(day, {}).setdefault(model, {one: [] for one in KINDS})[kind].append(entry.rho)
    return found


def kept_back(store: NodeStore) -> dict[str, Any]:
    """Return what did not leave, and what could not be counted as it should: these numbers stay here."""
    return {
        "withheld_windows": dict(Counter(store.withheld()) + Counter(store.withheld_labels())),
        "labels_waiting": [
            {"model": model, "version": version, "from": _time(start), "right": right, "wrong": wrong, "leaves_at": _time(due)}
            for model, version, start, right, wrong, due in store.labels_waiting()
        ],
        "merged_windows": store.fact("windows_merged"),
        "dropped_windows": store.fact("windows_dropped"),
        "late_intervals": store.count_late(),
        "odd_rows": [
            {"day": _time(day * privacy.DAY_SECONDS)[:10], "model": model, "code": code, "rows": n} for day, model, code, n in store.odd()
        ],
        "ledger_entries": store.ledger_end().number,
        "quiet_until": _time(store.fact("ledger_quiet_until")) if store.fact("ledger_quiet_until") else None,
    }


def released(store: NodeStore, read: FindManifest) -> FindManifest:
    """Find the manifest of a release that windows came of; what is gone from the disk is None."""
    digests = {digest[:8]: digest for _, digest, *_ in store.windows(1000)}

    def find(prefix: bytes) -> Manifest | None:
        return read(digests[prefix]) if prefix in digests else None

    return find


def _epsilon(rho: float) -> float:
    return privacy.epsilon_of(rho, DELTA) if rho else 0.0


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
