"""Answer which models there are, and who runs what of each."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from hub.operations.deployed import model_of
from hub.operations.release_rows import manifests
from hub.web.console.moments import counted, moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.matters import drift_of
from hub.web.console.pages.releases_words import SHOWN, serving, serving_links
from hub.web.console.sentence import code, link, path, said
from schemas.names import version_key

MANIFEST_SECONDS: Final = 10.0
MOVES: Final = ("running", "halted")


def manifests_of(view: View) -> Any:
    """Return every release of the fleet by digest; read once for all viewers."""
    return view.shared.get(("manifests",), lambda: manifests(view.fleet.repository), seconds=MANIFEST_SECONDS)


def load(view: View) -> Answer:
    """Return the list of models."""
    repository = view.fleet.repository
    drifting = Counter(row["model"] for row in drift_of(view) if row["alarm"])
    tested = Counter(row["model"] for row in drift_of(view))
    rows = [_row(view, name, drifting[name], tested[name]) for name in repository.models()]
    rows = [row for row in rows if row["releases"]]
    states = Counter(state for row in rows for state in row["states"])
    return Answer(
        _sentence(len(rows), states, sum(drifting.values())),
        "fleetcast models",
        {"rows": rows, "nothing": said("Nothing is published. ", code("fleetcast publish model.onnx --name delay --version 1.0.0"))},
        title="models",
    )


def _sentence(models: int, states: Mapping[str, int], drifting: int) -> str:
    if not models:
        return "No model is published"
    moving, halted = (states.get(state, 0) for state in ("running", "halted"))
    parts = [f"{number_of(moving, 'rollout')} {verb(moving, 'move')}" if moving else "no rollout moves"]
    parts += [f"{halted} {'is' if halted == 1 else 'are'} halted"] if halted else []
    moves = ", ".join(parts)
    drifts = f"{number_of(drifting, 'stream')} {verb(drifting, 'drift')}" if drifting else "no stream drifts"
    return f"{number_of(models, 'model')}: {moves}, {drifts}"


def _row(view: View, name: str, drifting: int, tested: int) -> dict[str, Any]:
    mine = [one for one in manifests_of(view).values() if one.model == name]
    counts = serving(view, name)
    deployments = model_of(view.fleet.repository, name).deployments
    newest = max(mine, key=lambda one: (one.created, version_key(one.version)), default=None)
    lines = serving_links(counts, name)
    return {
        "name": name,
        "releases": len(mine),
        "serving": lines[:SHOWN],
        "more": len(lines) - SHOWN,
        "nodes": counted(sum(counts.values())),
        "nodes_at": path("nodes", serves=name) if counts else "",
        "rollouts": [
            (f"{one.release.version}, {one.state.replace('_', ' ')}", path("models", name, "deployments", one.name, "rollouts"))
            for one in deployments
            if one.state in MOVES
        ],
        "states": [one.state for one in deployments if one.state in MOVES],
        "drift": _drift(name, drifting, tested),
        "published": f"{newest.version}, {moment(newest.created, view.now)}" if newest is not None else "",
    }


def _drift(name: str, drifting: int, tested: int) -> Markup:
    if not tested:
        return said("not judged")
    where = path("drift", model=name)
    return (
        link(f"{drifting} of {tested} drift{'s' if drifting == 1 else ''}", where, "bad") if drifting else link(f"none of {tested}", where)
    )


PAGES: Final = (Page("/models", "models.html", load, "Models"),)
