"""Delivers alerts to receivers: a thread for every webhook and every on_drift hook, beside the loop and never in its way.

Each follows the log of alerts by its own place in the outbox, so that one that hangs holds up nobody, and a restart loses nothing: what was
not confirmed is tried again. The threads share the database with the loop and nothing else.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from hub.alerts.webhooks import Poster, read_secret
from hub.database import postgresql
from hub.database.connection import Database
from hub.database.outbox import Outbox
from hub.database.store import Store
from hub.service.alerts.on_drift import OnDriftHook
from hub.service.alerts.webhook_delivery import WebhookTeller
from hub.service.telemetry.drift_evidence import Evidence
from hub.settings import HubSettings
from schemas.errors import FleetcastError, Unreachable

log = structlog.get_logger()

LOOK_SECONDS = 0.5  # between two looks into the log: a webhook gets an alert within this time
TURN_SECONDS_MAX = 120  # A process that was stopped in the middle of a turn keeps others from a receiver for this long.
STOP_SECONDS = 15.0  # for what is under way when the hub ends: a program has 10 s from SIGTERM


class Hook(Protocol):
    """Do one receiver's work."""

    @property
    def receiver(self) -> str:
        """Return its name in the outbox."""

    def turn(self) -> None:
        """Do what is due."""


class Hooks:
    """Run all receivers."""

    def __init__(
        self, directory: Path, settings: HubSettings, *, store: Store, evidence: Callable[[], Evidence], clock: Callable[[], float]
    ) -> None:
        self._stop, self._threads = threading.Event(), list[threading.Thread]()
        self._outbox, self._database, self._is_shared = Outbox(store.database), store.database, settings.is_on_server
        self._hooks: list[Hook] = []
        for one in settings.webhooks:
            poster = Poster(one.url, read_secret(Path(one.secret_file)), ca_file=one.ca_file, timeout_seconds=one.timeout_seconds)
            self._hooks.append(
                WebhookTeller(
                    one, poster=poster, outbox=self._outbox, fleet=settings.fleet, stopped=self._stop.is_set, clock=clock, rng=Random()
                )
            )
        for hook in settings.on_drift:
            self._hooks.append(
                OnDriftHook(
                    hook,
                    directory=directory,
                    outbox=self._outbox,
                    evidence=evidence(),
                    fleet=settings.fleet,
                    stopped=self._stop.is_set,
                    clock=clock,
                    rng=Random(),
                )
            )

    @property
    def receivers(self) -> Sequence[str]:
        """Return the receivers' names."""
        return [hook.receiver for hook in self._hooks]

    def start(self) -> None:
        """Begin. Hooks that are not set any more are forgotten."""
        self._outbox.keep_only(self.receivers)
        for hook in self._hooks:
            thread = threading.Thread(target=self._work, args=(hook,), name=hook.receiver, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End. A program that runs is ended; a receiver that hangs is not waited for longer than a while."""
        self._stop.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, hook: Hook) -> None:
        turns = Turns(self._database if self._is_shared else None, hook.receiver)
        while not self._stop.wait(LOOK_SECONDS):
            try:
                if turns.is_mine():
                    hook.turn()
            except FleetcastError as error:  # the database does not answer, or the disk is full: it will, and nothing is lost
                log.warning("hook.postponed", receiver=hook.receiver, reason=str(error))
                self._stop.wait(10 * LOOK_SECONDS)
            except Exception:  # a bug of ours: loud, and the next turn is tried
                log.exception("hook.crashed", receiver=hook.receiver)
                self._stop.wait(60 * LOOK_SECONDS)
        turns.close()


class Turns:
    """Let one of several processes deliver to a receiver: as long as it lives, and others once it does not."""

    def __init__(self, database: Database | None, receiver: str) -> None:
        """Ask in this database; None: no other process delivers."""
        self._database, self._receiver = database, receiver
        self._session: Connection | None = None

    def is_mine(self) -> bool:
        """Return whether this process delivers.

        Raises:
            Unreachable: the database does not answer.
        """
        if self._database is None:
            return True
        if self._session is None:
            self._session = self._database.session(idle_seconds=TURN_SECONDS_MAX)
        try:
            return postgresql.take_turn(self._session, self._receiver)
        except SQLAlchemyError as error:
            self.close()
            raise Unreachable(f"database: {error}") from error

    def close(self) -> None:
        """Leave the receiver to others."""
        if self._session is not None:
            self._session.invalidate()
            self._session = None
