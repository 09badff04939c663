"""Holds the rows of the hub's database as frozen values. Knows no SQL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hub.core.drift.intervals import Sums
    from hub.core.drift.subgroups import Subgroups
    from hub.core.drift.windows import Interval
    from hub.core.rollouts.commands import Command
    from schemas.analytics_messages import Alert
    from schemas.errors import Refused

INTERVAL_KEY = ("release", "cohort", "start", "seconds", "calibrated")  # the columns that name an interval, in every table that has them
Status = Literal["online", "disconnected", "lost"]
CommandState = Literal["open", "done", "refused"]


@dataclass(frozen=True, slots=True)
class NodeRow:
    """Hold a node as it last spoke: `state` is the encoded `State`, `public_key` the one that was pinned at first sight."""

    node: str
    session: int
    status: Status
    last_seen: int
    state: bytes
    public_key: bytes
    cohort: str


@dataclass(frozen=True, slots=True)
class NodeMarks:
    """Hold what operators and the hub have noted of a name, beside what the node reports."""

    is_revoked: bool = False
    is_forgotten: bool = False
    expected_until: int | None = None  # new hardware may take the name until then
    duplicate_since: int | None = None  # two devices use the name
    duplicate_last_at: int | None = None  # when that was last seen
    other_key_since: int | None = None  # a device speaks in this name with another key than the one that counts


def marks_of(
    *,
    revoked: Iterable[str],
    forgotten: Iterable[str],
    expected: Iterable[tuple[str, int | None]],
    duplicates: Iterable[tuple[str, int, int]],
    other_keys: Iterable[tuple[str, int]],
) -> dict[str, NodeMarks]:
    """Return marks by name."""
    found: dict[str, NodeMarks] = {name: NodeMarks(is_revoked=True) for name in revoked}
    for name in forgotten:
        found[name] = replace(found.get(name, NodeMarks()), is_forgotten=True)
    for name, until in expected:
        found[name] = replace(found.get(name, NodeMarks()), expected_until=until)
    for name, since, last_at in duplicates:
        found[name] = replace(found.get(name, NodeMarks()), duplicate_since=since, duplicate_last_at=last_at)
    for name, since in other_keys:
        found[name] = replace(found.get(name, NodeMarks()), other_key_since=since)
    return found


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """Hold a verified receipt; `sealed` is what travelled."""

    node: str
    sequence: int
    received_at: int
    at: int
    outcome: Literal["serving", "refused", "rolled_back"]
    model: str | None
    version: str | None
    digest: bytes | None
    since: int | None
    code: str
    reason: str
    sealed: bytes
    epoch: int = 0  # It rises when its node counts anew (hub/core/rollouts/receipt_order.py).


@dataclass(frozen=True, slots=True)
class NodePage:
    """Hold some nodes by name, the receipts of what they serve, and how many nodes there are in all."""

    nodes: Sequence[NodeRow]
    serving: Sequence[ReceiptRow]
    total: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Hold what became of a receipt that came; `epoch` is None where another of the same number stays in its place."""

    is_fresh: bool
    epoch: int | None
    replaces: bool = False  # Another of the same number, which counts no more.


@dataclass(frozen=True, slots=True)
class EarlyReceiptRow:
    """Hold a receipt, not verified, that came before its node had reported its key."""

    id: int
    node: str
    at: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class CommandRow:
    """Hold an operator's command; a refusal in its place where it cannot be read. `text` says how it ended, `code` why it was refused."""

    id: int
    at: int
    kind: str
    model: str
    command: "Command | Refused"
    state: CommandState
    code: str
    text: str
    actor: str | None = None  # the name of the asker; None where a command of an earlier version did


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """Hold the controller's working state of a deployment's rollout; `document` is an encoded `Deployments` of that deployment alone.

    `serial` is that of the model's statement when the row was written. Of the nodes that it has reached: addressed, of which heard from and
    silent; of those heard from, serving (by receipts) and failed.
    """

    model: str
    deployment: str
    serial: int
    document: bytes
    stage_entered_at: int
    held_since: int | None
    judged_from: int
    reason: str
    gates: str  # What each gate says, as JSON (hub/core/rollouts/gates.py).
    addressed: int
    heard: int
    serving: int
    failed: int
    silent: int
    updated_at: int
    actor: str | None = None  # Name of the operator who last acted on the rollout.
    tries_from: int | None = None  # From when on a node's failures use up its tries; None where a hub of an earlier version kept it.

    @property
    def rollout(self) -> str:
        """Return the rollout's id, as logs and traces have it."""
        from schemas import codec  # noqa: PLC0415  # commands that only list nodes do without
        from schemas.deployments import Deployments  # noqa: PLC0415

        return codec.decode(Deployments, self.document).deployments[0].rollout.hex()


