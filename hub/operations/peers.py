"""Say why a release failed here and not there: what nodes with the same processor measured of it, by their receipts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from fleetcast.counted import counted
from hub.core.rollouts.fleet import Node
from hub.database import tables
from hub.database.connection import Database
from schemas import codec
from schemas.receipt import Receipt, SealedReceipt

PEERS_MAX: Final = 200  # Receipts that are read: enough to say whether it is the device or its kind.


@dataclass(frozen=True, slots=True)
class Peers:
    """Hold what nodes of one kind made of a release: those that serve it, with their slowest median, and those that failed, by code."""

    passed: int
    failed: int
    slowest_ms: float | None
    same_code: int  # Nodes that failed with the code of the one that is asked about.

    def in_words(self, code: str) -> str:
        """Return the sentence; "" where no node of the kind has tried."""
        if not self.passed and not self.failed:
            return ""
        passed = ""
        if self.passed:
            at = f" at {self.slowest_ms:.3g} ms or less" if self.slowest_ms else ""
            passed = f"{counted(self.passed, 'node')} with the same processor passed{at}"
        if not self.failed:
            return f"{passed}: look at what else runs on this one."
        failed = f"{counted(self.failed, 'node')} with the same processor failed too"
        failed += f", {self.same_code} of them with {code}" if self.same_code else ", for other reasons"
        return f"{passed}, and {failed}." if passed else f"{failed}: look at the release."


def same_kind(node: Node, nodes: Iterable[Node]) -> list[str]:
    """Return the names of the other nodes with the same processor and the same number of cores."""
    mine = node.state.profile
    if mine is None:
        return []
    kind = (mine.arch, mine.cores)
    return [
        one.name
        for one in nodes
        if one.name != node.name and one.state.profile and (one.state.profile.arch, one.state.profile.cores) == kind
    ]


def peers_of(database: Database, names: Sequence[str], digest: bytes, *, code: str) -> Peers:
    """Return what the newest receipts of these nodes say of a release."""
    table = tables.receipts.c
    query = (
        select(table.node, table.outcome, table.code, table.sealed)
        .where(table.digest == digest, table.node.in_(list(names[:PEERS_MAX])))
        .order_by(table.node, table.epoch, table.sequence)
    )
    with database.read() as db:
        newest = {row.node: row for row in db.execute(query)}
    passed = [row for row in newest.values() if row.outcome == "serving"]
    failed = [row for row in newest.values() if row.outcome != "serving"]
    medians = [found for row in passed if (found := _latency(row.sealed))]
    return Peers(len(passed), len(failed), max(medians, default=None), sum(row.code == code for row in failed))


def _latency(sealed: bytes) -> float:
    evidence = codec.decode(Receipt, codec.decode(SealedReceipt, sealed).body).evidence
    return evidence.latency_ms if evidence is not None else 0.0
