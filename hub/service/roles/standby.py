"""Stands by until this process leads the fleet: nothing of a hub is made before, so that what it goes by is what the leader before left."""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from random import Random

import structlog

from fleetcast.backoff import Backoff
from hub.database.connection import Database
from hub.database.leadership import CLOCK_SECONDS_MAX, Leadership, leader_of
from hub.database.members import Member, Members
from hub.database.store import Store
from hub.settings import HubSettings
from schemas.analytics_messages import Alert
from schemas.errors import Code, Unreachable

log = structlog.get_logger()

ASK_SECONDS = 0.5  # Between two attempts to lead.
FAILED = Backoff(ASK_SECONDS, 5.0)  # The same while the database does not answer: when it does, somebody is to lead soon.
LOGGED_SECONDS = 30.0  # Between two lines of the log about a database that does not answer.
BEAT_SECONDS = 5.0
CLOCK_AGAIN_SECONDS = 3600.0  # Between two alerts about a clock that stays wrong.
STANDBY = "standby"


def lead(place: str, settings: HubSettings, stop: threading.Event, *, wall: Callable[[], float] = time.time) -> Leadership | None:
    """Return the lead as soon as it is this process's; None where it is to stop before that.

    A database that does not answer is waited for.
    """
    store, host = Store(place), socket.gethostname()
    me = Member(
        name=f"{STANDBY}-{host}-{os.getpid()}"[:128],
        roles=STANDBY,
        shard=settings.shard,
        host=host[:256],
        pid=os.getpid(),
        version=version("fleetcast"),
        since=int(wall()),
        listens=False,
        term=0,
    )
    pauses, chances, logged_at = FAILED, Random(), float("-inf")
    waiting = _Waiting(store, me, Leadership(Database(place), holder=f"{settings.process_name} on {host} (pid {os.getpid()})"))
    try:
        while not stop.is_set():
            seconds = ASK_SECONDS
            try:
                if waiting.leadership.try_to_lead():
                    log.info("leadership.taken", term=waiting.leadership.term)
                    waiting.ended()
                    return waiting.leadership
                waiting.tick()
                pauses = FAILED
            except Unreachable as error:
                seconds, pauses = min(FAILED.seconds_max, pauses.wait_seconds(chances.random())), pauses.doubled()
                if time.monotonic() - logged_at >= LOGGED_SECONDS:
                    logged_at = time.monotonic()
                    log.warning("standby.failed", reason=str(error), again_seconds=round(seconds, 1))
            stop.wait(seconds)
        waiting.ended()
        return None
    finally:
        store.close()


class _Waiting:
    """Hold what a process does that stands by."""

    def __init__(self, store: Store, me: Member, leadership: Leadership) -> None:
        self._store, self._me, self.leadership = store, me, leadership
        self._members, self._beat_at, self._clock_at = Members(store.database), float("-inf"), float("-inf")
        self._leader = ""

    def tick(self) -> None:
        """Say that this process is there, whom it waits for, and that its clock is wrong."""
        now = time.monotonic()
        if now - self._beat_at < BEAT_SECONDS:
            return
        self._beat_at = now
        self._members.beat(replace(self._me))
        leader = leader_of(self._store.database)
        if leader is not None and leader.holder != self._leader:
            self._leader = leader.holder
            log.info("standby.waiting", leader=leader.holder, term=leader.term)
        if self.leadership.is_clock_wrong and now - self._clock_at >= CLOCK_AGAIN_SECONDS:
            self._clock_at = now
            self._store.add_alert(wrong_clock(self.leadership, self._me.host))

    def ended(self) -> None:
        """Say that this process stands by no more."""
        self._members.leave(self._me)


def wrong_clock(leadership: Leadership, host: str) -> Alert:
    """Return the alert about a clock by which nothing is to be signed."""
    seconds = leadership.clock_differs
    text = (
        f"the clock of {host} is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the database's, more than"
        f" {CLOCK_SECONDS_MAX:.0f} s: this hub does not lead; set both clocks"
    )
    log.error("leader.clock", reason=text)
    return Alert(kind="refused", at=int(time.time() - seconds), code=str(Code.LEADER_CLOCK), text=text)
