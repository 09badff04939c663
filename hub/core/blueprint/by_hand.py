"""Say what an event of the fleet's history changed of what a blueprint speaks of.

To halt, resume, approve or retry a rollout changes none of it.
"""

from collections.abc import Mapping, Set
from typing import Any, Final, TypeVar

from hub.core.blueprint.diff import Part
from hub.core.nodes.device_settings import LINK_FIELDS, SCALARS

EVERY: Final = ""  # Name of the part of which an event of an earlier version speaks: it does not say what differs.
_PLACE: Final = frozenset({"where", "priority"})
_RELEASE: Final = frozenset({"release", "parameters"})
Event = TypeVar("Event")


def parts_changed(kind: str, body: Mapping[str, Any]) -> set[Part]:
    """Return the parts of deployments and settings that an event changed, by its kind and body."""
    match kind:
        case "rollout":
            of = f"{body.get('model')}/{body.get('deployment')}"
            return {Part(of, name) for name in _of_deployment(body)}
        case "device" if "nodes" in body:
            return {Part(str(node), name) for node in body["nodes"] for name in _of_node(str(node), body)}
    return set()


def _of_deployment(body: Mapping[str, Any]) -> set[str]:
    if not {"before", "after"} <= body.keys():
        return {EVERY}
    before, after = body["before"], body["after"]
    if before is None or after is None:  # It was made, or removed.
        return {"place", "release"}
    names = before.keys() | after.keys()
    found = {"place"} if names & _PLACE else set()
    went_back = "rolled_back" in {before.get("state"), after.get("state")}
    if names & _RELEASE or went_back or not names:  # Parameters of the release that nodes went back to are not named.
        found.add("release")
    return found


def _of_node(node: str, body: Mapping[str, Any]) -> set[str]:
    """Return the names of a node's settings, as `settings.differing` has them."""
    before, after = (_side(node, body, side) for side in ("before", "after"))
    if before is None or after is None:
        return {EVERY}
    found = set[str]()
    for name in before.keys() | after.keys():
        if name.startswith("label."):
            found.add(f"label {name.removeprefix('label.')}")
        elif name.startswith("budget."):
            was, will = before.get(name) or {}, after.get(name) or {}
            found |= {f"{name}.{field}" for field in LINK_FIELDS if was.get(field) != will.get(field)}
        elif name in SCALARS:
            found.add(name)
    return found


def _side(node: str, body: Mapping[str, Any], side: str) -> Mapping[str, Any] | None:
    """Return what an event says of a node, before or after; None where it does not: it names the changes of only some of many nodes."""
    found: Any = body.get(side)
    if isinstance(found, Mapping) and body.get("node") is None:
        found = found.get(node)
    return found if isinstance(found, Mapping) else None


def last_of(parts: Set[Part], events: Mapping[Part, tuple[int, Event]]) -> Event | None:
    """Return the newest event that changed one of these parts, of events with their numbers."""
    found = [events[key] for part in parts for key in (part, Part(part.of, EVERY)) if key in events]
    return max(found, key=lambda one: one[0])[1] if found else None
