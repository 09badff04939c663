"""Decide whether two devices use one node's name and key: a copied folder, or a card that was cloned.

Each process of a node names itself by a random id beside its states (an MQTT user property, which hubs of an earlier version do not read).
A restarted node has another id, and the earlier one never connects again. So a process that makes a *new* connection after another one
has spoken is a second device. Messages that come twice, or late, have the session of a connection that is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

OVER_SECONDS = 2 * 3600.0  # After the last sign of two devices, in time of listening; two that pause in turn give one each half hour.
PROCESSES_KEPT = 8  # A sender that invents more of them is not two devices, but a fault of its own.


@dataclass(frozen=True, slots=True)
class Speakers:
    """Hold the processes that have spoken in one name: the newest session of each, and which one spoke last."""

    last: str = ""
    sessions: Mapping[str, int] = field(default_factory=dict)


def spoke(known: Speakers, process: str, session: int) -> tuple[Speakers, bool]:
    """Return who has spoken after a state of `process`, and whether that shows two devices."""
    before = known.sessions.get(process)
    if before is not None and session <= before:
        return known, False
    others = {name: newest for name, newest in known.sessions.items() if name != process}
    while len(others) >= PROCESSES_KEPT:
        del others[next(iter(others))]
    return Speakers(process, {**others, process: session}), before is not None and known.last != process
