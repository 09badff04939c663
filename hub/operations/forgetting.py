"""Forget a node that is gone for good: it leaves every list, and its certificates and tokens are revoked."""

from dataclasses import dataclass

from hub.database.device_lives import DeviceLives
from hub.database.enrolments import Enrolments
from hub.operations.opened_fleet import OpenedFleet
from schemas.errors import Code, Refused
from schemas.names import check_name


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Count what was withdrawn."""

    certificates: int
    tokens: int


def check_known(fleet: OpenedFleet, node: str) -> None:
    """Check that there is a node to forget.

    Raises:
        Refused: it has never reported and was never enrolled.
    """
    check_name("node", node)
    before = DeviceLives(fleet.store.database).life(node)
    known = fleet.store.node(node) is not None or Enrolments(fleet.store.database).node(node) is not None
    if not known and (before is None or before.state == "settled"):
        reason = f"node {node!r} has never reported and was never enrolled; `fleetcast nodes` lists the nodes"
        raise Refused(Code.NODE_UNKNOWN, reason)


def forget(fleet: OpenedFleet, node: str) -> Withdrawn:
    """Forget a node. A running hub writes the broker's list of revoked certificates anew at its next turn.

    Raises:
        Refused: it has never reported and was never enrolled.
    """
    check_known(fleet, node)
    DeviceLives(fleet.store.database).forget(node)
    enrolments = Enrolments(fleet.store.database)
    tokens = enrolments.withdraw_tokens(node)
    return Withdrawn(enrolments.revoke(node), tokens)
