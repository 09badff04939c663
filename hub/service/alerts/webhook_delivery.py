"""Delivers alerts to one webhook, those of each kind in their order, until it has confirmed each or has been tried for three days."""

from collections.abc import Callable
from random import Random

import structlog

from fleetcast.backoff import Backoff
from fleetcast.counted import counted
from hub.alerts.receivers import Webhook
from hub.alerts.webhooks import Poster
from hub.database.outbox import Delivery, Outbox
from schemas.errors import Unreachable

log = structlog.get_logger()

RETRY = Backoff(5.0, 3600.0)
GIVE_UP_SECONDS = 3 * 24 * 3600  # a weekend, in which nobody mends a receiver


class WebhookTeller:
    """Do one webhook's work."""

    def __init__(
        self,
        webhook: Webhook,
        *,
        poster: Poster,
        outbox: Outbox,
        fleet: str,
        stopped: Callable[[], bool],
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self._webhook, self._poster, self._outbox = webhook, poster, outbox
        self._fleet, self._stopped, self._clock, self._rng = fleet, stopped, clock, rng
        self._failures, self._quiet_until = 0, 0.0  # the receiver's, whichever alert it was

    @property
    def receiver(self) -> str:
        """Return its name in the outbox."""
        return self._webhook.receiver

    def turn(self) -> None:
        """Tell what is due. After a failure the rest waits too: what does not take one alert does not take the next at once."""
        self._outbox.collect(self.receiver, self._webhook.wants)
        if self._clock() < self._quiet_until:
            return
        for delivery in self._outbox.due(self.receiver):
            if self._stopped():
                return
            try:
                self._poster.post(
                    message_id(self._fleet, delivery),
                    delivery.alert.model_dump_json(exclude_none=True).encode(),
                    timestamp=int(self._clock()),
                )
            except Unreachable as error:
                self._failed(delivery, str(error))
                return
            self._failures = 0
            self._outbox.done(self.receiver, [delivery.number])

    def _failed(self, delivery: Delivery, error: str) -> None:
        now, failures = int(self._clock()), delivery.attempts + 1
        self._failures += 1
        self._quiet_until = now + RETRY.after(self._failures).wait_seconds(self._rng.random())
        log.warning("webhook.failed", receiver=self.receiver, alert=delivery.number, failures=failures, reason=error)
        if now - delivery.made_at >= GIVE_UP_SECONDS:
            text = f"{self.receiver}: gave up an alert after {counted(failures, 'attempt')} in three days: {error}"
            body = {"receiver": self.receiver, "alert": delivery.number, "attempts": failures, "reason": error}
            self._outbox.give_up(self.receiver, [delivery.number], text=text, body=body)
        else:
            due_at = now + round(RETRY.after(failures).wait_seconds(self._rng.random())) + 1
            self._outbox.later(self.receiver, [delivery.number], due_at=due_at, error=error)


def message_id(fleet: str, delivery: Delivery) -> str:
    """Return the alert's own id: the same at every attempt and for every receiver. With its time, since a database may begin anew."""
    return f"{fleet}.{delivery.number}.{delivery.alert.at}"
