"""Compute what a rollout will cost before it sends anything: bytes by node, site and link, and which nodes change their deployment."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from hub.core.publish.signature_compatibility import Signature, differences
from hub.core.rollouts import commands, deployments
from hub.core.rollouts.gate_summary import judged, stage_percent_min
from hub.core.rollouts.plan import Cost, by_site, seconds
from hub.core.rollouts.rollout import Place
from hub.core.rollouts.selector_help import nearest
from hub.core.rollouts.terms import check_times
from hub.database.rows import NodeRow
from hub.operations.deployed import facts_of, model_of, states_of
from hub.operations.node_blocks import NodeBlocks
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.service.rollouts.release_lookup import Releases
from schemas import codec
from schemas.deployments import DEFAULT
from schemas.errors import Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.selectors import NodeFacts, matches, text_of
from schemas.state import LinkClass, State
from schemas.variant_choice import choose

RATES_BIT_S: Final[Mapping[str, float]] = {"free": 50e6, "metered": 1e6, "roaming": 128e3}  # A site's line, LTE-M, NB-IoT.
NO_SITE: Final = "-"


@dataclass(frozen=True, slots=True)
class _Planned:
    node: str
    site: str
    link: str
    runs: str
    variant: str
    cost: Cost
    refused: str = ""


def plan(
    fleet: OpenedFleet, model: str, wish: commands.Start, *, rates_bit_s: Mapping[str, float] = RATES_BIT_S, each: bool = True
) -> tuple[dict[str, Any], str]:
    """Return what a rollout would cost, and the sentence for when it would reach no node; with `each` it lists every node.

    Raises:
        Refused: there is no such release or deployment, or the times leave no moment to fetch and to switch before the deadline.
    """
    fetch = wish.carriage.fetch if wish.carriage is not None else None
    check_times(activate=wish.activate, fetch=fetch, deadline=wish.deadline, now=int(time.time()))
    repository = fleet.repository
    check_model(repository, model)
    document = repository.manifest(model, wish.version)
    manifest, digest = codec.decode(Manifest, document), sha256(document)
    releases = Releases(repository, fleet.blocks)
    holdings = NodeBlocks(releases)
    known = fleet.store.counted_nodes()
    facts, present = facts_of(states_of(known)), model_of(repository, model)
    place = deployments.place_of(present, wish, facts)
    changes, decides = deployments.taken(present, place, facts), deployments.nodes_of(present, place, facts)
    rows = [row for row in known if row.node in decides]
    planned = [_plan_one(codec.decode(State, row.state), manifest, digest, holdings) for row in rows]
    fits = [one for one in planned if not one.refused]
    result = {
        "release": f"{model}@{wish.version}",
        "deployment": place.name,
        "bytes_planned": sum(one.cost.fetched_bytes for one in fits),
        "bytes_reused": sum(one.cost.reused_bytes for one in fits),
        "nodes": [_node_row(one, rates_bit_s) for one in planned] if each else [],
        "sites": _site_rows(fits),
        "links": _link_rows(fits, rates_bit_s),
        "variants": _variant_rows(fits, [variant.name for variant in manifest.variants]),
        "drift": _drift(rows, manifest, fleet.settings.cohort_nodes_min),
        "first_install": [
            {"variant": variant.name, "bytes": holdings.cost_of(digest, variant.name, frozenset(), follows=False).fetched_bytes}
            for variant in manifest.variants
        ],
        "breaks": _breaks(rows, manifest, releases),
        "changes": [{"from": before or None, "nodes": names} for before, names in changes.items()] if present.rollouts else [],
        "notes": [
            *(deployments.change_of_hands(present, place, facts) if present.rollouts else ()),
            *deployments.stay(present, place, facts),
            *deployments.ties(present, place.name, place.selector, place.priority),
        ],
    }
    return result, _why_none(place, facts, len(rows))


def _why_none(place: Place, nodes: Sequence[NodeFacts], decided: int) -> str:
    """Return why the plan has no sites, where it has none."""
    if not nodes:
        return "No node has been heard from."
    if not any(matches(place.selector, node) for node in nodes):
        near = nearest(place.selector, nodes) or "`fleetcast nodes --json` shows the labels that there are."
        none = "The one node that is known does not match" if len(nodes) == 1 else f"None of the {len(nodes)} known nodes matches"
        return f"{none} {text_of(place.selector)}. {near}".rstrip()
    if not decided:
        return f"Deployment {place.name} would decide for no node: the lines below say why."
    of = f" of deployment {place.name}" if place.name != DEFAULT else ""
    none = "does not fit the one node" if decided == 1 else f"fits none of the {decided} nodes"
    return f"The release {none}{of}; the list above or `--nodes` says why."


def _breaks(rows: Sequence[NodeRow], manifest: Manifest, releases: Releases) -> list[dict[str, Any]]:
    """Return the releases whose programs would not work with this one: how they differ, and how many nodes serve them."""
    slots = [slot for row in rows for slot in codec.decode(State, row.state).slots]
    served = Counter(slot.serving for slot in slots if slot.model == manifest.model and slot.serving is not None)
    found = []
    for digest, nodes in served.most_common():
        try:
            before = releases.find(digest)[1]
        except Refused:  # a release of another hub
            continue
        if how := differences(Signature.of(manifest), Signature.of(before)):
            found.append({"version": before.version, "nodes": nodes, "differences": list(how)})
    return found


def _drift(rows: Sequence[NodeRow], manifest: Manifest, nodes_min: int) -> dict[str, Any]:
    """Return whether a rollout's gate could test for drift among these nodes."""
    cohorts = Counter(codec.decode(State, row.state).cohort for row in rows)
    fewest = stage_percent_min(cohorts, nodes_min)
    said = judged(
        f"{manifest.model}@{manifest.version}", watched=manifest.baseline is not None, nodes=cohorts, tests={}, nodes_min=nodes_min
    )
    return {
        "nodes_min": nodes_min,
        "cohorts": [{"cohort": cohort, "nodes": count} for cohort, count in sorted(cohorts.items(), key=lambda one: str(one[0]))],
        "stage_percent_min": fewest if manifest.baseline is not None else None,
        "text": f"drift can be judged from stages of about {fewest} % on" if fewest and manifest.baseline is not None else said.text,
    }


