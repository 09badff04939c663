"""Take counts of right and wrong answers into the store: durable when it returns. For the agent's own door and a command beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from node.core.telemetry.accuracy import Declared, LabelCounts, check, chosen, due
from node.storage.rows import ReportedCounts
from node.storage.store import NodeStore
from schemas.errors import Code, Refused, mismatch


@dataclass(frozen=True, slots=True)
class Taken:
    """Describe where counts went, and when they leave; `again`: they were counted when they came first."""

    declared: Declared
    start: int
    leaves_at: int
    again: bool = False

    def as_json(self, counts: LabelCounts) -> dict[str, Any]:
        """Return the answer to the program that reported them."""
        return {
            "model_name": self.declared.model,
            "model_version": self.declared.version,
            "from": _iso(self.start),
            "to": _iso(self.start + self.declared.seconds),
            "right": counts.right,
            "wrong": counts.wrong,
            "counted": not self.again,
            "leaves_at": _iso(self.leaves_at),
        }


def take(store: NodeStore, model: str, version: str | None, counts: LabelCounts, *, now: int, wait_seconds: float) -> Taken:
    """Add counts to their interval. Under an id that came before they are taken for what they were then, whatever has answered since.

    Raises:
        Refused: LABELS_RELEASE, LABELS_FUTURE, LABELS_OLD, LABELS_CLOSED or LABELS_EXCESS; REQUEST_INVALID: the id was used before.
    """
    with store.transaction():
        candidates = store.declared(model)
        if counts.id is not None and (before := store.counts_under(counts.id)) is not None:
            return _again(counts, before, candidates, version)
        answered = [one for one in candidates if store.interval(one, one.start_of(counts.at)).answered]
        declared = chosen(candidates, answered, model=model, version=version)
        known = store.interval(declared, declared.start_of(counts.at))
        check(counts, declared, known, now=now)
        leaves_at = due(known, declared, now=now, wait_seconds=wait_seconds)
        store.add_labels(declared.release, known.start, right=counts.right, wrong=counts.wrong, due=leaves_at, at=now, report_id=counts.id)
    return Taken(declared, known.start, leaves_at)


def _again(counts: LabelCounts, before: ReportedCounts, candidates: Sequence[Declared], version: str | None) -> Taken:
    declared = next((one for one in candidates if one.release == before.release), None)
    if declared is None:
        raise Refused(Code.REQUEST_INVALID, f"id {counts.id!r} was said before, of another model")
    for what, then, now in (
        ("version", declared.version, version),
        ("beginning of the interval", _iso(before.start), _iso(declared.start_of(counts.at))),
        ("right answers", before.right, counts.right),
        ("wrong answers", before.wrong, counts.wrong),
    ):
        if then is not None and now is not None and then != now:
            raise mismatch(Code.REQUEST_INVALID, f"id {counts.id!r} was said before: {what}", expected=then, actual=now)
    return Taken(declared, before.start, before.due, again=True)


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
