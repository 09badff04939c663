"""Says in the database that this process runs, with its roles, and has the leader notice what no process does, or two do."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import structlog

from hub.core.roles import shards
from hub.core.roles.shards import Finding
from hub.database.connection import Database
from hub.database.leadership import Leadership
from hub.database.members import Member, Members
from hub.service.alerts.event_log import Notes
from hub.service.roles.standby import wrong_clock
from hub.settings import HubSettings
from schemas.analytics_messages import Alert
from schemas.errors import Code

log = structlog.get_logger()

BEAT_SECONDS = 2.0
PATIENCE_SECONDS = 30.0  # What is wrong for less is a process that starts again.
AGAIN_SECONDS = 6 * 3600.0  # Between two alerts about what stays wrong.


class Processes:
    """Know of all processes of this hub. Called by the loop's thread alone."""

    def __init__(
        self,
        database: Database,
        settings: HubSettings,
        notes: Notes,
        *,
        leadership: Leadership | None,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._members, self._notes, self._leadership = Members(database), notes, leadership
        self._wall, self._monotonic = wall, monotonic
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
        )
        self._beat_at = float("-inf")
        self._found: dict[Finding, float] = {}
        self._reported: dict[Finding, float] = {}
        self.all_heard = False  # Whether all that nodes report is taken in by some process.

    @property
    def ingest_others(self) -> int:
        """Return how many other processes take reports in."""
        return len([one for one in self._ingesting() if one.name != self._me.name])

    def tick(self, *, listens: bool, packet_bytes_max: int | None) -> None:
        """Say that this process is there, whether it hears its part of what nodes say, and which packets its broker takes."""
        now, me = self._monotonic(), replace(self._me, listens=listens, packet_bytes_max=packet_bytes_max)
        if now - self._beat_at < BEAT_SECONDS and me == self._me:
            return
        self._beat_at, self._me = now, me
        self._members.beat(self._me)
        if self._leadership is not None:
            self._judge(now)

    def leave(self) -> None:
        """Say that this process ends."""
        self._members.leave(self._me)

    def _ingesting(self) -> list[Member]:
        return [one for one in self._members.all() if one.is_live and "ingest" in one.roles.split(",")]

    def _judge(self, now: float) -> None:
        if self._leadership is not None and self._leadership.is_clock_wrong:
            alert = wrong_clock(self._leadership, self._me.host)
            self._notes.alert(alert)
            self._leadership.resign(alert.text)  # Another, whose clock is right, signs; this process ends.
            return
        ingesting = self._ingesting()
        found = shards.findings([(one.name, shards.parse(one.shard)) for one in ingesting])
        lacks = any(one.code is Code.SHARD_GAP for one in found)
        self.all_heard = not lacks and all(one.listens for one in ingesting)
        self._found = {one: self._found.get(one, now) for one in found}
        for one, since in self._found.items():
            if now - since >= PATIENCE_SECONDS and now - self._reported.get(one, float("-inf")) >= AGAIN_SECONDS:
                self._reported[one] = now
                log.error("shards.wrong", code=str(one.code), reason=one.text)
                self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(one.code), text=one.text))
        self._reported = {one: at for one, at in self._reported.items() if one in self._found}
