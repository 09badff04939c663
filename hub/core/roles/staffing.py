"""Find which of a hub's roles no process has, whose process stands by, and when a leader that cannot sign lets another lead."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from hub.core.roles.shards import Finding, Shard, findings
from schemas.errors import Code

STANDBY: Final = "standby"  # In place of the roles of a process that waits for the lead.
_UNDONE: Final = {
    "controller": "nothing is signed, and no rollout moves",
    "blocks": "nodes get no blocks, and fetch nothing",
    "web": "no device enrols, no webhook is called, and there is no console and no API",
}


@dataclass(frozen=True, slots=True)
class Staff:
    """Hold a process that is there: its name, its roles and its shard."""

    name: str
    roles: frozenset[str]
    shard: Shard


def staff_of(name: str, roles: str, shard: Shard) -> Staff:
    """Return one, with its roles as the database has them."""
    return Staff(name, frozenset(roles.split(",")), shard)


def wrong(staff: Sequence[Staff], *, needed: Collection[str]) -> list[Finding]:
    """Return the roles that are needed and that no process has, and what is wrong with shards."""
    present = {role for one in staff for role in one.roles}
    found = [
        Finding(Code.ROLE_MISSING, f"no process with the role {role} runs: {undone}; start `fleetcast hub --roles {role}`", about=role)
        for role, undone in _UNDONE.items()
        if role in needed and role not in present
    ]
    return [*found, *findings([(one.name, one.shard) for one in staff if "ingest" in one.roles])]


def judges(name: str, staff: Sequence[Staff]) -> bool:
    """Return whether a process reports what is wrong: the leader does, and without one the first by name."""
    working = [one for one in staff if STANDBY not in one.roles]
    leaders = [one.name for one in working if "controller" in one.roles]
    return name == min(leaders or [one.name for one in working], default=name)


def may_lead(*, lacks_keys: bool, able: Collection[str]) -> bool:
    """Return whether a process that stands by takes the lead: without the keys only where no other stands by that has them.

    A leader gives the lead away for the same reason, and only to one that is `able`. So of several that all lack keys one leads and stays.
    """
    return not (lacks_keys and able)
