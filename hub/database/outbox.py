"""Keeps the alerts that a receiver has not had yet: durable, bounded, at least once. Knows no network and no command.

The table of alerts is the log; a receiver has a place in it, its cursor. Moving the cursor and writing down what is due is one transaction,
so that an alert is never lost between the two and never due twice. A delivery is dropped when it was made, or given up; either is counted.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from fleetcast.counted import counted
from hub.core.floods.fair_places import surplus
from hub.database.connection import Database
from hub.database.postgresql import wait_for_writers
from hub.database.tables import alerts, deliveries, events, receivers
from schemas.analytics_messages import Alert

WAITING_MAX = 10_000  # alerts for one receiver; one that is away for more misses the oldest of the kinds that have most
PAGE = 500
ERROR_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Delivery:
    """Hold an alert on its way to a receiver; `attempts` have failed so far, or were cut short."""

    number: int  # the alert's
    alert: Alert
    made_at: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Receiver:
    """Hold the state of a receiver."""

    name: str
    waiting: int
    delivered: int
    given_up: int
    last_at: int | None
    error: str


class Outbox:
    """Hold alerts that receivers have not got yet. Any thread may use it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep_only(self, names: Collection[str]) -> None:
        """Keep only receivers that are set; a new one gets what comes from now on, and of one that is gone nothing is kept."""
        with self._database.write() as db:
            known = set(db.execute(select(receivers.c.name)).scalars())
            for name in known - set(names):
                db.execute(delete(deliveries).where(deliveries.c.receiver == name))
                db.execute(delete(receivers).where(receivers.c.name == name))
            db.execute(delete(deliveries).where(deliveries.c.alert.not_in(select(alerts.c.id))))  # the alerts are not kept any more
            newest = int(db.execute(select(func.max(alerts.c.id))).scalar() or 0)
            for name in sorted(set(names) - known):
                db.execute(insert(receivers).values(name=name, cursor=newest, delivered=0, given_up=0, last_at=None, error=""))

    def collect(self, name: str, wanted: Callable[[Alert], bool]) -> None:
        """Put what is new for a receiver into its outbox; the oldest go where it would hold too many."""
        now = self._database.now()
        with self._database.read() as db:  # most of the time there is nothing, and a reader keeps nobody waiting
            cursor = int(db.execute(select(receivers.c.cursor).where(receivers.c.name == name)).scalar_one())
            query = select(alerts.c.id, alerts.c.body).where(alerts.c.id > cursor).order_by(alerts.c.id).limit(PAGE)
            if db.execute(query.limit(1)).first() is None:
                return
            wait_for_writers(db, alerts)
            found = [(int(row.id), Alert.model_validate_json(row.body)) for row in db.execute(query)]
        due = [number for number, alert in found if wanted(alert)]
        with self._database.write() as db:
            moved = update(receivers).where(receivers.c.name == name, receivers.c.cursor == cursor).values(cursor=found[-1][0])
            if not db.execute(moved).rowcount:
                return  # somebody else has; what is due stands there already
            rows = [{"receiver": name, "alert": number, "made_at": now, "due_at": now, "attempts": 0, "error": ""} for number in due]
            if rows:
                db.execute(insert(deliveries), rows)
                self._bound(db, name)

    def _bound(self, db: Connection, name: str) -> None:
        mine = deliveries.c.receiver == name
        waiting = int(db.execute(select(func.count()).select_from(deliveries).where(mine)).scalar_one())
        if waiting > WAITING_MAX:
            joined = select(deliveries.c.alert, alerts.c.kind).join_from(deliveries, alerts, deliveries.c.alert == alerts.c.id)
            rows = db.execute(joined.where(mine).order_by(deliveries.c.alert)).all()
            gone = [rows[at] for at in surplus([row.kind for row in rows], at_most=WAITING_MAX)]
            for at in range(0, len(gone), PAGE):
                self._end(db, name, [row.alert for row in gone[at : at + PAGE]], delivered=False)
            kinds = Counter(row.kind for row in gone)
            text = f"{name}: {counted(len(gone), 'alert')} given up, more than {WAITING_MAX} wait for it"
            self._event(db, text, {"receiver": name, "kinds": dict(kinds)})

    def due(self, name: str, limit: int = PAGE) -> list[Delivery]:
        """Return what is to be tried now: one of each kind in turn, so that no number of one kind keeps a receiver from another.

        Within a kind what has waited longest is first, so that an alert that is never taken holds up no other.
        """
        turn = func.row_number().over(partition_by=alerts.c.kind, order_by=(deliveries.c.due_at, deliveries.c.alert))
        query = (
            select(deliveries.c.alert, deliveries.c.made_at, deliveries.c.attempts, alerts.c.body)
            .join_from(deliveries, alerts, deliveries.c.alert == alerts.c.id)
            .where(deliveries.c.receiver == name, deliveries.c.due_at <= self._database.now())
            .order_by(turn, deliveries.c.due_at, deliveries.c.alert)
            .limit(limit)
        )
        with self._database.read() as db:
            return [Delivery(row.alert, Alert.model_validate_json(row.body), row.made_at, row.attempts) for row in db.execute(query)]

    def begin(self, name: str, numbers: Sequence[int]) -> None:
        """Count an attempt at each before it is made: durable before the effect, for what must not be tried for ever."""
        with self._database.write() as db:
            db.execute(_of(update(deliveries), name, numbers).values(attempts=deliveries.c.attempts + 1))

    def later(self, name: str, numbers: Sequence[int], *, due_at: int, error: str, failed: bool = True) -> None:
        """Try again at `due_at`; an attempt that `failed` is counted."""
        short = error[:ERROR_CHARACTERS_MAX]
        with self._database.write() as db:
            more = {"attempts": deliveries.c.attempts + 1} if failed else {}
            db.execute(_of(update(deliveries), name, numbers).values(due_at=due_at, error=short, **more))
            db.execute(update(receivers).where(receivers.c.name == name).values(error=short))

    def done(self, name: str, numbers: Sequence[int], *, text: str = "", body: Mapping[str, Any] | None = None) -> None:
        """Mark as delivered; with an event, where there is something to say."""
        with self._database.write() as db:
            self._end(db, name, numbers, delivered=True)
            if text:
                self._event(db, text, body or {})

    def give_up(self, name: str, numbers: Sequence[int], *, text: str, body: Mapping[str, Any], error: str = "") -> None:
        """Mark as given up, with an event: the receiver will not get them. `error` takes the place of the last one."""
        with self._database.write() as db:
            self._end(db, name, numbers, delivered=False)
            if error:
                db.execute(update(receivers).where(receivers.c.name == name).values(error=error[:ERROR_CHARACTERS_MAX]))
            self._event(db, text, body)

    def receivers(self) -> list[Receiver]:
        """Return the state of every receiver, by name."""
        waiting = select(deliveries.c.receiver, func.count()).group_by(deliveries.c.receiver)
        with self._database.read() as db:
            counts = {row[0]: int(row[1]) for row in db.execute(waiting)}
            rows = db.execute(select(receivers).order_by(receivers.c.name)).all()
        return [Receiver(row.name, counts.get(row.name, 0), row.delivered, row.given_up, row.last_at, row.error) for row in rows]

    def _end(self, db: Connection, name: str, numbers: Sequence[int], *, delivered: bool) -> None:
        gone = db.execute(_of(delete(deliveries), name, numbers)).rowcount
        column = receivers.c.delivered if delivered else receivers.c.given_up
        values: dict[str, Any] = {column.name: column + gone} | ({"last_at": self._database.now(), "error": ""} if delivered else {})
        db.execute(update(receivers).where(receivers.c.name == name).values(values))

    def _event(self, db: Connection, text: str, body: Mapping[str, Any]) -> None:
        db.execute(insert(events).values(at=self._database.now(), kind="hook", text=text, body=json.dumps(body)))


def _of(statement: Any, name: str, numbers: Sequence[int]) -> Any:
    return statement.where(deliveries.c.receiver == name, deliveries.c.alert.in_(list(numbers)))
