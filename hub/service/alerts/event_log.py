"""Record events for people: alerts on their topic and in the store, and refusals with their codes. A flood of refusals is cut short."""

from collections.abc import Callable
from typing import Any

import structlog

from hub.database.store import Store
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused

log = structlog.get_logger()

REPEAT_SECONDS = 60  # the same refusal from the same origin is reported once in this time
REPORTS_MAX = 300  # refusals reported in that time, whatever their origin: a hostile broker must not fill the database


class Notes:
    """Write down what happened in the service."""

    def __init__(self, store: Store, *, publish: Callable[[Alert], None], clock: Callable[[], float]) -> None:
        self._store, self._publish, self._clock = store, publish, clock
        self._reported: dict[tuple[str, str, str], float] = {}

    def event(self, kind: str, text: str, **body: Any) -> None:
        """Keep an event, for programs and people who watch."""
        log.info(kind, **body)
        self._store.add_event(kind, text, body)

    def alert(self, alert: Alert) -> None:
        """Keep something that a person should look at, then publish it."""
        log.warning("alert.raised", kind=alert.kind, model=alert.model, node=alert.node, code=alert.code, text=alert.text)
        self._store.add_alert(alert)
        self._publish(alert)

    def refusal(self, refusal: Refused, topic: str) -> None:
        """Note that the hub refused a message, and by which topic it came. That a forgotten node still speaks was reported by its name."""
        if refusal.code == Code.NODE_FORGOTTEN:
            log.debug("message.refused", code=str(refusal.code), topic=topic, reason=refusal.reason)
            return
        if self._may_report(topic, str(refusal.code), ""):
            log.warning("message.refused", code=str(refusal.code), topic=topic, reason=refusal.reason)
            now = int(self._clock())
            self._store.add_refusal(now, topic, str(refusal.code), refusal.reason)
            self.alert(
                Alert(kind="refused", at=now, code=str(refusal.code), text=f"the hub refused a message on {topic}: {refusal.reason}")
            )

    def node_refusal(self, *, node: str, code: str, model: str | None, reason: str) -> None:
        """Note that a node has signed that it refused something."""
        if self._may_report(node, code, model or ""):
            known = code if code in set(Code) else "unknown"
            text = f"node {node} refused {model or 'a message'}: {reason or known}"
            self.alert(Alert(kind="refused", at=int(self._clock()), node=node, model=model, code=code, text=text))

    def _may_report(self, origin: str, code: str, model: str) -> bool:
        now = self._clock()
        self._reported = (
            {key: at for key, at in self._reported.items() if now - at < REPEAT_SECONDS}
            if len(self._reported) >= REPORTS_MAX
            else self._reported
        )
        key = (origin, code, model)
        if now - self._reported.get(key, float("-inf")) < REPEAT_SECONDS or len(self._reported) >= REPORTS_MAX:
            return False
        self._reported[key] = now
        return True