@dataclass(frozen=True, slots=True)
class Fetched:
    """Hold the payload bytes that nodes fetch of a release, and those of them that come over roaming links."""

    total_bytes: int
    roaming_bytes: int


def fetched_by(fleet: OpenedFleet, model: str, version: str, states: Iterable[State]) -> Fetched:
    """Return what these nodes fetch of a release, as `plan` reckons it for each of them.

    Raises:
        Refused: there is no such release.
    """
    document = fleet.repository.manifest(model, version)
    manifest, digest = codec.decode(Manifest, document), sha256(document)
    holdings = NodeBlocks(Releases(fleet.repository, fleet.blocks))
    planned = [_plan_one(state, manifest, digest, holdings) for state in states]
    costs = [(one.cost.fetched_bytes, one.link == "roaming") for one in planned if not one.refused]
    return Fetched(sum(size for size, _ in costs), sum(size for size, is_roaming in costs if is_roaming))


def _plan_one(state: State, manifest: Manifest, digest: bytes, holdings: NodeBlocks) -> _Planned:
    site = state.profile.labels.get("site", NO_SITE) if state.profile else NO_SITE
    runs = next((slot.serving_version or "-" for slot in state.slots if slot.model == manifest.model), "-")
    link = state.link or "free"
    if state.profile is None:
        return _Planned(state.node, site, link, runs, "-", Cost({}, 0, 0), "it has not said what it is")
    try:
        variant = choose(manifest, state.profile).name
    except Refused as refusal:
        return _Planned(state.node, site, link, runs, "-", Cost({}, 0, 0), refusal.reason)
    follows = any(slot.model == manifest.model and (slot.serving or slot.last_good) for slot in state.slots)
    held = holdings.releases_of(state)
    return _Planned(state.node, site, link, runs, variant, holdings.cost_of(digest, variant, held, follows=follows))


def _node_row(one: _Planned, speeds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "node": one.node,
        "site": one.site,
        "link": one.link,
        "runs": one.runs,
        "variant": one.variant,
        "fetches": one.cost.fetched_bytes,
        "has": one.cost.reused_bytes,
        "whole_for_delta": one.cost.instead_bytes,
        "seconds": round(seconds(one.cost.fetched_bytes, speeds[one.link]), 1),
        "takes": _duration(seconds(one.cost.fetched_bytes, speeds[one.link])),
        "refused": one.refused,
    }


def _site_rows(planned: list[_Planned]) -> list[dict[str, Any]]:
    sites = by_site((one.site, one.cost) for one in planned)
    return [
        {"site": site, "nodes": found.nodes, "fetches": found.each_bytes, "behind_a_relay": found.relayed_bytes}
        for site, found in sites.items()
    ]


def _variant_rows(planned: list[_Planned], names: list[str]) -> list[dict[str, Any]]:
    """Return how many nodes take each build, by their reports, and what they fetch of it."""
    taken = {name: [one.cost.fetched_bytes for one in planned if one.variant == name] for name in names}
    return [{"variant": name, "nodes": len(sizes), "fetches": sum(sizes)} for name, sizes in taken.items()]


def _link_rows(planned: list[_Planned], speeds: Mapping[str, float]) -> list[dict[str, Any]]:
    rows = []
    for link in get_args(LinkClass):
        mine = [one.cost.fetched_bytes for one in planned if one.link == link]
        if mine:
            longest = seconds(max(mine), speeds[link])
            rows.append(
                {
                    "link": link,
                    "nodes": len(mine),
                    "fetches": sum(mine),
                    "bit_per_second": round(speeds[link]),
                    "seconds_longest": round(longest, 1),
                    "longest": _duration(longest),
                }
            )
    return rows


def _duration(value: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s"
