"""Decide whether the cause of an alert still lasts, and list the receivers that it went to."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select

from fleetcast.counted import counted
from hub.database.connection import Database
from hub.database.tables import deliveries, receivers
from schemas.analytics_messages import Alert

WEEK_SECONDS: Final = 7 * 86_400
Key = tuple[str, str, str]  # Kind, the node or model@version, and the cohort of a drift or the code of what is wrong with the hub.


def key_of(alert: Alert) -> Key:
    """Return what an alert is about."""
    if alert.kind in {"drift", "drift_over"}:
        return "drift", f"{alert.model}@{alert.version}", alert.cohort or ""
    about = alert.node or alert.model or ""
    return alert.kind, about, "" if about or alert.kind != "refused" else alert.code


def is_open(alert: Alert, now_open: frozenset[Key]) -> bool:
    """Return whether what an alert is about is still so."""
    return alert.kind != "drift_over" and key_of(alert) in now_open


def deliveries_of(database: Database, numbers: Sequence[int]) -> dict[int, list[str]]:
    """Return for each alert what became of it at each receiver that has looked at it: on its way, or handed over or given up."""
    if not numbers:
        return {}
    with database.read() as db:
        waiting = {
            (row.receiver, row.alert): row.attempts
            for row in db.execute(
                select(deliveries.c.receiver, deliveries.c.alert, deliveries.c.attempts).where(deliveries.c.alert.in_(list(numbers)))
            )
        }
        known = db.execute(select(receivers.c.name, receivers.c.cursor).order_by(receivers.c.name)).all()
    found: dict[int, list[str]] = {}
    for number in numbers:
        for receiver, cursor in known:
            attempts = waiting.get((receiver, number))
            if attempts is not None:
                failed = f", {counted(attempts, 'attempt')} failed" if attempts else ""
                found.setdefault(number, []).append(f"{receiver}: on its way{failed}")
            elif number <= cursor:
                found.setdefault(number, []).append(f"{receiver}: looked at")
            else:
                found.setdefault(number, []).append(f"{receiver}: not yet")
    return found
