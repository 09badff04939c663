"""Let nodes fetch, by the real cores or by a model of them: both begin nodes, advance them by a step, and say what each waited for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import floor, inf

import numpy as np
from numpy.typing import NDArray

from node.core.delivery.byte_quota import TransferUsage, allowance
from node.core.delivery.transfer import Piece, pieces
from schemas.manifest import Block
from schemas.names import sha256
from schemas.rollout import Carriage
from schemas.windows import is_open
from simulation.core.environment import Moment
from simulation.core.outcome import REASONS, Reason
from simulation.core.plan import Group, Plan
from simulation.core.schedule import Floats
from simulation.core.transfers import Fleet, Node, Road

NODE_WINDOW_BYTES = 8 * 1024 * 1024  # As nodes have it, where their settings say nothing.
Rows = NDArray[np.int64]
NO_ROWS: Rows = np.zeros(0, np.int64)
CODE: dict[Reason, int] = {reason: at for at, reason in enumerate(REASONS)}


@dataclass(slots=True)
class Waits:
    """Add up for each node the seconds that it waited, by reason."""

    seconds: NDArray[np.float32]  # reasons x nodes

    @classmethod
    def of(cls, nodes: int) -> "Waits":
        """Return the sums of nodes that have not waited yet."""
        return cls(np.zeros((len(REASONS), nodes), np.float32))

    def add(self, reason: Reason, rows: Rows, seconds: Floats | float) -> None:
        """Add a wait of these nodes, each of which is named once."""
        self.seconds[CODE[reason], rows] += np.asarray(seconds, np.float32)


def stopped_by(moment: Moment, rows: Rows, groups: NDArray[np.int64], waits: Waits, seconds: Floats) -> None:
    """Add the seconds of a step in which nodes did not fetch, by what stopped them."""
    off = moment.off_seconds[rows] > 0
    closed = ~off & ~moment.fetch_open[groups]
    waits.add("schedule", rows[off], seconds[off])
    waits.add("window", rows[closed], seconds[closed])
    rest = ~off & ~closed
    waits.add("budget", rows[rest], seconds[rest])


class ModelFetching:
    """Let nodes fetch by a model in numpy: payload bytes flow at a node's pace while it is on, its windows are open and its day has bytes.

    The pace is its link's rate over `slowness`, which the cores have shown of such nodes. `waste`: bytes carried for each one needed.
    """

    def __init__(self, plan: Plan, rows: Rows, groups: NDArray[np.int64], *, rates: Floats, slowness: Floats, waste: Floats) -> None:
        self.rows, self._groups = rows, groups
        self.waste = waste
        self.speed = rates / slowness
        sizes = [float(group.fetch.bytes) if group.fetch is not None else 0.0 for group in plan.groups]
        self.remaining = np.array(sizes)[groups]
        self.sizes = self.remaining.copy()
        self._day_bytes = np.array([day_bytes(group) for group in plan.groups])[groups] / waste
        self._spent = np.zeros(len(rows))
        self._day = np.full(len(rows), -1, np.int64)
        self._active = NO_ROWS
        self.fetched_at = np.full(len(rows), np.inf)
        self.begun_at = np.full(len(rows), np.inf)

    def begin(self, rows: Rows, seconds: float) -> None:
        """Begin the transfers of these nodes."""
        at = np.searchsorted(self.rows, rows)
        self.begun_at[at] = seconds
        self._active = np.concatenate([self._active, at])

    def advance(self, moment: Moment, seconds: float, waits: Waits) -> tuple[Rows, Floats]:
        """Fetch for a step; return the nodes that have everything now, and when each had."""
        at = self._active
        if not len(at):
            return NO_ROWS, np.zeros(0)
        rows, groups = self.rows[at], self._groups[at]
        new_day = at[self._day[at] != moment.day[groups]]
        self._spent[new_day] = 0.0
        self._day[at] = moment.day[groups]
        may = (moment.off_seconds[rows] <= 0) & moment.fetch_open[groups] & moment.hours_open[groups]
        speed = self.speed[at]
        left = np.maximum(0.0, self._day_bytes[at] - self._spent[at])
        amount = np.where(may, np.minimum(np.minimum(speed * seconds, self.remaining[at]), left), 0.0)
        busy = np.divide(amount, speed, out=np.zeros_like(amount), where=speed > 0)
        self.remaining[at] -= amount
        self._spent[at] += amount
        done = self.remaining[at] <= 0.5
        waits.add("link", rows, busy)
        idle = ~done & (busy < seconds - 1e-6)
        stopped_by(moment, rows[idle], groups[idle], waits, seconds - busy[idle])
        self.fetched_at[at[done]] = moment.seconds + busy[done]
        self._active = at[~done]
        return rows[done], self.fetched_at[at[done]]

    def carried_bytes(self) -> Floats:
        """Return the bytes that crossed each node's link."""
        found: Floats = (self.sizes - self.remaining) * self.waste
        return found


