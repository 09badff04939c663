"""Sum up a fleet, as the API and Python programs have it."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from hub.core.rollouts.node_class import CLASSES
from hub.operations.deployed import model_of
from hub.operations.drift_rows import drift_of
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.snapshot import Snapshot
from hub.operations.troubles import troubles_of
from hub.signing.unsigned_roles import unsigned_in_words


def summary_of(fleet: OpenedFleet, seen: Snapshot, *, runs: bool = True) -> dict[str, Any]:
    """Return the fleet's nodes by class, its rollouts by state, how many streams drift, and what is wrong with the hub itself."""
    classes = Counter(line.found.name for line in seen.worst.values())
    models = [model_of(fleet.repository, name) for name in fleet.repository.models()]
    return {
        "fleet": fleet.settings.fleet,
        "as_of": datetime.fromtimestamp(seen.at, UTC).isoformat(),
        "nodes": len(seen.seen.nodes),
        "classes": {name: classes[name] for name in CLASSES},
        "undecided": len(seen.seen.nodes) - len(seen.worst),
        "models": len(models),
        "rollouts": dict(Counter(one.state for model in models for one in model.deployments)),
        "drifting": sum(row["alarm"] for row in drift_of(fleet)),
        "troubles": troubles_of(fleet, runs=runs),
        "unsigned": unsigned_in_words(fleet.repository.unsigned().roles, len(models)),
        "last_event": fleet.store.last_event_id(),
    }
