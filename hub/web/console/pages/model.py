"""Answer who runs which release of a model, and which deployment decides for whom."""

from typing import Any, Final

from markupsafe import Markup

from fleetcast.counted import named
from hub.operations.deployed import model_of
from hub.operations.opened_fleet import check_model
from hub.operations.rollout_rows import deployment_rows
from hub.web.console.moments import counted, moment
from hub.web.console.page import Answer, Page, View
from hub.web.console.pages.models import manifests_of
from hub.web.console.pages.node_words import megabytes
from hub.web.console.pages.releases_words import picture_of, serving, serving_links
from hub.web.console.sentence import link, listed, path, said
from schemas.deployments import Deployment
from schemas.names import version_key

DEPLOYMENTS_SECONDS: Final = 2.0
RELEASES_SHOWN: Final = 50


def load(view: View) -> Answer:
    """Return the page of a model."""
    name, repository = view.params["model"], view.fleet.repository
    check_model(repository, name)
    counts = serving(view, name)
    mine = sorted((one for one in manifests_of(view).values() if one.model == name), key=lambda one: version_key(one.version), reverse=True)
    coming, present = current(model_of(repository, name).deployments)
    lines = serving_links(counts, name)
    deployments = view.shared.get(("deployments", name), lambda: _deployments(view, name), seconds=DEPLOYMENTS_SECONDS)
    return Answer(
        _sentence(name, lines, sum(counts.values())),
        f"fleetcast releases {name}; fleetcast deploy list {name}",
        {
            "model": name,
            "picture": picture_of(view, name, coming, present),
            "deployments": deployments,
            "releases": [_release(one, counts[one.version], view.now) for one in mine[:RELEASES_SHOWN]],
            "left_out": max(0, len(mine) - RELEASES_SHOWN),
        },
        title=name,
        crumbs=(link("Models", "/models"), said(name)),
    )


def current(deployments: tuple[Deployment, ...]) -> tuple[str, str]:
    """Return the version that comes, and the one that it leaves behind: of the rollout that began last."""
    newest = max(deployments, key=lambda one: one.started, default=None)
    if newest is None:
        return "", ""
    fallback = newest.fallback.version if newest.fallback is not None else ""
    if newest.state == "rolled_back":
        return "", fallback
    return (newest.release.version, fallback) if newest.state in {"running", "halted"} else ("", newest.release.version)


def _sentence(name: str, lines: list[dict[str, Any]], nodes: int) -> Markup:
    if not nodes:
        return said(f"{name} runs on no node")
    if len(lines) == 1 and nodes > 1:
        return said(link(f"All {counted(nodes)} {named(nodes, 'node')}", lines[0]["address"]), f" with {name} serve {lines[0]['version']}")
    shown = [
        link(f"{counted(one['nodes'])} {'serves' if one['nodes'] == 1 else 'serve'} {one['version']}", one["address"]) for one in lines[:3]
    ]
    rest = sum(one["nodes"] for one in lines[3:])
    parts = [*shown, *([said(f"{counted(rest)} serve others")] if rest else [])]
    every = link(f"{counted(nodes)} {named(nodes, 'node')}", path("nodes", serves=name))
    return said("Of ", every, f" with {name}, ", listed(parts, " and "))


def _deployments(view: View, name: str) -> list[dict[str, Any]]:
    nodes = [node.facts for node in view.snapshot.seen.nodes.values()]
    rows = deployment_rows(model_of(view.fleet.repository, name), nodes)
    return [
        {
            **row,
            "address": path("models", name, "deployments", row["deployment"], "rollouts"),
            "matched_at": path("nodes", where=row["where"] or None),
            "decided_at": path("nodes", deployment=f"{name}/{row['deployment']}"),
            "state": row["state"].replace("_", " "),
        }
        for row in rows
    ]


def _release(one: Any, nodes: int, now: int) -> dict[str, Any]:
    return {
        "version": one.version,
        "address": path("models", one.model, "releases", one.version),
        "nodes": nodes,
        "nodes_at": path("nodes", serves=f"{one.model}@{one.version}"),
        "megabytes": megabytes(sum(file.bytes for file in one.files_of(one.variants[0].name))),
        "variants": ", ".join(variant.name for variant in one.variants),
        "watches": len(one.baseline.signals) if one.baseline is not None else 0,
        "published": moment(one.created, now),
        "description": one.description,
    }


PAGES: Final = (Page("/models/{model}", "model.html", load, "Models"),)
