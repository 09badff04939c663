"""Mark a drift as known: it still drifts, and is not open until there is twice the evidence, or seven days are over."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hub.database.known_drifts import KnownDrift, KnownDrifts
from hub.operations.moments import iso
from hub.operations.opened_fleet import OpenedFleet
from schemas.errors import Code, Refused

KNOWN_SECONDS: Final = 7 * 86_400
MORE: Final = 2.0  # Times the evidence that was there, as tables show it.


def known_until(row: Mapping[str, Any], known: Sequence[KnownDrift], now: int) -> int | None:
    """Return until when a stream's drift counts as known; None where it does not."""
    if not row["alarm"]:
        return None
    for one in known:
        if (one.model, one.version, one.cohort, one.about) == tuple(row[name] for name in ("model", "version", "cohort", "about")):
            until = one.at + KNOWN_SECONDS
            return until if now < until and (row["evidence"] or 0.0) < MORE * max(one.evidence, 1.0) else None
    return None


def mark_known(fleet: OpenedFleet, row: Mapping[str, Any], *, now: int, why: str = "") -> None:
    """Mark a drift as known, in the name of the fleet's actor.

    Raises:
        Refused: REQUEST_STALE: it does not drift.
    """
    name = f"{row['model']} {row['version']} in cohort {row['cohort']}"
    if not row["alarm"]:
        raise Refused(Code.REQUEST_STALE, f"{name} does not drift")
    actor = fleet.store.database.actor
    stream = {one: str(row[one]) for one in ("model", "version", "cohort", "about")}
    KnownDrifts(fleet.store.database).keep(KnownDrift(**stream, at=now, evidence=float(row["evidence"] or 0.0), actor=actor))
    sides = {"before": {"known": False}, "after": {"known": True, "until": iso(now + KNOWN_SECONDS), "evidence": row["evidence"]}}
    fleet.store.add_event("drift", f"the drift of {name} was marked as known", {**stream, **sides, "why": why}, actor=actor)
