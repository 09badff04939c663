"""Stands by until this process leads the fleet: nothing of a hub is made before, so that what it goes by is what the leader before left."""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from random import Random

import structlog

from fleetcast.backoff import Backoff
from hub.core.roles.staffing import STANDBY, may_lead
from hub.database.connection import Database
from hub.database.leadership import CLOCK_SECONDS_MAX, Leadership, leader_of
from hub.database.members import Member, Members
from hub.database.store import Store
from hub.database.troubles import Troubles
from hub.service.alerts.open_troubles import OpenTroubles
from hub.service.delivery.online_keys import StandbyKeys, place_in_words, without_key
from hub.settings import HubSettings
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused, Unreachable

log = structlog.get_logger()

ASK_SECONDS = 0.5  # Between two attempts to lead.
FAILED = Backoff(ASK_SECONDS, 5.0)  # The same while the database does not answer: when it does, somebody is to lead soon.
LOGGED_SECONDS = 30.0  # Between two lines of the log about a database that does not answer.
BEAT_SECONDS = 5.0
KEYS_SECONDS = 1.0  # Between two looks whether the keys here are those that sign.
CLOCK_AGAIN_SECONDS = 3600.0  # Between two alerts about a clock that stays wrong.


def lead(
    place: str,
    directory: Path,
    settings: HubSettings,
    stop: threading.Event,
    *,
    keys: StandbyKeys | None = None,
    wall: Callable[[], float] = time.time,
) -> Leadership | None:
    """Return the lead as soon as it is this process's; None where it is to stop before that.

    A database that does not answer is waited for. Without the keys by which the leader signs it leads only where no other has them.
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
        folder=str(directory.resolve()),
    )
    pauses, chances, logged_at = FAILED, Random(), float("-inf")
    leadership = Leadership(Database(place), holder=f"{settings.process_name} on {host} (pid {os.getpid()})")
    waiting = _Waiting(store, me, leadership, wish=settings.name, keys=keys, at=place_in_words(directory))
    try:
        while not stop.is_set():
            seconds = ASK_SECONDS
            try:
                if waiting.may_lead() and leadership.try_to_lead():
                    log.info("leadership.taken", term=leadership.term)
                    waiting.ended()
                    return leadership
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
    """Hold what a process does that stands by. Its name is `wish`, unless another process has that."""

    def __init__(self, store: Store, me: Member, leadership: Leadership, *, wish: str, keys: StandbyKeys | None, at: str) -> None:
        self._store, self._me, self._leadership, self._wish, self._keys, self._at = store, me, leadership, wish, keys, at
        self._members, self._beat_at, self._clock_at = Members(store.database), float("-inf"), float("-inf")
        self._keys_at, self._reported = float("-inf"), dict[str, str]()
        self._leader = ""
        self._troubles: OpenTroubles | None = None

    def may_lead(self) -> bool:
        """Return whether it tries to lead: not where it cannot sign, and another can that stands by."""
        if self._keys is None:
            return True
        now = time.monotonic()
        if now - self._keys_at >= KEYS_SECONDS:
            self._keys_at = now
            try:
                self._keys.look()
            except Refused as refusal:  # The metadata cannot be read: who leads reports it.
                log.warning("standby.failed", reason=str(refusal))
            self._report_keys(self._keys.lacks)
        if not self._keys.lacks:
            return True
        hindered = {one.process for one in Troubles(self._store.database).all()}
        others = [one for one in self._members.all() if one.is_live and one.roles == STANDBY and one.pid_on != self._me.pid_on]
        return may_lead(lacks_keys=True, able=[one.name for one in others if one.name not in hindered])

    def tick(self) -> None:
        """Say that this process is there, whom it waits for, and that its clock is wrong or its keys are another's."""
        now = time.monotonic()
        if now - self._beat_at < BEAT_SECONDS:
            return
        self._beat_at = now
        self._open().keep()  # Before the beat: who sees this process is to know what is wrong with it.
        self._members.beat(self._me)
        self._members.forget_former(self._me)
        leader = leader_of(self._store.database)
        if leader is not None and leader.holder != self._leader:
            self._leader = leader.holder
            log.info("standby.waiting", leader=leader.holder, term=leader.term)
        if not self._leadership.is_clock_wrong:
            self._open().end(str(Code.LEADER_CLOCK))
        elif now - self._clock_at >= CLOCK_AGAIN_SECONDS:
            self._clock_at = now
            alert = wrong_clock(self._leadership, self._me.host)
            self._open().begin(str(Code.LEADER_CLOCK), alert.text)
            self._store.add_alert(alert)

    def ended(self) -> None:
        """Say that this process stands by no more."""
        self._open().leave()
        self._members.leave(self._me)

    def _open(self) -> OpenTroubles:
        """Return what is wrong with this process, by the name that it has among the others."""
        if self._troubles is None:
            mine = (self._me.host, self._me.folder)  # One that was killed here a moment ago is no other.
            taken = {one.name for one in self._members.all() if one.is_live and (one.host, one.folder) != mine}
            if self._wish and self._wish not in taken:
                self._me = replace(self._me, name=self._wish)
            self._troubles = OpenTroubles(self._store.database, process=self._me.name, clock=time.time)
        return self._troubles

    def _report_keys(self, lacks: Mapping[str, Refused]) -> None:
        troubles = self._open()
        for role in [role for role in self._reported if role not in lacks]:
            troubles.end(self._reported.pop(role), about=role)
            log.info("standby.has_keys", role=role)
        for role, refusal in lacks.items():
            if self._reported.get(role) == refusal.code:
                continue
            if role in self._reported:
                troubles.end(self._reported[role], about=role)
            text = f"{self._me.name}, which stands by, could not sign {role}: {without_key(role, refusal, self._at)}"
            log.error("standby.lacks_key", role=role, code=str(refusal.code), reason=text)
            troubles.begin(str(refusal.code), text, about=role)
            self._reported[role] = str(refusal.code)
            self._store.add_alert(Alert(kind="refused", at=int(time.time()), code=str(refusal.code), text=text))
        troubles.keep()


def wrong_clock(leadership: Leadership, host: str) -> Alert:
    """Return the alert about a clock by which nothing is to be signed."""
    seconds = leadership.clock_differs
    text = (
        f"the clock of {host} is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the database's, more than"
        f" {CLOCK_SECONDS_MAX:.0f} s: this hub does not lead; set both clocks"
    )
    log.error("leader.clock", reason=text)
    return Alert(kind="refused", at=int(time.time() - seconds), code=str(Code.LEADER_CLOCK), text=text)