@dataclass(frozen=True, slots=True)
class WindowRow:
    """Hold one accepted window: its single-use id, the interval that it belongs to, and its counts flat over the manifest's signals.

    `rows`, `reference_rows`, `noise_units` are those of hub.core.drift.windows; `group` is the random sub-group that it falls into.
    """

    id: bytes
    release: bytes
    model: str
    cohort: str
    start: int
    seconds: int
    counts: "Sequence[int] | NDArray[np.int64]"
    rows: int = 0
    calibrated: bool = False
    reference_rows: float = 0.0
    noise_units: float = 1.0
    group: int = 0


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """Hold the windows of one release and cohort over one interval, added up; untested while `windows > tested_windows`.

    `subgroups` holds the same by random sub-group: windows, rows and counts, int64, a row a group. `late` windows came after a first test.
    """

    release: bytes
    model: str
    cohort: str
    start: int
    seconds: int
    windows: int
    counts: tuple[int, ...]
    last_at: int
    tested_windows: int
    alarmed: bool
    rows: int
    calibrated: bool
    reference_rows: float
    noise_units: float
    late: int
    subgroups: bytes

    @property
    def key(self) -> dict[str, Any]:
        """Return the columns by which it is found."""
        return {name: getattr(self, name) for name in INTERVAL_KEY}

    @property
    def sums(self) -> "Sums":
        """Return its windows, added up."""
        import numpy as np  # noqa: PLC0415  # nodes are read without it

        from hub.core.drift.intervals import Sums  # noqa: PLC0415

        counts, groups = np.array(self.counts, np.int64), np.frombuffer(self.subgroups, np.int64)
        return Sums(self.windows, self.rows, self.reference_rows, self.noise_units, counts, groups, self.late)

    @property
    def interval(self) -> "Interval":
        """Return all of its windows, added up, as the core takes them."""
        from hub.core.drift import intervals  # noqa: PLC0415  # numpy: nodes are read without it

        return intervals.interval(self.sums, model=self.model, **self.key)

    @property
    def groups(self) -> "Subgroups":
        """Return its windows by sub-group."""
        from hub.core.drift import intervals  # noqa: PLC0415  # numpy: nodes are read without it

        return intervals.subgroups(self.sums)


@dataclass(frozen=True, slots=True)
class StreamRow:
    """Hold one release in one cohort over time: `state` is an encoded Detector (hub.core.drift.detector), `episode` an Episode in JSON."""

    release: bytes
    cohort: str
    model: str
    state: bytes
    log_evidence: float
    episode: str | None
    at: int


@dataclass(frozen=True, slots=True)
class CountedRow:
    """Hold a stream's counts of an interval: `part` is a Part (hub.core.drift.e_values) in JSON. Calibrated windows are kept apart."""

    release: bytes
    cohort: str
    start: int
    seconds: int
    calibrated: bool
    part: str


Learnt = tuple[StreamRow, CountedRow]  # a stream after an interval, and what of the interval it has counted


@dataclass(frozen=True, slots=True)
class AlertRow:
    """Hold an alert, as it was published."""

    id: int
    alert: "Alert"


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """Hold a message that was refused."""

    id: int
    at: int
    topic: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class RetainedRow:
    """Hold a payload that the broker holds for us."""

    digest: bytes
    bytes: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class EventRow:
    """Hold an event; `body` has what a program wants to know."""

    id: int
    at: int
    kind: str
    text: str
    body: Mapping[str, Any]
    actor: str | None = None  # the name under which the fleet was changed, where that is what happened


@dataclass(frozen=True, slots=True)
class Served:
    """Hold what a node serves of a model by its receipts: `served_by` is the number of the one that says so, None where none does.

    `epoch` and `sequence` are of the newest receipt of the model.
    """

    node: str
    model: str
    digest: bytes | None
    served_by: int | None
    epoch: int
    sequence: int


def served_after(
    before: Served | None, node: str, model: str, *, outcome: str, digest: bytes | None, epoch: int, sequence: int
) -> Served | None:
    """Return what is served after one more receipt; None where it comes late, so that all have to be read in their order.

    A release that was rolled back is not served any more, also where no receipt says what is served instead.
    """
    if before is None:
        before = Served(node, model, None, None, epoch, sequence)
    elif (epoch, sequence) <= (before.epoch, before.sequence):
        return None
    after = replace(before, epoch=epoch, sequence=sequence)
    if outcome == "serving":
        return replace(after, digest=digest, served_by=sequence)
    if outcome == "rolled_back" and before.digest == digest:
        return replace(after, digest=None, served_by=None)
    return after


def by_model(receipts: Iterable[ReceiptRow]) -> dict[tuple[str, str | None], ReceiptRow]:
    """Return the receipts of what nodes serve by node and model."""
    return {(one.node, one.model): one for one in receipts}
