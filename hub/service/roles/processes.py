"""Says in the database that this process runs, with its roles, and has the leader notice what no process does, or two do.

Where no process leads, the first by name of those that run notices it.
"""

import os
import socket
from collections.abc import Callable, Collection
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import structlog

from hub.core.roles import staffing
from hub.core.roles.shards import Finding, parse
from hub.core.roles.staffing import STANDBY, Staff
from hub.database.connection import Database
from hub.database.leadership import Leadership
from hub.database.members import Member, Members
from hub.database.troubles import Troubles
from hub.service.alerts.event_log import Notes
from hub.service.roles.standby import wrong_clock
from hub.settings import HubSettings
from schemas.analytics_messages import Alert
from schemas.errors import Code

log = structlog.get_logger()

BEAT_SECONDS = 2.0
PATIENCE_SECONDS = 30.0  # What is wrong for less is a process that starts again.
AGAIN_SECONDS = 6 * 3600.0  # Between two alerts about what stays wrong.
GIVE_UP_SECONDS = 5.0  # A leader without the keys looks for one that has them after this time: each has looked into its folder by then.
PRUNE_SECONDS = 3600.0


class Processes:
    """Know of all processes of this hub. Called by the loop's thread alone."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        settings: HubSettings,
        notes: Notes,
        *,
        leadership: Leadership | None,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._members, self._troubles, self._notes, self._leadership = Members(database), Troubles(database), notes, leadership
        self._needed, self._wall, self._monotonic = settings.needed_roles, wall, monotonic
        self._me = Member(
            name=settings.process_name,
            roles=",".join(settings.roles),
            shard=settings.shard,
            host=socket.gethostname()[:256],
            pid=os.getpid(),
            version=version("fleetcast"),
            since=int(wall()),
            listens=False,
            term=leadership.term if leadership is not None else 0,
            folder=str(directory.resolve()),
        )
        self._beat_at = self._pruned_at = float("-inf")
        self._found: dict[Finding, float] = {}
        self._reported: dict[Finding, float] = {}
        self._keyless_since: float | None = None
        self.unheard = "it is not known yet which processes run"  # What no process takes in of what nodes report; empty if all is.

    @classmethod
    def of(
        cls,
        database: Database,
        directory: Path,
        settings: HubSettings,
        notes: Notes,
        leadership: Leadership | None,
        clocks: tuple[Callable[[], float], Callable[[], float]],
    ) -> "Processes | None":
        """Return them where others may run beside this one, with the clock of the wall and one that does not jump; None elsewhere."""
        if not settings.is_on_server or (leadership is None and settings.has_all_roles):
            return None
        return cls(database, directory, settings, notes, leadership=leadership, wall=clocks[0], monotonic=clocks[1])

    @property
    def ingest_others(self) -> int:
        """Return how many other processes take reports in."""
        return len([one for one in self._members.all() if one.is_live and "ingest" in one.roles.split(",") and one.name != self._me.name])

    def tick(self, *, listens: bool, packet_bytes_max: int | None, lacks_keys: Collection[str] = ()) -> None:
        """Say that this process is there, whether it hears its part of what nodes say, and which packets its broker takes.

        `lacks_keys` are the roles that it cannot sign: it lets another lead that can.
        """
        now, me = self._monotonic(), replace(self._me, listens=listens, packet_bytes_max=packet_bytes_max)
        if now - self._beat_at < BEAT_SECONDS and me == self._me:
            return
        self._beat_at, self._me = now, me
        self._members.beat(self._me)
        members = self._members.all()
        if self._leadership is not None and self._gives_the_lead_away(self._leadership, members, lacks_keys, now):
            return
        self._judge(members, now)

    def leave(self) -> None:
        """Say that this process ends."""
        self._members.leave(self._me)

    def _gives_the_lead_away(self, leadership: Leadership, members: Collection[Member], lacks_keys: Collection[str], now: float) -> bool:
        """Let another lead where this process may not sign by its clock, or cannot sign and another that stands by can."""
        if now - self._pruned_at >= PRUNE_SECONDS:
            self._pruned_at = now
            self._members.prune()
        if leadership.is_clock_wrong:
            alert = wrong_clock(leadership, self._me.host)
            self._notes.alert(alert)
            leadership.resign(alert.text)  # Another, whose clock is right, signs; this process ends.
            return True
        self._keyless_since = (self._keyless_since if self._keyless_since is not None else now) if lacks_keys else None
        if self._keyless_since is None or now - self._keyless_since < GIVE_UP_SECONDS:
            return False
        able = able_to_lead(members, self._troubles, self._me.name)
        if not able:
            return False
        keys = ", ".join(sorted(lacks_keys))
        text = f"{self._me.name} on {self._me.host} has not the keys of {keys}, and lets {able[0]} lead, which has them"
        log.error("leadership.given_away", lacks=sorted(lacks_keys), to=able[0])
        self._notes.event("leadership.given_away", text, lacks=sorted(lacks_keys), to=able[0])
        leadership.resign(f"it has not the keys of {keys}, and {able[0]} has")
        return True

    def _judge(self, members: Collection[Member], now: float) -> None:
        live = [one for one in members if one.is_live]
        staff = staff_of(live)
        found = staffing.wrong(staff, needed=self._needed) if staffing.judges(self._me.name, staff) else []
        if self._leadership is None:
            found = [one for one in found if one.code is Code.ROLE_MISSING]  # What shards lack matters to who leads.
        gap = next((one.text for one in found if one.code is Code.SHARD_GAP), "")
        deaf = [one.name for one in live if "ingest" in one.roles.split(",") and not one.listens]
        self.unheard = gap or (f"{', '.join(deaf)} is not connected to the broker, or reads what came while it was not" if deaf else "")
        for one in self._found:
            if one not in found:
                self._notes.troubles.end(str(one.code), about=key_of(one))
        self._found = {one: self._found.get(one, now) for one in found}
        for one, since in self._found.items():
            if now - since < PATIENCE_SECONDS:
                continue
            self._notes.troubles.begin(str(one.code), one.text, about=key_of(one))
            if now - self._reported.get(one, float("-inf")) >= AGAIN_SECONDS:
                self._reported[one] = now
                log.error("roles.wrong" if one.code is Code.ROLE_MISSING else "shards.wrong", code=str(one.code), reason=one.text)
                self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(one.code), text=one.text))
        self._reported = {one: at for one, at in self._reported.items() if one in self._found}


def key_of(finding: Finding) -> str:
    """Return what tells findings of one code apart."""
    return (finding.about or finding.text)[:64]


def staff_of(live: Collection[Member]) -> list[Staff]:
    """Return processes that run, as the core knows them."""
    return [staffing.staff_of(one.name, one.roles, parse(one.shard)) for one in live]


def able_to_lead(members: Collection[Member], troubles: Troubles, name: str) -> list[str]:
    """Return the others that stand by and could sign: nothing is wrong with them."""
    hindered = {one.process for one in troubles.all()}
    return [one.name for one in members if one.is_live and one.roles == STANDBY and one.name not in hindered and one.name != name]
