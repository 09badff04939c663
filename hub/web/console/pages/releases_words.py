"""Say who runs which release: counts by version with links to their nodes, and the picture of the last fourteen days."""

from collections import Counter
from typing import Any, Final

from hub.database.release_hours import HOUR, ReleaseHour, ReleaseHours
from hub.operations.release_flow import release_flow
from hub.web.console.page import View
from hub.web.console.sentence import path
from hub.web.pictures.flow import POINTS, STEP_SECONDS, Flow, Release, flow
from hub.web.pictures.svg import Picture
from schemas.names import version_key

FLOW_SECONDS: Final = 60.0
SHOWN: Final = 3


def serving(view: View, model: str) -> "Counter[str]":
    """Return how many nodes serve which version of a model, by their receipts."""
    nodes = view.snapshot.seen.nodes.values()
    return Counter(node.serving[model].version for node in nodes if model in node.serving)


def serving_links(counts: "Counter[str]", model: str) -> list[dict[str, Any]]:
    """Return a line for each version that nodes serve, the newest first, each with the address of exactly those nodes."""
    versions = sorted(counts, key=version_key, reverse=True)
    return [{"version": one, "nodes": counts[one], "address": path("nodes", serves=f"{model}@{one}")} for one in versions]


def picture_of(view: View, model: str, coming: str, present: str) -> Picture | None:
    """Return the picture of a model's releases, made anew once a minute; None before a first hour is over."""

    def drawn() -> Picture | None:
        hours = ReleaseHours(view.fleet.store.database).of_model(model, since=view.now - (POINTS - 1) * STEP_SECONDS)
        if not hours or view.now - (began := since(hours[0], view.now)) < HOUR:  # One moment is no picture.
            return None
        step, points = scale(began, view.now)
        found = release_flow(hours, dict(serving(view, model)), now=view.now, points=points, step_seconds=step)
        releases = tuple(Release(version, counts) for version, counts in zip(found.versions, found.counts, strict=True))
        return flow(Flow(model, view.now, releases, coming, present, found.deaf, step))

    return view.shared.get(("flow", model, coming, present), drawn, seconds=FLOW_SECONDS)


def since(first: ReleaseHour, now: int) -> int:
    """Return since when is known who serves what: in its first hour a hub has listened from some minute to the end."""
    return max(first.hour, min(first.hour + HOUR, now) - int(first.listened_seconds))


def scale(began: int, now: int) -> tuple[int, int]:
    """Return how far apart points of time are, and how many: fourteen days, or what is known where that is less."""
    known = max(HOUR, now - began)
    if known >= (POINTS - 1) * STEP_SECONDS:
        return STEP_SECONDS, POINTS
    step = max(1, -(-known // ((POINTS - 1) * HOUR))) * HOUR
    return step, max(2, known // step + 1)