def day_bytes(group: Group) -> float:
    """Return what a node of a group fetches in a day at most: whole payloads only, for a budget is a hard stop."""
    most = group.policy.bytes_day_max
    if most is None or group.fetch is None or not group.fetch.payloads:
        return inf
    size = max(group.fetch.payloads)
    return float(floor(most / size) * size) if most < group.fetch.bytes else inf


class CoreFetching:
    """Let nodes fetch by the real cores: block server, transfers, byte budgets."""

    def __init__(self, plan: Plan, rows: Rows, groups: NDArray[np.int64], *, rates: Floats, seed: int) -> None:
        self.rows, self.groups, self._plan = rows, groups, plan
        self.fleet = Fleet(seed, window_bytes=NODE_WINDOW_BYTES)
        self._wanted = pieces_of(plan)
        quotas = [self._quota_of(group) for group in plan.groups]
        self._nodes = [
            self.fleet.add(road(plan.groups[group], float(rate)), self._wanted[group], quota=quotas[group])
            for group, rate in zip(groups.tolist(), rates.tolist(), strict=True)
        ]
        self._on = np.zeros(len(rows), bool)
        self._begun = np.zeros(len(rows), bool)
        self._busy = np.zeros(len(rows))
        self._permits: tuple[object, ...] = ()
        self.fetched_at = np.full(len(rows), np.inf)
        self.begun_at = np.full(len(rows), np.inf)

    def begin(self, rows: Rows, seconds: float) -> None:
        """Begin the transfers of these nodes, which are on."""
        for at in np.searchsorted(self.rows, rows).tolist():
            self._begun[at], self._on[at], self.begun_at[at] = True, True, seconds
            self.fleet.begin(self._nodes[at])
            self.fleet.switch(self._nodes[at], on=True)

    def advance(self, moment: Moment, seconds: float, waits: Waits) -> tuple[Rows, Floats]:
        """Fetch for a step; return the nodes that have everything now, and when each had."""
        active = np.flatnonzero(self._begun & np.isinf(self.fetched_at))
        if not len(active):
            self.fleet.advance(moment.seconds + seconds)
            return NO_ROWS, np.zeros(0)
        on = moment.off_seconds[self.rows[active]] <= 0
        for at in active[on != self._on[active]].tolist():
            self._on[at] = not self._on[at]
            self.fleet.switch(self._nodes[at], on=bool(self._on[at]))
        permits = (moment.day.tobytes(), moment.fetch_open.tobytes(), moment.hours_open.tobytes())
        if permits != self._permits:
            self._permits = permits
            for at in active.tolist():
                self.fleet.look(self._nodes[at])
        self.fleet.advance(moment.seconds + seconds)
        return self._taken(active, moment, seconds, waits)

    def _taken(self, active: Rows, moment: Moment, seconds: float, waits: Waits) -> tuple[Rows, Floats]:
        nodes = [self._nodes[at] for at in active.tolist()]
        busy = np.array([node.busy_seconds for node in nodes]) - self._busy[active]
        self._busy[active] += busy
        waits.add("link", self.rows[active], busy)
        done = np.array([node.done_at is not None for node in nodes])
        idle = ~done & (busy < seconds - 1e-6)
        stopped_by(moment, self.rows[active[idle]], self.groups[active[idle]], waits, seconds - busy[idle])
        finished = active[done]
        self.fetched_at[finished] = [node.done_at for node in nodes if node.done_at is not None]
        return self.rows[finished], self.fetched_at[finished]

    def carried_bytes(self) -> Floats:
        """Return the bytes that crossed each node's link."""
        return np.array([float(node.carried_bytes) for node in self._nodes])

    def needed_bytes(self) -> Floats:
        """Return the bytes of each node's payloads that have arrived."""
        sizes = {piece.payload.digest: piece.payload.bytes for one in self._wanted for piece in one}
        return np.array([float(sum(sizes[digest] for digest in node.taken)) for node in self._nodes])

    def busy_seconds(self) -> Floats:
        """Return how long nothing but the road kept each node from fetching."""
        return self._busy

    def _quota_of(self, group: Group) -> "Quota | None":
        carriage = self._plan.rollout.carriage or Carriage()
        is_free = group.policy.bytes_day_max is None and not group.policy.hours and carriage.fetch is None and carriage.bytes_max is None
        instead = group.fetch.instead_bytes if group.fetch is not None else 0
        return None if is_free and not instead else Quota(group, carriage, self._plan.start, instead)


