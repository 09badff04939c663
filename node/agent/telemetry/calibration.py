"""Make the node's own baseline: gathered over a calibration, noised once, kept, and charged once.

- A new release: what is counted of its inputs the same way keeps its baseline; of outputs and of the service, which are the release's
  own, a new one is gathered, and only that is charged for.
- Hours of the week: a signal that has a reference for each is kept as its difference from the reference of the hours in which it was
  gathered, so that a baseline of days is none against a night.
- A new cohort, which is a new site: all is gathered anew.
- A lost disk: the same; the windows in between carry counts, as in any calibration.
"""

import json
from collections.abc import Sequence

import numpy as np
import structlog

from node.agent.telemetry.privacy_accountant import PrivacyAccountant
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import Gathering, Own, bins_of_rows, noisy, of_rows_many, rows_in, usual_of
from node.storage.store import NodeStore
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.signals import Baseline, Privacy, Season, Signal

log = structlog.get_logger()


class Calibration:
    """Make the own baseline of one release on this node. All that writes runs in the caller's transaction."""

    def __init__(
        self, store: NodeStore, accountant: PrivacyAccountant, digest: bytes, manifest: Manifest, *, cohort: str, bits: BitSource
    ) -> None:
        if manifest.baseline is None or manifest.privacy is None:
            raise ValueError("a release without signals has no baseline")
        self._store, self._accountant, self._digest, self._bits = store, accountant, digest, bits
        self._model = manifest.model
        self._baseline: Baseline = manifest.baseline
        self._privacy: Privacy = manifest.privacy
        self._logged_day: int | None = None
        self._keys = [_key(signal, self._baseline.season, cohort, digest) for signal in self._baseline.signals]

    @property
    def gathers(self) -> bool:
        """Return whether there is to be an own baseline, and is none yet."""
        return self._baseline.calibration_rows is not None and self.own() is None

    def own(self) -> Own | None:
        """Return the own baseline; None while a signal has none, or none is asked for."""
        if self._baseline.calibration_rows is None:
            return None
        found = self._store.own(self._keys)
        if any(key not in found for key in self._keys):
            return None
        kept = [(signal, *found[key]) for key, signal in zip(self._keys, self._baseline.signals, strict=True)]
        counts = [count for _, own, _, _ in kept for count in own]
        of = [rows for signal, _, rows, _ in kept for _ in range(signal.bins)]
        usual = None
        if self._baseline.season is not None:
            usual = np.array([count for signal, _, rows, hours in kept for count in usual_of(signal, rows, hours or [1])], np.int64)
        return Own(np.array(counts, np.int64), np.array(of, np.int64), usual)

    def gather(self, counts: Sequence[int], rows: int, days: Sequence[int], start: int) -> None:
        """Add one more window's exact counts, and `rows` by its noisy ones; the baseline is made when they are enough.

        A day that cannot pay for its records' part in the baseline takes no part in it.
        """
        wanted = self._baseline.calibration_rows
        missing = [] if wanted is None else self._missing()
        if wanted is None or not missing:
            return
        document = self._store.gathering(self._model, self._digest)
        keys = 0 if self._baseline.season is None else self._baseline.season.keys
        gathered = None if document is None else _read(document)
        earlier = gathered is not None and not gathered.once and any(one.is_of_request for one in self._baseline.signals)
        if gathered is None or earlier or len(gathered.hours) != keys:  # an earlier program's counted otherwise, or kept no hours apart
            gathered = Gathering((0,) * len(counts), hours=(0,) * keys)
        rho = self._privacy.rho(len(missing))
        new = [day for day in days if day not in gathered.days]
        if new and not self._accountant.affords(new, rho):
            self._log_unaffordable(new[0], rho)
            return
        if new:
            self._accountant.charge(new, rho, f"baseline {self._model} {self._digest[:8].hex()}")
        gathered = gathered.plus(counts, rows, days, self._baseline.key_of(start))
        if gathered.rows < wanted:
            self._store.put_gathering(self._model, self._digest, _written(gathered))
            return
        self._make(gathered, missing)
        self._store.put_gathering(self._model, self._digest, None)

    def _make(self, gathered: Gathering, missing: Sequence[int]) -> None:
        begins = np.cumsum([0, *(signal.bins for signal in self._baseline.signals)])
        exact = [gathered.counts[begins[number] : begins[number + 1]] for number in missing]
        found = noisy([count for counts in exact for count in counts], self._privacy, self._bits)
        signals = [self._baseline.signals[number] for number in missing]
        of_rows = bins_of_rows(signals)
        rows = max(1, rows_in(found[of_rows], of_rows_many(signals)))
        requests = rows if of_rows.all() else max(1, rows_in(found[~of_rows], len(signals) - of_rows_many(signals)))
        at, kept = 0, []
        for number, counts in zip(missing, exact, strict=True):
            mine = rows if of_rows[at] else requests
            kept.append((self._keys[number], found[at : at + len(counts)].tolist(), mine, gathered.hours))
            at += len(counts)
        self._store.put_own(kept)
        log.info("baseline.made", model=self._model, signals=len(missing), rows=rows)

    def _log_unaffordable(self, day: int, rho: float) -> None:
        """Log once a day, as loud as it is lasting: a day that pays for a window and the baseline will come, or never does."""
        if day == self._logged_day:
            return
        self._logged_day = day
        window = self._privacy.rho(len(self._baseline.signals))
        never = window + rho > self._accountant.rho_day_max
        level = log.warning if never else log.info
        level(
            "baseline.unaffordable",
            model=self._model,
            day=day,
            rho_window=round(window, 4),
            rho_baseline=round(rho, 4),
            rho_day_max=self._accountant.rho_day_max,
            ever="never" if never else "on another day",
        )

    def _missing(self) -> list[int]:
        """Return numbers of the signals that have no own baseline."""
        found = self._store.own(self._keys)
        return [number for number, key in enumerate(self._keys) if key not in found]


def _key(signal: Signal, season: Season | None, cohort: str, digest: bytes) -> bytes:
    """Return the key of a signal: inputs are the site's, whatever release counts them the same way; all else is the release's."""
    owner = b"" if signal.side == "input" else digest
    hours = () if season is None or signal.seasons is None else (season.hours, season.weekends, season.offset_minutes)
    counted = (cohort, signal.binning, hours) if hours else (cohort, signal.binning)
    if signal.is_of_request:
        counted = (*counted, "once a request")  # An earlier program's baseline counted a request as all its rows: it is made anew.
    return sha256(repr(counted).encode() + owner)


def _written(gathered: Gathering) -> str:
    return json.dumps({"counts": gathered.counts, "rows": gathered.rows, "days": gathered.days, "hours": gathered.hours, "once": True})


def _read(document: str) -> Gathering:
    fields = json.loads(document)
    return Gathering(
        tuple(fields["counts"]), fields["rows"], tuple(fields["days"]), tuple(fields.get("hours", ())), once=fields.get("once", False)
    )
