"""Say what a release has cost each node in bytes: by the receipt of its activation, or by the report of a transfer that is under way."""

from typing import Any, Final

from hub.database.rows import ReceiptRow
from hub.operations.opened_fleet import OpenedFleet, check_model
from schemas import codec
from schemas.names import sha256
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import State

SERVED: Final = "served"  # It serves another release now, or none.
COUNTED: Final = ("planned", "received", "reused", "missing", "wasted")


def release_bytes(fleet: OpenedFleet, model: str, version: str) -> list[dict[str, Any]]:
    """Return a row for each node that has begun to fetch a release, by name.

    `state` is true now: `serving` for a node that serves the release by its receipts, `served` for one that serves another, or none, since;
    `rolled_back` for one that went back from it by itself; or the step at which a transfer is that is under way.

    Raises:
        Refused: RELEASE_UNKNOWN.
    """
    check_model(fleet.repository, model)
    digest = sha256(fleet.repository.manifest(model, version))
    now = {row.node for row in fleet.store.serving() if row.digest == digest}
    receipts = [row for row in fleet.store.receipts_of_release(digest) if row.outcome != "refused"]
    rows = {row.node: _of_receipt(row, serves=row.node in now) for row in receipts}
    for node in fleet.store.nodes():
        for slot in codec.decode(State, node.state).slots:
            if slot.target == digest and slot.bytes_planned:
                counts = (slot.bytes_planned, slot.bytes_received, slot.bytes_reused, slot.bytes_wasted)
                rows[node.node] = _row(node.node, slot.state, slot.code, *counts)
    return [rows[name] for name in sorted(rows)]


def _of_receipt(row: ReceiptRow, *, serves: bool) -> dict[str, Any]:
    state = row.outcome if serves or row.outcome != "serving" else SERVED
    evidence = codec.decode(Receipt, codec.decode(SealedReceipt, row.sealed).body).evidence
    if evidence is None:
        return _row(row.node, state, row.code, 0, 0, 0, 0)
    counts = (evidence.bytes_planned, evidence.bytes_received, evidence.bytes_reused, evidence.bytes_wasted)
    return _row(row.node, state, row.code, *counts)


def _row(node: str, state: str, code: str, planned: int, received: int, reused: int, wasted: int) -> dict[str, Any]:
    missing = planned - received - reused
    return {
        "node": node,
        "state": state,
        "code": code,
        "planned": planned,
        "received": received,
        "reused": reused,
        "missing": missing,
        "wasted": wasted,
    }
