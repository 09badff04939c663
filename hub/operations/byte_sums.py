"""Sum up what a day has cost in bytes, by link, release or site: planned, received, reused and wasted, by receipts and reports."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal

from sqlalchemy import select

from hub.core.delivery.receipt_counts import Counts
from hub.core.rollouts.fleet import Node
from hub.database import tables
from hub.database.connection import Database
from schemas import codec
from schemas.errors import Code, Refused
from schemas.receipt import Receipt, SealedReceipt

DAY: Final = 86_400
FIRST: Final = date(2000, 1, 1)
DATE_CHARACTERS: Final = 10
RECEIPTS_MAX: Final = 20_000  # A day with a rollout to ten thousand nodes, and its way back.
RELEASES_MAX: Final = 256  # Releases of a day whose earlier receipts are read.
UNKNOWN_LINK: Final = "not reported"
By = Literal["link", "release", "site", "node"]
# States of a slot whose transfer has not ended in a receipt yet.
UNDER_WAY: Final = frozenset({"fetching", "out_of_budget", "staged", "testing", "shadow"})


@dataclass(frozen=True, slots=True)
class Transfer:
    """Hold one node's bytes of one release."""

    node: str
    link: str
    site: str
    release: str  # model@version
    planned: int
    received: int
    reused: int
    wasted: int


@dataclass(frozen=True, slots=True)
class Sum:
    """Hold the bytes of several transfers."""

    name: str
    nodes: int
    planned: int
    received: int
    reused: int
    wasted: int


@dataclass(frozen=True, slots=True)
class Day:
    """Hold the transfers of a day; `is_cut`: there were more receipts than are read."""

    transfers: tuple[Transfer, ...]
    is_cut: bool


def begin_of(day: date) -> int:
    """Return when a day of UTC begins."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def day_of(day: str | None, now: int) -> date:
    """Return a day of UTC that was written down; without one: today.

    Raises:
        Refused: REQUEST_INVALID: it is no day such as 2026-11-26, or has not begun.
    """
    today = datetime.fromtimestamp(now, UTC).date()
    try:
        chosen = today if day is None else date.fromisoformat(day) if len(day) == DATE_CHARACTERS else None
    except ValueError:
        chosen = None
    if chosen is None or not FIRST <= chosen <= today:
        raise Refused(Code.REQUEST_INVALID, f"day is a past day such as {today.isoformat()}, not {(day or '')[:20]!r}")
    return chosen


def of_day(database: Database, nodes: Mapping[str, Node], *, day: int, now: int, node: str | None = None) -> Day:
    """Return what nodes fetched on the day that begins at `day` (UTC): by its receipts, and today also what is under way.

    With `node` it is that node's alone.
    """
    table = tables.receipts.c
    query = (
        select(table.node, table.model, table.version, table.digest, table.sealed)
        .where(table.received_at >= day, table.received_at < day + DAY, table.outcome != "refused", table.version.is_not(None))
        .order_by(table.received_at.desc())
        .limit(RECEIPTS_MAX + 1)
    )
    with database.read() as db:
        rows = db.execute(query if node is None else query.where(table.node == node)).all()
    reported: dict[tuple[str, bytes], tuple[str, Counts]] = {}
    for row in rows[:RECEIPTS_MAX]:
        if (counts := _counts_of(row.sealed)) is not None and row.digest is not None:
            reported.setdefault((row.node, row.digest), (f"{row.model}@{row.version}", counts))
    if day <= now < day + DAY:
        for one in nodes.values() if node is None else [nodes[node]] if node in nodes else []:
            reported |= dict(_under_way(one))
    before = _before(database, reported, day=day)
    found = []
    for (name, digest), (release, counts) in reported.items():
        mine = counts.since(before.get((name, digest)))
        if mine != Counts():
            found.append(Transfer(name, *_where(nodes.get(name)), release, mine.planned, mine.received, mine.reused, mine.wasted))
    return Day(tuple(found), len(rows) > RECEIPTS_MAX)


def _before(database: Database, reported: Collection[tuple[str, bytes]], *, day: int) -> dict[tuple[str, bytes], Counts]:
    """Return what nodes had counted of these releases when the day began: they count on, where they have had a release before."""
    table, found = tables.receipts.c, dict[tuple[str, bytes], Counts]()
    releases, names = sorted({digest for _, digest in reported}), {name for name, _ in reported}
    if not reported:
        return found
    query = (
        select(table.node, table.digest, table.sealed)
        .where(table.digest.in_(releases[:RELEASES_MAX]), table.received_at < day, table.outcome != "refused")
        .order_by(table.received_at.desc(), table.epoch.desc(), table.sequence.desc())
        .limit(RECEIPTS_MAX)
    )
    with database.read() as db:
        rows = db.execute(query if len(names) > 1 else query.where(table.node.in_(names))).all()
    for row in rows:
        key = (row.node, row.digest)
        if key in reported and key not in found and (counts := _counts_of(row.sealed)) is not None:
            found[key] = counts
    return found


def _counts_of(sealed: bytes) -> Counts | None:
    evidence = codec.decode(Receipt, codec.decode(SealedReceipt, sealed).body).evidence
    return Counts.of(evidence) if evidence is not None and evidence.bytes_planned else None


def _under_way(node: Node) -> Iterable[tuple[tuple[str, bytes], tuple[str, Counts]]]:
    for slot in node.state.slots:
        if slot.bytes_planned and slot.state in UNDER_WAY and slot.target_version and slot.target is not None:
            yield (node.name, slot.target), (f"{slot.model}@{slot.target_version}", Counts.of(slot))


def _where(node: Node | None) -> tuple[str, str]:
    if node is None:
        return UNKNOWN_LINK, ""
    return node.state.link or UNKNOWN_LINK, node.labels.get("site", "")


def sums(transfers: Iterable[Transfer], by: By) -> list[Sum]:
    """Return the sums, those that received most first."""
    groups: dict[str, list[Transfer]] = {}
    for one in transfers:
        groups.setdefault(getattr(one, by), []).append(one)
    found = [total(name, mine) for name, mine in groups.items()]
    return sorted(found, key=lambda one: (-one.received, one.name))


def total(name: str, transfers: Iterable[Transfer]) -> Sum:
    """Return the sum of transfers."""
    mine = list(transfers)
    nodes = len({one.node for one in mine})
    columns = ((one.planned, one.received, one.reused, one.wasted) for one in mine)
    return Sum(name, nodes, *(sum(column) for column in zip(*columns, strict=True))) if mine else Sum(name, 0, 0, 0, 0, 0)
