"""Find what is open in the fleet and needs somebody: a hub with trouble, nodes that failed, sites that fell silent, streams that drift."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from hub.database.drift_queries import Findings
from hub.database.known_drifts import KnownDrifts
from hub.operations.drift_rows import drift_rows
from hub.operations.known_drifts import known_until
from hub.operations.node_classes import NodeLine
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.troubles import troubles_of
from hub.service.rollouts.release_lookup import Releases
from hub.web.console.page import View

FAILED: Final = ("refused", "rolled_back")
DRIFT_SECONDS: Final = 2.0
SITE: Final = "site"  # The label by which nodes are grouped.


@dataclass(frozen=True, slots=True)
class Matter:
    """Hold one thing that is open: its class, since when, and the nodes, the stream or the trouble of the hub that it is about."""

    name: str  # The class of its nodes, `drifts`, or `troubles`.
    since: int | None
    lines: Sequence[NodeLine] = ()
    stream: Any = None
    site: str = ""
    trouble: Any = None


def drift_of(view: View) -> list[dict[str, Any]]:
    """Return what is tested for drift, lasting alarms first; read once for all viewers."""
    return view.shared.get(("drift",), lambda: _drift(view.fleet), seconds=DRIFT_SECONDS)


def _drift(fleet: OpenedFleet) -> list[dict[str, Any]]:
    findings, releases = Findings(fleet.store.database), Releases(fleet.repository, fleet.blocks)
    known, now = KnownDrifts(fleet.store.database).all(), int(time.time())
    rows = drift_rows(findings, releases, None, None, nodes_min=fleet.settings.cohort_nodes_min)
    return [{**row, "known_until": known_until(row, known, now)} for row in rows]


def is_open(row: dict[str, Any]) -> bool:
    """Return whether a stream drifts, and nobody has marked that as known."""
    return bool(row["alarm"]) and row["known_until"] is None


def site_of(line: NodeLine) -> str:
    """Return where a node is; "" where its labels do not say."""
    return str(line.node.facts.labels.get(SITE, ""))


def matters(view: View) -> list[Matter]:
    """Return what is open, the newest first: a node that failed is one matter, and so are the silent nodes of a site."""
    return view.shared.get(("matters", id(view.snapshot)), lambda: _matters(view), seconds=DRIFT_SECONDS, at_most=2)


def _matters(view: View) -> list[Matter]:
    lines = list(view.snapshot.worst.values())
    found = [Matter(line.found.name, line.since, (line,)) for line in lines if line.found.name in {*FAILED, "expired"}]
    silent: dict[str, list[NodeLine]] = {}
    for line in lines:
        if line.found.name == "unreachable":
            silent.setdefault(site_of(line), []).append(line)
    found += [Matter("unreachable", max(one.node.last_seen for one in mine), mine, site=site) for site, mine in silent.items()]
    found += [Matter("troubles", _since(row), trouble=row) for row in troubles(view)]
    found += [Matter("drifts", None, stream=row) for row in drift_of(view) if is_open(row)]
    return sorted(found, key=lambda one: (-(one.since or 0), one.name, one.lines[0].node.name if one.lines else ""))


def troubles(view: View) -> list[dict[str, Any]]:
    """Return what is wrong with the hub itself; read once for all viewers."""
    return view.shared.get(("troubles",), lambda: troubles_of(view.fleet, runs=True), seconds=DRIFT_SECONDS)


def _since(row: dict[str, Any]) -> int | None:
    return int(datetime.fromisoformat(row["since"]).timestamp()) if row["since"] is not None else None


def count_of_matters(view: View) -> int:
    """Return how many things are open."""
    return len(matters(view))
