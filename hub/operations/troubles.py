"""Say what is wrong with the fleet's own machinery now: processes, keys, clocks, disks, access lists."""

import shutil
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from hub.core.roles import staffing
from hub.core.roles.shards import parse
from hub.core.roles.staffing import STANDBY
from hub.database.leadership import leader_of
from hub.database.members import Member, Members
from hub.database.store import Store
from hub.database.troubles import Trouble, Troubles
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.opening import DATABASE_BYTES_MIN
from hub.service.broker import access_lists
from hub.settings import HubSettings
from schemas.errors import Code

LOOK: Final = {
    str(Code.SHARD_GAP): "fleetcast hubs",
    str(Code.SHARD_OVERLAP): "fleetcast hubs",
    str(Code.ROLE_MISSING): "fleetcast hubs",
    str(Code.LEADER_CLOCK): "fleetcast hubs",
    str(Code.HUB_DUPLICATE): "fleetcast hubs",
    str(Code.KEY_NOT_AUTHORISED): "fleetcast hubs",
    "key_expiring": "fleetcast keys show",
    "access_list.outdated": "fleetcast access-list --write",
}  # The command to look at, by code.
LOOK_ELSE: Final = "fleetcast watch --kind alert --history"
OF_PROCESSES: Final = frozenset({Code.HUB_DUPLICATE, Code.LEADER_CLOCK, Code.KEY_NOT_AUTHORISED, Code.KEY_UNREADABLE, Code.KEY_PASSPHRASE})
_JUDGED: Final = frozenset({Code.SHARD_GAP, Code.SHARD_OVERLAP, Code.ROLE_MISSING})  # Computed here from the list of processes, at once.


def troubles_of(fleet: OpenedFleet, *, runs: bool) -> list[dict[str, Any]]:
    """Return what is wrong now, each with its code, its text, since when, and the command to look at.

    `runs` is whether a hub runs: what one that was killed has left says nothing.
    """
    members = Members(fleet.store.database).all() if fleet.settings.is_on_server else []
    live = [one for one in members if one.is_live]
    kept = lasting(fleet.store, live, is_on_server=fleet.settings.is_on_server) if runs or live else []
    rows = [_row(code, text) for code, text in wrong_with(live, fleet.settings, fleet.store)]
    rows += [_row(one.code, one.text, one.since) for one in kept if one.code not in _JUDGED]
    if fleet.settings.broker_url and (rules := access_lists.missing(fleet.directory, fleet.settings.fleet)):
        rows.append(_row("access_list.outdated", access_lists.in_words(rules)))
    free = shutil.disk_usage(fleet.directory).free
    if free < DATABASE_BYTES_MIN:
        rows.append(_row(str(Code.DISK_FULL), f"the disk with {fleet.directory} has {free} bytes left: make room there"))
    return rows


def lasting(store: Store, live: Collection[Member], *, is_on_server: bool) -> list[Trouble]:
    """Return what processes that run have found wrong with themselves."""
    names = {one.name for one in live}
    return [one for one in Troubles(store.database).all() if not is_on_server or one.process in names]


def wrong_with(live: Sequence[Member], settings: HubSettings, store: Store) -> list[tuple[str, str]]:
    """Return what no process does, what two do, and that none leads; each a code and a sentence. Nothing where no process runs."""
    working = [one for one in live if one.roles != STANDBY]
    if not live:
        return []
    staff = [staffing.staff_of(one.name, one.roles, parse(one.shard)) for one in live]
    found = [(str(one.code), one.text) for one in staffing.wrong(staff, needed=settings.needed_roles) if one.about != "controller"]
    if not any(one.term for one in working):
        found.insert(0, (str(Code.ROLE_MISSING), no_leader(store)))
    return found


def no_leader(store: Store) -> str:
    """Return the sentence for a fleet that nobody leads."""
    leader = leader_of(store.database)
    return f"no process leads{f'; {leader.holder} did last' if leader is not None else ''}"


def _row(code: str, text: str, since: int | None = None) -> dict[str, Any]:
    at = datetime.fromtimestamp(since, UTC).isoformat() if since is not None else None
    return {"code": code, "text": text, "since": at, "look": LOOK.get(code, LOOK_ELSE)}
