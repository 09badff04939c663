"""Tell of one node what its page shows: its receipts with their figures, what a failure measured, and which settings are whose."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hub.core.delivery.receipt_counts import Counts
from hub.core.rollouts.fleet import Node
from hub.database.rows import ReceiptRow
from hub.database.store import Store
from hub.operations.node_changes import document_of
from hub.operations.opened_fleet import OpenedFleet
from schemas import codec
from schemas.names import sha256
from schemas.receipt import Evidence, Receipt, SealedReceipt
from schemas.state import Slot

STEPS: Final = ("wanted", "fetched", "tested", "shadow", "probation", "serving")
SITES_OWN: Final = "file of its site"
USUAL_COHORT: Final = "default"  # By `cohort` in docs/configuration.md.
USUAL: Final = "as usual"  # What a node has where neither its file nor the hub says anything.
# Steps that a slot in this state has behind it.
_DONE: Final = {"idle": 0, "out_of_budget": 1, "fetching": 1, "staged": 2, "testing": 2, "shadow": 3, "probation": 4, "active": 6}


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """Hold a receipt as a table shows it; `signer` is the beginning of the SHA-256 of the key that signed it."""

    at: int
    outcome: str
    model: str
    version: str
    code: str
    reason: str
    evidence: Evidence | None
    signer: str
    moved: Counts  # Bytes since the receipt before it about the same release.


@dataclass(frozen=True, slots=True)
class Step:
    """Hold one step of a release's way on a node: done, failed, on, or not reached."""

    name: str
    state: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """Hold a setting in force, and whose word it is."""

    name: str
    value: str
    source: str


def receipt_lines(store: Store, rows: Sequence[ReceiptRow], public_key: bytes) -> list[ReceiptLine]:
    """Return the lines of a node's receipts, which are given the newest first."""
    signer = sha256(public_key).hex()[:8] if public_key else ""
    found = []
    for at, row in enumerate(rows):
        evidence, moved = evidence_of(row), Counts()
        if evidence is not None and row.digest is not None:
            before = next((one for one in rows[at + 1 :] if one.digest == row.digest), None) or store.receipt_before(row)
            earlier = evidence_of(before) if before is not None else None
            moved = Counts.of(evidence).since(Counts.of(earlier) if earlier is not None else None)
        line = ReceiptLine(row.received_at, row.outcome, row.model or "", row.version or "", row.code, row.reason, evidence, signer, moved)
        found.append(line)
    return found


def evidence_of(row: ReceiptRow) -> Evidence | None:
    """Return what activation measured."""
    return codec.decode(Receipt, codec.decode(SealedReceipt, row.sealed).body).evidence


def way(slot: Slot | None, *, failed: str, code: str) -> list[Step]:
    """Return the steps of a release on a node by its own report; `failed` is the class of its failure, where it failed."""
    if failed:
        at = 5 if failed == "rolled_back" else 3 if code.startswith(("shadow", "agreement")) else 2
        names = [Step(name, "done") for name in STEPS[:at]]
        wrong = STEPS[at] if failed != "rolled_back" else "serving"
        return [*names, Step(wrong, "failed", code), *(Step(name, "left", "not reached") for name in STEPS[at + 1 :])]
    done = _DONE.get(slot.state, 0) if slot is not None else 0
    found = [Step(name, "done") for name in STEPS[:done]]
    if done < len(STEPS):
        note = f"{100 * slot.bytes_received // slot.bytes_planned} %" if slot is not None and slot.bytes_planned and done == 1 else ""
        found.append(Step(STEPS[done], "on", note or (slot.code if slot is not None else "")))
    return [*found, *(Step(name, "left", "not reached") for name in STEPS[done + 1 :])]


def settings_of(fleet: OpenedFleet, node: Node) -> list[Setting]:
    """Return what is in force on a node, each setting with its source."""
    document = document_of(fleet.repository, node.name)
    state, ignored = node.state, set(node.state.settings.ignored) if node.state.settings is not None else set()
    said = set(document.model_dump(exclude_none=True)) - ignored if document is not None else set()
    labels = " ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))

    def who(name: str, *, is_usual: bool) -> str:
        return "hub" if name in said else USUAL if is_usual else SITES_OWN

    cohort, is_sent = state.cohort or USUAL_COHORT, state.telemetry is not None
    found = [Setting("labels", labels or "none", who("labels", is_usual=not labels))]
    found.append(Setting("cohort", cohort, who("cohort", is_usual=cohort == USUAL_COHORT)))
    if state.settings is not None and state.settings.display_name:
        found.append(Setting("display name", state.settings.display_name, "hub"))
    found.append(Setting("telemetry", "on" if is_sent else "off", who("telemetry", is_usual=is_sent)))
    found.append(Setting("reports", f"every {node.report_seconds:g} s", "its own report" if state.report_seconds else USUAL))
    for slot in state.slots:
        for one in slot.parameters or ():
            source = {"release": "release", "rollout": "rollout", "site": SITES_OWN}[one.source]
            found.append(Setting(f"{slot.model}: {one.name}", str(one.value), source + (f", refused: {one.code}" if one.code else "")))
    return found
