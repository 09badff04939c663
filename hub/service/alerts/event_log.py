"""Record events for people: alerts on their topic and in the store, and refusals with their codes. A flood of refusals is cut short."""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import structlog

from hub.database.store import Store
from hub.service.alerts.open_troubles import OpenTroubles
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused, Unreachable

log = structlog.get_logger()

REPEAT_SECONDS = 60  # the same refusal from the same origin is reported once in this time
UNKEPT_MAX = 256  # Alerts that wait for a database that takes nothing; beyond it the oldest are left to the log.
REPORTS_MAX = 40  # refusals of one kind reported in that time, whatever their origin: a hostile broker must not fill the database


class Notes:
    """Write down what happened in the service."""

    def __init__(self, store: Store, *, publish: Callable[[Alert], None], clock: Callable[[], float], process: str = "hub") -> None:
        self._store, self._publish, self._clock = store, publish, clock
        # By kind, so that none pushes another out: who refused, the hub or a node, and the code.
        self._reported: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
        self._left_out: Counter[tuple[str, str]] = Counter()  # by kind, since the last that was reported
        self._unkept: deque[Alert] = deque(maxlen=UNKEPT_MAX)
        self.troubles = OpenTroubles(store.database, process=process, clock=clock)
        self.alerts: Counter[str] = Counter()  # Alerts by kind, and messages that the hub refused by code, since the start.
        self.refused: Counter[str] = Counter()

    def event(self, kind: str, text: str, **body: Any) -> None:
        """Keep an event, for programs and people who watch."""
        log.info(kind, **body)
        self._store.add_event(kind, text, body)

    def alert(self, alert: Alert) -> None:
        """Keep something that a person should look at, then publish it. What the database does not take now, `keep_late` keeps.

        Raises:
            Unreachable: the database does not answer.
            Refused: it has no room.
        """
        log.warning("alert.raised", kind=alert.kind, model=alert.model, node=alert.node, code=alert.code, text=alert.text)
        self.alerts[alert.kind] += 1
        try:
            self._store.add_alert(alert)
        except (Unreachable, Refused):  # Most of what raises an alert does so once: it would be lost.
            self._unkept.append(alert)
            raise
        self._publish(alert)

    def keep_late(self) -> None:
        """Keep what is wrong now, and publish alerts that the database did not take when they were raised; some may wait on."""
        self.troubles.keep()
        for _ in range(len(self._unkept)):
            alert = self._unkept.popleft()
            try:
                self._store.add_alert(alert)
            except (Unreachable, Refused):
                self._unkept.append(alert)  # Behind the others: what it never takes keeps none of them.
                return
            self._publish(alert)

    def refusal(self, refusal: Refused, topic: str) -> None:
        """Note that the hub refused a message, and by which topic it came. That a forgotten node still speaks was reported by its name."""
        self.refused[str(refusal.code)] += 1
        if refusal.code == Code.NODE_FORGOTTEN:
            log.debug("message.refused", code=str(refusal.code), topic=topic, reason=refusal.reason)
            return
        kind = ("hub", str(refusal.code))
        if self._may_report(kind, topic, ""):
            log.warning("message.refused", code=str(refusal.code), topic=topic, reason=refusal.reason)
            now = int(self._clock())
            self._store.add_refusal(now, topic, str(refusal.code), refusal.reason)
            self.alert(
                Alert(
                    kind="refused",
                    at=now,
                    code=str(refusal.code),
                    text=f"the hub refused a message on {topic}: {refusal.reason}{self._rest(kind)}",
                )
            )

    def node_refusal(self, *, node: str, code: str, model: str | None, reason: str) -> None:
        """Note that a node has signed that it refused something."""
        known = code if code in set(Code) else "unknown"
        kind = ("node", known)
        if self._may_report(kind, node, f"{code} {model or ''}"):
            text = f"node {node} refused {model or 'a message'}: {reason or known}{self._rest(kind)}"
            self.alert(Alert(kind="refused", at=int(self._clock()), node=node, model=model, code=code, text=text))

    def _may_report(self, kind: tuple[str, str], origin: str, about: str) -> bool:
        now, mine = self._clock(), self._reported.setdefault(kind, {})
        key = (origin, about)
        if len(mine) >= REPORTS_MAX:
            mine = self._reported[kind] = {one: at for one, at in mine.items() if 0 <= now - at < REPEAT_SECONDS}
        if 0 <= now - mine.get(key, float("-inf")) < REPEAT_SECONDS or len(mine) >= REPORTS_MAX:
            self._left_out[kind] += 1
            return False
        mine[key] = now
        return True

    def _rest(self, kind: tuple[str, str]) -> str:
        """Return in words how many of a kind were not reported since the last that was."""
        count = self._left_out.pop(kind, 0)
        return f" (and {count} more refusals of this kind since the last report)" if count else ""
