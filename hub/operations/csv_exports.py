"""Export nodes, drift, changes and bytes as tables, a page at a time, so that ten thousand rows take no more memory than a few hundred."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from hub.database.rows import EventRow
from hub.operations import csv_text
from hub.operations.byte_sums import By, Day, sums
from hub.operations.drift_rows import drift_of
from hub.operations.nodes_shown import nodes_shown
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.snapshot import Snapshot

PAGE: Final = 200
CHANGES_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Table:
    """Hold a table that is about to be sent: its file's name, columns, and rows as they are read."""

    name: str
    columns: Sequence[str]
    rows: Iterable[Mapping[str, Any]]

    def lines(self) -> Iterator[bytes]:
        """Yield it as CSV."""
        return csv_text.lines(self.columns, self.rows)

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers with which it is sent."""
        return {"content-disposition": f'attachment; filename="{self.name}.csv"', "content-type": "text/csv; charset=utf-8; header=present"}


NODES: Final = (
    "node",
    "display_name",
    "state",
    "code",
    "sentence",
    "status",
    "last_seen",
    "cohort",
    "arch",
    "software",
    "labels",
    "serves",
    "bytes_planned",
    "bytes_received",
    "bytes_reused",
    "bytes_wasted",
)
DRIFT: Final = (
    "model",
    "version",
    "cohort",
    "about",
    "state",
    "alarm",
    "since",
    "reason",
    "evidence",
    "evidence_needed",
    "signals",
    "newest",
    "windows",
)
CHANGES: Final = ("id", "at", "actor", "kind", "what", "model", "version", "node", "before", "after", "reason", "why")
BYTES: Final = ("nodes", "planned", "received", "reused", "wasted")


def nodes(fleet: OpenedFleet, seen: Snapshot, names: Sequence[str]) -> Table:
    """Return a row for each of these nodes, in their order."""

    def rows() -> Iterator[Mapping[str, Any]]:
        for start in range(0, len(names), PAGE):
            for row in nodes_shown(fleet, seen, names[start : start + PAGE]):
                models = row["models"]
                counts = {
                    f"bytes_{what}": sum(one[f"bytes_{what}"] for one in models) for what in ("planned", "received", "reused", "wasted")
                }
                serves = [f"{one['model']}@{one['serving_version']}" for one in models if one["serving_version"]]
                yield {**row, "serves": serves, **counts}

    return Table("nodes", NODES, rows())


def drift(fleet: OpenedFleet, model: str | None, cohort: str | None) -> Table:
    """Return a row for each stream, lasting alarms first."""
    rows = ({**row, "signals": [one["name"] for one in row["signals"]]} for row in drift_of(fleet, model, cohort))
    return Table("drift", DRIFT, rows)


def changes(fleet: OpenedFleet, wanted: Callable[[EventRow], bool], *, since: int | None = None) -> Table:
    """Return a row for each change that is wanted, the newest first."""

    def rows() -> Iterator[Mapping[str, Any]]:
        before: int | None = None
        while found := fleet.store.changes(since=since, limit=CHANGES_PAGE, before_id=before):
            before = found[-1].id
            for one in found:
                if wanted(one):
                    at = datetime.fromtimestamp(one.at, UTC).isoformat()
                    yield {**one.body, "id": one.id, "at": at, "actor": one.actor, "kind": one.kind, "what": one.text}

    return Table("audit", CHANGES, rows())


def bytes_of(day: Day, name: str, by: By, *, only: Mapping[str, str] | None = None) -> Table:
    """Return the bytes of a day, a row for each link, release, site or node; `name` is that of the day."""
    chosen = [one for one in day.transfers if all(getattr(one, field) == text for field, text in (only or {}).items())]
    rows = ({**asdict(one), by: one.name} for one in sums(chosen, by))
    return Table(f"bytes-{name}", (by, *BYTES), rows)
