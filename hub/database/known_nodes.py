"""Reads back what is known of every node: the same for the running hub after its start and for commands beside it."""

from hub.core.enrol.enrolment import Roll
from hub.core.rollouts import fleet
from hub.core.rollouts.listening import Listened
from hub.database.device_lives import DeviceLives
from hub.database.hearing import Hearing
from hub.database.rows import ReceiptRow
from hub.database.store import Store
from schemas import codec
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import State


def known_nodes(store: Store, roll: Roll, *, listened: Listened, now: float) -> dict[str, fleet.Node]:
    """Return every node that counts, by name, with what its receipts prove."""
    heard, found = Hearing(store.database).heard(), dict[str, fleet.Node]()
    others = DeviceLives(store.database).other_keys()
    for row in store.nodes():
        if not roll.counts(row.node):
            continue  # its earlier reports stay in the store, for people
        state = codec.decode(State, row.state)
        # A hub of an earlier version kept times of the wall alone. What a crash has kept of a node and not of the clock is no future.
        heard_at = Listened(min(listened, heard.get(row.node, listened - max(0.0, now - row.last_seen))))
        other = others[row.node].fingerprint if row.node in others else None
        found[row.node] = fleet.Node(state, row.status, row.session, row.last_seen, row.public_key, heard_at=heard_at, other_key=other)
    for kept in reversed(store.receipts()):
        if kept.node in found:
            found[kept.node] = _folded(found[kept.node], kept)
    return found


def folded_again(store: Store, node: fleet.Node) -> fleet.Node:
    """Return a node by all of its receipts in their order: one came after newer ones, or took another's place."""
    found = fleet.without_receipts(node)
    for kept in reversed(store.receipts(node=node.name)):
        found = _folded(found, kept)
    return found


def _folded(node: fleet.Node, kept: ReceiptRow) -> fleet.Node:
    receipt = codec.decode(Receipt, codec.decode(SealedReceipt, kept.sealed).body)
    return fleet.fold_receipt(node, receipt, received_at=kept.received_at, epoch=kept.epoch)
