"""Decides how long each role's metadata lives, and when an operator should be warned. Reads no clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

ROOT_DAYS, TARGETS_DAYS, TEAM_DAYS = 365, 180, 90  # signed offline, by people
ROLLOUTS_DAYS, SNAPSHOT_DAYS, TIMESTAMP_DAYS = 7, 7, 1  # signed by the hub; short, for its keys are online
RESIGN_SECONDS = 3600  # a fresh timestamp every hour costs a node 11 KB a day
WARNING_SHARE, URGENT_SHARE = 0.5, 0.2  # the share of a life that is left
_DAYS = {
    "root": ROOT_DAYS,
    "targets": TARGETS_DAYS,
    "rollouts": ROLLOUTS_DAYS,
    "snapshot": SNAPSHOT_DAYS,
    "timestamp": TIMESTAMP_DAYS,
}

Severity = Literal["ok", "warning", "urgent", "expired"]


@dataclass(frozen=True, slots=True)
class Expiry:
    """Hold the expiry of a role's metadata; a warning at half of its life, urgent at a fifth."""

    role: str
    expires: datetime
    severity: Severity


def life(role: str) -> timedelta:
    """Return how long a role's metadata holds from when it is signed; every role of a model is its team's."""
    return timedelta(days=_DAYS.get(role, TEAM_DAYS))


def expiry(role: str, expires: datetime, now: datetime) -> Expiry:
    """Return what an operator should know of a role."""
    return Expiry(role, expires, severity_of((expires - now) / life(role)))


def renewal(role: str) -> str:
    """Return in words who signs a role again before it expires, and how."""
    match role:
        case "root":
            return "holders of root keys sign it again: fleetcast keys ceremony --offer FILE"
        case "targets":
            return "the holder of the targets key signs it again: fleetcast renew"
        case "snapshot" | "timestamp" | "rollouts":
            return "the hub signs it again by itself: if it does not, see its log and fleetcast keys show --check"
        case _:
            return f"its team signs it again: fleetcast renew --model {role.removeprefix('model-')}"


def severity_of(share_left: float) -> Severity:
    """Return how much it matters that so large a share of a life is left."""
    if share_left <= 0:
        return "expired"
    return "urgent" if share_left < URGENT_SHARE else "warning" if share_left < WARNING_SHARE else "ok"


def is_ageing(role: str, expires: datetime, now: datetime) -> bool:
    """Return whether half of a role's life is over, so that a service which holds its key online signs it again."""
    return expires - now < life(role) * WARNING_SHARE