@dataclass(slots=True)
class Quota:
    """Apply the byte budgets of a group's nodes, as their agent does."""

    group: Group
    carriage: Carriage
    start: int
    instead_bytes: int
    looked_at: tuple[int, bool] = (-1, True)  # The minute of the last look at the rollout's times, and whether they were open.

    def __call__(self, node: Node, now: float) -> int:
        """Return how many more bytes a node may ask for now."""
        transfer = node.transfer
        if transfer is None or not transfer.missing:
            return 0
        local = datetime.fromtimestamp(self.start + now, self.group.zone)
        if local.toordinal() != node.day:
            node.day, node.today_bytes = local.toordinal(), 0
        minute = int(self.start + now) // 60
        if self.carriage.fetch is not None and self.looked_at[0] != minute:
            self.looked_at = minute, is_open(self.carriage.fetch, self.start + now, self.group.zone)
        return allowance(
            self.group.policy,
            self.carriage,
            TransferUsage(node.arrived_bytes, transfer.in_flight_bytes, transfer.missing_bytes, self.instead_bytes),
            next_bytes=transfer.missing[0].payload.bytes,
            link=self.group.link.cost_class,
            today_bytes=node.today_bytes + transfer.in_flight_bytes,
            local=local,
            is_window_open=self.looked_at[1],
        ).bytes


def pieces_of(plan: Plan) -> list[Sequence[Piece]]:
    """Return what the transfers of each group's nodes fetch; groups that fetch the same share its blocks."""
    found: dict[object, Sequence[Piece]] = {}
    for group in plan.groups:
        if group.fetch is not None and group.fetch not in found:
            name = repr((group.fetch.payloads, group.fetch.instead_bytes)).encode()
            blocks = [Block(sha256(name + b"%d" % number), size) for number, size in enumerate(group.fetch.payloads)]
            found[group.fetch] = pieces([blocks], ("raw",))
    return [found[group.fetch] if group.fetch is not None else () for group in plan.groups]


def road(group: Group, rate: float) -> Road:
    """Return the road of a node whose link carries this many bytes a second."""
    link = group.link
    return Road(
        bytes_per_second=rate,
        latency_seconds=link.latency_seconds,
        drop=link.drops_per_day / timedelta(days=1).total_seconds(),
        outage_seconds=link.outage_seconds,
    )
