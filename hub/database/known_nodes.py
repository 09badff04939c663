"""Reads back what is known of every node: the same for the running hub after its start and for commands beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hub.core.enrol.enrolment import Roll
from hub.core.rollouts import fleet
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.proof import with_proof
from hub.database.device_lives import DeviceLives
from hub.database.hearing import Hearing
from hub.database.rows import ReceiptRow
from hub.database.store import Store
from schemas import codec
from schemas.errors import Refused
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import State


@dataclass(frozen=True, slots=True)
class Known:
    """Hold the nodes that count, by name; `unproved` are those of which receipts were folded, since no proof of them was kept."""

    nodes: Mapping[str, fleet.Node]
    unproved: frozenset[str]


def known_nodes(store: Store, roll: Roll, *, listened: Listened, now: float, names: Sequence[str] | None = None) -> Known:
    """Return every node that counts, with what its receipts prove, or those of these names.

    What it costs for all does not grow with the number of receipts.
    """
    heard, found, unproved = Hearing(store.database).heard(names), dict[str, fleet.Node](), set[str]()
    others, proofs = DeviceLives(store.database).other_keys(), store.proofs(names)
    for row in store.nodes() if names is None else store.nodes_named(names):
        if not roll.counts(row.node):
            continue  # its earlier reports stay in the store, for people
        state = codec.decode(State, row.state)
        # A hub of an earlier version kept times of the wall alone. What a crash has kept of a node and not of the clock is no future.
        heard_at = Listened(min(listened, heard.get(row.node, listened - max(0.0, now - row.last_seen))))
        other = others[row.node].fingerprint if row.node in others else None
        node = fleet.Node(state, row.status, row.session, row.last_seen, row.public_key, heard_at=heard_at, other_key=other)
        proved = _proved(node, proofs.get(row.node))
        if proved is None:
            unproved.add(row.node)
        found[row.node] = proved or folded_again(store, node)
    return Known(found, frozenset(unproved))


def _proved(node: fleet.Node, body: bytes | None) -> fleet.Node | None:
    """Return a node by what was kept of its receipts; None where nothing was, or another version of this program wrote it."""
    try:
        return None if body is None else with_proof(node, body)
    except Refused:
        return None


def folded_again(store: Store, node: fleet.Node) -> fleet.Node:
    """Return a node by all of its receipts in their order: one came after newer ones, or took another's place."""
    found = fleet.without_receipts(node)
    for kept in reversed(store.receipts(node=node.name)):
        found = _folded(found, kept)
    return found


def _folded(node: fleet.Node, kept: ReceiptRow) -> fleet.Node:
    receipt = codec.decode(Receipt, codec.decode(SealedReceipt, kept.sealed).body)
    return fleet.fold_receipt(node, receipt, received_at=kept.received_at, epoch=kept.epoch)
