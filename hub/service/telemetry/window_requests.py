"""Asks nodes to send windows again that a broker acknowledged to them, and that never came here.

A broker that loses this process's session loses the windows that waited in it. So does a cluster while the broker that had the session is
dead: the others acknowledge, and have nobody to give it to. Nodes whose own session was kept cannot know. This process notices when the
broker has no session of it although there was one, and asks every node for what it sent in that time.

A request is not retained: on a node's topic of settings it would replace its settings, and another topic would change every access list.
The hub keeps in its database which nodes it still asks, and asks each while it is connected, until it has reported its state over the same
connection afterwards. A node answers a request once, however often it hears it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog

from hub.database.connection import Database
from hub.database.window_requests import NodeRequest, WindowRequests, WindowSession
from hub.service.rollouts.listening import ListeningClock
from schemas.errors import Unreachable
from schemas.window_request import WindowRequest

log = structlog.get_logger()

MARGIN_SECONDS = 300.0  # Before the last moment that was heard: a broker that dies silently is noticed after two keep-alives.
SETTLE_SECONDS = 30.0  # After the broker's answer: nodes that lost their session, too, come back, and brokers learn who subscribed.
LOOK_SECONDS = 5.0
AT_ONCE_MAX = 100  # Requests of one look: ten thousand nodes answer over eight minutes. AWS takes 100 publishes a second.
ASKS_MIN = 2  # Requests to each node: a cluster hands each message from broker to broker once, and may lose one.
AGAIN_SECONDS, AGAIN_SECONDS_MAX = 600.0, 86_400.0  # Between two requests to one node: doubling, and longer than nodes refuse to answer.
RECONNECTED_SECONDS = 60.0  # At least between two requests to a node that connects again and again.
HEARD_SECONDS = 10.0  # A report that came so long after a request was made after it.
KEEP_SECONDS = 60.0  # Between two times that it is kept until when this process heard.

BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the name of this boot of the machine; "" where the system has none, and no moment is compared with one before a restart."""
    try:
        return BOOT.read_text().strip()[:64]
    except OSError:
        return ""


class LostWindows:
    """Notice that windows were lost, and ask for them. All times are monotonic, but for those of the clock of listening."""

    def __init__(
        self,
        database: Database,
        *,
        process: str,
        ask: Callable[[str, WindowRequest], None],
        listening: ListeningClock,
        random_bytes: Callable[[int], bytes],
        monotonic: Callable[[], float],
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self._rows, self._process, self._ask, self._listening = WindowRequests(database, process), process, ask, listening
        self._random_bytes, self._monotonic = random_bytes, monotonic
        self._boot = boot()
        self._session: WindowSession | None = None
        self._is_new = True  # No session of this process is known.
        self._is_lost = False  # A session was lost, and that is not written down yet.
        self._is_granted = True  # The broker gives windows to this process since the last loss.
        self._granted_at = float("-inf")
        self._pending = 0  # Nodes that are still asked.
        self._looked_at = self._kept_at = float("-inf")

    def begin(self) -> None:
        """Take up what an earlier process has left."""
        found = self._rows.session()
        self._is_new, self._pending = found is None, self._rows.count()
        self._is_lost = found is not None and not found.is_judged
        heard_at = found.heard_at if found is not None and self._boot and found.boot == self._boot else None
        if found is not None and heard_at is None and self._pending:
            self._rows.other_boot(self._monotonic())
        self._session = WindowSession(self._process, self._boot, heard_at, is_judged=False)
        self._is_granted = not self._pending
        if found is not None:
            self._rows.keep(self._session)

    def connected(self, *, session_present: bool) -> None:
        """Take in that the broker accepted this process, before it subscribes; it is durable when this returns."""
        if self._session is None:
            return
        self._is_lost = self._is_lost or not session_present
        self._is_granted = False
        session = replace(self._session, is_judged=True)
        if self._is_lost and not self._is_new:
            since = None if session.heard_at is None else session.heard_at - MARGIN_SECONDS
            number = int.from_bytes(self._random_bytes(4)) % (2**31 - 1) + 1
            self._pending = self._rows.lose(session, number=number, since=since)
            log.warning("windows.lost", nodes=self._pending, since_seconds=None if since is None else round(self._monotonic() - since))
        else:
            session = replace(session, heard_at=self._monotonic()) if self._is_new else session  # What came before was nobody's to take in.
            self._rows.keep(session)
        self._session, self._is_lost, self._is_new = session, False, False

    def tick(self, *, online: bool) -> None:
        """Follow until when this process hears everything, and ask nodes, some at a time."""
        if self._session is None:
            return
        now = self._monotonic()
        if not online:
            if self._session.is_judged and not self._is_new:
                self._session = replace(self._session, is_judged=False)
                self._rows.keep(self._session)
            return
        if not self._listening.is_subscribed:
            return
        if not self._is_granted:
            if self._pending:
                self._rows.grant(now)
            self._is_granted, self._granted_at = True, now
        if not self._listening.runs:
            return
        self._session = replace(self._session, heard_at=now)
        if now - self._kept_at >= KEEP_SECONDS:
            self._keep(self._session, now)
        if self._pending and now - self._granted_at >= SETTLE_SECONDS and now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._ask_some(now)

    def leave(self) -> None:
        """Keep until when this process heard."""
        if self._session is not None and not self._is_new:
            self._keep(self._session, self._monotonic())

    def _keep(self, session: WindowSession, now: float) -> None:
        self._kept_at = now
        self._rows.keep_soon(session)
        if self._pending:
            self._pending = self._rows.drop_answered(asks=ASKS_MIN, seconds=HEARD_SECONDS)

    def _ask_some(self, now: float) -> None:
        listened, asked = self._listening.seconds, list[NodeRequest]()
        try:
            for one in self._rows.due(listened, pause_seconds=RECONNECTED_SECONDS, at_most=AT_ONCE_MAX):
                self._ask(one.node, _request(one, now))
                pause = min(AGAIN_SECONDS * 2.0**one.asks, AGAIN_SECONDS_MAX)
                asked.append(replace(one, asks=min(one.asks + 1, 16), asked_at=listened, due_at=listened + pause))
        except Unreachable as error:
            log.warning("windows.not_asked", reason=str(error))
        if asked:
            self._rows.asked(asked)
            log.info("windows.asked", nodes=len(asked), pending=self._pending)


def _request(one: NodeRequest, now: float) -> WindowRequest:
    since = None if one.since is None else int(now - one.since) + 1
    return WindowRequest(one.number, since, int(now - one.until))
