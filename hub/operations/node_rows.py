"""Show one node as its own reports and receipts have it, beside what operators and the hub have noted of its name."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from hub.core.rollouts.overtaken import reported_instead
from hub.database.rows import NodeMarks, NodeRow, ReceiptRow
from schemas import codec
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import Finding, Slot, State

MEASURED_KEPT = 1024  # Receipts that stay decoded.
COUNTS = {"shadow_rows", "shadow_agreement"}  # exact counts of requests, in receipts of older nodes: shown to nobody


def node_row(
    row: NodeRow, state: State, serving: Mapping[tuple[str, str | None], ReceiptRow], findings: Sequence[Finding], marks: NodeMarks
) -> dict[str, Any]:
    """Return what is shown of a node."""
    return {
        "node": row.node,
        "status": "revoked" if marks.is_revoked else row.status,
        "duplicate_since": moment(marks.duplicate_since) if marks.duplicate_since is not None else None,
        "duplicate_last_at": moment(marks.duplicate_last_at) if marks.duplicate_last_at is not None else None,
        "other_key_since": moment(marks.other_key_since) if marks.other_key_since is not None else None,
        "last_seen": moment(row.last_seen),
        "session": row.session,
        "cohort": row.cohort,
        "software": state.software,
        "display_name": (state.settings.display_name or None) if state.settings else None,
        "settings_serial": state.settings.serial if state.settings else None,
        "settings_ignored": list(state.settings.ignored) if state.settings else [],
        "labels": dict(state.profile.labels) if state.profile else {},
        "arch": state.profile.arch if state.profile else None,
        "stale": state.stale,
        "left_out": state.left_out.model_dump() if state.left_out is not None else None,
        "findings": [one.model_dump() for one in findings],
        "rho_spent_today": round(state.telemetry.rho_spent, 4) if state.telemetry and state.telemetry.rho_spent else None,
        "rho_day_max": state.telemetry.rho_day_max if state.telemetry else None,
        "models": [_model_row(slot, serving.get((row.node, slot.model)), at=state.at) for slot in state.slots],
    }


def moment(at: int) -> str:
    """Return a moment in UTC, for people and scripts."""
    return datetime.fromtimestamp(at, UTC).isoformat()


def _model_row(slot: Slot, serving: ReceiptRow | None, *, at: int) -> dict[str, Any]:
    other = reported_instead(slot, digest=serving.digest, since=serving.since or serving.at, at=at) if serving is not None else ""
    return {
        "model": slot.model,
        "serving_version": serving.version if serving else None,  # by receipt, not by what the state claims
        "serving_digest": serving.digest.hex() if serving and serving.digest else None,
        "reported_version": other or None,  # where the state has overtaken the last receipt
        "state": slot.state,
        "target_version": slot.target_version,
        "code": slot.code,
        "bytes_planned": slot.bytes_planned,
        "bytes_received": slot.bytes_received,
        "bytes_reused": slot.bytes_reused,
        "bytes_wasted": slot.bytes_wasted,
        "variant": slot.variant,
        "parameters": [one._asdict() for one in slot.parameters or ()],
        "evidence": _evidence(serving),
    }


def _evidence(serving: ReceiptRow | None) -> dict[str, Any] | None:
    """Return what the device measured when it activated the release that it serves."""
    return dict(found) if serving is not None and (found := _measured(serving.sealed)) is not None else None


@lru_cache(maxsize=MEASURED_KEPT)
def _measured(sealed: bytes) -> Mapping[str, Any] | None:
    """Return what a receipt says; those who look at the same nodes again do not wait for it to be decoded again."""
    receipt = codec.decode(Receipt, codec.decode(SealedReceipt, sealed).body)
    return receipt.evidence.model_dump(mode="json", exclude_none=True, exclude=COUNTS) if receipt.evidence is not None else None
