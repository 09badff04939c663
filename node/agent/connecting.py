"""Connect to the broker again and again, and know whose session it keeps. The attempt itself is in a thread: where nothing answers, or only
half, it takes up to a minute, and no turn of the loop waits for it.
"""

import threading
from collections.abc import Callable
from random import Random
from typing import Literal

import structlog

from fleetcast.backoff import LASTING_SECONDS, SHORT_CONNECTIONS_MIN, Backoff, Reconnection
from fleetcast.mqtt_connection import CONNACK_SECONDS, Connected, Disconnected
from node.agent.events import ConnectionOpened
from node.broker.mqtt import NodeLink
from node.core.trust.clock import MonotonicClock, WallClock, trusted_now
from node.storage.store import NodeStore
from schemas.errors import Unreachable

log = structlog.get_logger()

RETRY = Backoff(0.5, 120.0)
CLIENT_ID_HAS_FLEET = "client_id_has_fleet"  # Fact: whether the fleet's name was a part of it at the last connection.


class Connecting:
    """Keep one node's connection coming back. Called by the loop's thread alone; only `link.open` runs in another."""

    def __init__(
        self,
        *,
        node: str,
        store: NodeStore,
        wall: WallClock,
        monotonic: MonotonicClock,
        rng: Random,
        post: Callable[[ConnectionOpened], None],
    ) -> None:
        self._node, self._store, self._wall, self._monotonic, self._rng, self._post = node, store, wall, monotonic, rng, post
        self._session_of: Literal["unknown", "another", "us"] = "unknown"  # The process that the broker keeps its session for.
        self._has_fleet = 0
        self._is_opening = False
        self._clock_floor = 0
        self.apart: Callable[[Callable[[], None]], object] = lambda do: do()
        self.again = Reconnection(RETRY)
        self.session = 0

    def now(self) -> float:
        """Return the time by which the broker's certificate is judged; any thread may ask."""
        return trusted_now(int(self._wall()), self._clock_floor)

    def _take_client_id(self, client_id: str) -> None:
        """Take in by which client id this process connects: that the broker has no session of a new one does not prove that it forgot."""
        self._has_fleet = int(client_id != self._node)
        if self._store.fact(CLIENT_ID_HAS_FLEET) != self._has_fleet:
            self._session_of = "another"

    @property
    def is_due(self) -> bool:
        """Return whether to try now, where there is no connection."""
        return not self._is_opening and float(self._monotonic()) >= self.again.due_at

    def begin_anew(self) -> None:
        """Have the next attempt end the broker's session, and be made at once."""
        self._session_of = "another"
        self.again.released()

    def begin(self, link: NodeLink, *, alone: bool = False) -> None:
        """Begin an attempt; `ConnectionOpened` says how it ended. `alone`: nothing that an earlier session waits for is to arrive."""
        self.again.attempted(float(self._monotonic()), self._rng.random())
        self._take_client_id(link.client_id)
        if self._store.stuck:  # A number that is not durable is above all that an earlier process may have used, whatever it could keep.
            self._store.raise_fact("session", int(self._wall()))
        session, at, is_clean = self._store.next("session"), int(self._wall()), alone or self._session_of == "another"
        self.session, self._clock_floor = session, self._store.fact("clock_floor")

        def run() -> None:
            failure = "the attempt was given up"
            try:
                link.open(session=session, at=at, clean=is_clean)
                failure = ""
            except Unreachable as error:
                failure = str(error)
            except Exception as error:
                log.exception("bug.survived", doing="open")
                failure = f"a bug of fleetcast was survived: {type(error).__name__}: {error}"
            finally:
                self._post(ConnectionOpened(failure))

        self._is_opening = True
        self.apart(run)

    def opened(self, failure: str, *, online: bool) -> str:
        """Take in how an attempt ended, and return why it failed; "" where the broker's answer follows, or has come."""
        self._is_opening = False
        if online:
            return ""
        now = float(self._monotonic())
        if not failure:
            self.again.answering(now, CONNACK_SECONDS)
            return ""
        self._session_of = "us" if self._session_of == "us" else "unknown"  # Nobody knows what it remembers when it is back.
        log.warning("broker.unreachable", reason=failure, again_seconds=round(self.again.due_at - now, 1))
        return failure

    def accepted(self, event: Connected) -> Literal["remembers", "forgot", "another's"]:
        """Take in that the broker accepts us, and return what its session is. Another's has to be ended, and a new one begun."""
        log.info("broker.connected", session_present=event.session_present, session=self.session)
        if event.session_present and self._session_of == "unknown":
            # The session is an earlier process's memory: this process would never hear what that one acknowledged. The session proves
            # that the broker forgot nothing, and is then ended: some brokers give what they retain to no subscription that they know.
            self._session_of = "another"
            self.again.released()
            return "another's"
        if self._store.fact(CLIENT_ID_HAS_FLEET) != self._has_fleet and not self._store.stuck:
            self._store.set_fact(CLIENT_ID_HAS_FLEET, self._has_fleet)
        forgot = not event.session_present and self._session_of != "another"
        self._session_of = "us"
        self.again.accepted(float(self._monotonic()))
        return "forgot" if forgot else "remembers"

    def ended(self, event: Disconnected) -> str:
        """Take in that the connection ended, and return the reason for people."""
        wait = self.again.ended(float(self._monotonic()), self._rng.random(), taken_over=event.taken_over)
        log.warning("broker.disconnected", reason=event.reason, again_seconds=round(wait, 1))
        if event.taken_over:
            self._session_of = "another"  # It acknowledges what is meant for us: the broker's session is no memory of this process.
            return f"{event.reason}: another device has connected as {self._node!r}; the next attempt is in {wait:.0f} s"
        if self.again.short_in_a_row >= SHORT_CONNECTIONS_MIN:
            return (
                f"{event.reason}: {self.again.short_in_a_row} connections in a row lasted less than {LASTING_SECONDS:.0f} s;"
                f" the link is bad, or another device connects as {self._node!r}"
            )
        return event.reason


def in_thread(do: Callable[[], None]) -> None:
    """Run an attempt beside the loop; the end of the process does not wait for it."""
    threading.Thread(target=do, name="connecting", daemon=True).start()
