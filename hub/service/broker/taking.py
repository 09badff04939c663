"""Takes messages in and then acknowledges them: a refusal is noted, a bug of ours is logged, and both would only come again."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from fleetcast.mqtt_connection import Message
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import HubLink, ReceiptArrived, StateArrived, WindowArrived
from hub.service.own_disk import OWN_DISK
from schemas.errors import Refused, Unreachable

log = structlog.get_logger()
E = TypeVar("E", WindowArrived, ReceiptArrived, StateArrived)


class Taking:
    """Handle what nodes send, one message or many; what the hub itself cannot keep now is not acknowledged."""

    def __init__(self, link: HubLink, notes: Notes) -> None:
        self._link, self._notes = link, notes

    def one(self, message: Message, handle: Callable[[], None]) -> None:
        """Handle, then acknowledge."""
        try:
            handle()
        except Unreachable:
            raise
        except Refused as refusal:
            if refusal.code in OWN_DISK:
                raise  # nothing is wrong with the message
            self._notes.refusal(refusal, message.topic)
        except Exception:
            log.exception("message.failed", topic=message.topic, bytes=len(message.payload))
        self._link.ack(message)

    def many(self, events: Sequence[E], take: Callable[[Sequence[E]], None]) -> None:
        """Handle together, then acknowledge."""
        try:
            take(events)
        except (Unreachable, Refused):
            raise
        except Exception:  # one of them is a bug of ours: the others must not suffer for it
            log.exception("batch.failed", kind=type(events[0]).__name__, messages=len(events))
            for event in events:
                try:
                    take([event])
                except (Unreachable, Refused):
                    raise
                except Exception:
                    log.exception("message.failed", topic=event.message.topic, bytes=len(event.message.payload))
        self._link.ack_all(event.message for event in events)
