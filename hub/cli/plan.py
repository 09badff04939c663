"""`fleetcast plan` says what a rollout will cost, `fleetcast ledger` what it did."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from fleetcast.cli.list_choice import choice, list_options
from fleetcast.cli.terminal_text import plain
from hub.cli.key_values import read_pairs
from hub.cli.node_blocks import NodeBlocks
from hub.cli.options import check_model, dir_option, json_option, open_store, show, split
from hub.cli.time_arguments import DEADLINE, parsed_option
from hub.core.publish.signature_compatibility import Signature, differences
from hub.core.rollouts import commands, deployments
from hub.core.rollouts.gate_summary import judged, stage_percent_min
from hub.core.rollouts.plan import Cost, by_site, seconds
from hub.core.rollouts.rollout import Place
from hub.core.rollouts.selector_help import nearest
from hub.core.rollouts.terms import check_times
from hub.database.rows import NodeRow, ReceiptRow
from hub.operations.deployed import facts_of, model_of, states_of
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import DEFAULT
from schemas.errors import Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.receipt import Receipt, SealedReceipt
from schemas.selectors import NodeFacts, matches, text_of
from schemas.state import LinkClass, State
from schemas.variant_choice import choose
from schemas.windows import parse_windows

RATES_BIT_S: dict[str, float] = {"free": 50e6, "metered": 1e6, "roaming": 128e3}  # a site's line, LTE-M, NB-IoT; --rate says otherwise
NO_SITE = "-"


@dataclass(frozen=True, slots=True)
class _Planned:
    node: str
    site: str
    link: str
    runs: str
    variant: str
    cost: Cost
    refused: str = ""


@click.command()
@click.argument("release", metavar="MODEL@VERSION")
@click.option("--deployment", metavar="NAME", help="Deployment in which the rollout would begin.")
@click.option("--where", metavar="SELECTOR", help="Select only these nodes, such as site=jfk,tier!=lab or node=jfk-2.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Select only nodes with this label. Repeatable.")
@click.option("--rate", "rates", multiple=True, metavar="CLASS=BIT/S", help="Rate of a class of link, such as metered=300000. Repeatable.")
@click.option("--activate", metavar="TIMES", help="Check these times to switch against the deadline, as `rollout start` does.")
@click.option("--fetch", metavar="TIMES", help="Check these times to fetch against the deadline.")
@click.option("--deadline", type=DEADLINE, help="Deadline that the rollout would have, as `rollout start` takes it.")
@click.option("--nodes/--no-nodes", "each", default=True, show_default=True, help="List every node, or only sites and sums.")
@dir_option
@json_option
def plan(
    release: str,
    deployment: str | None,
    where: str | None,
    labels: tuple[str, ...],
    rates: tuple[str, ...],
    each: bool,
    directory: Path,
    as_json: bool,
    **times: Any,
) -> None:
    """Compute what a rollout will cost, before it sends anything.

    Counted are the payloads that each known node lacks of the variant that suits it, by what it reported that it is and serves; a site is
    what nodes say in their label "site". A node counts where the rollout's deployment would decide for it; the last lines name the nodes
    that change their deployment, and those that stay with another. Times that leave no moment to fetch and then to switch before the
    deadline are refused, as `rollout start` refuses them.

    \b
    Examples:
      fleetcast plan delay@1.2.0
      fleetcast plan delay@1.2.0 --where site=plant-7 --rate metered=300000
    """
    model, version = split(release)
    speeds = RATES_BIT_S | _rates(rates)
    windows = {name: parsed_option(name, parse_windows, times[name]) if times[name] is not None else None for name in ("activate", "fetch")}
    check_times(activate=windows["activate"], fetch=windows["fetch"], deadline=times["deadline"], now=int(time.time()))
    repository = Repository(directory / "trust")
    check_model(repository, model)
    document = repository.manifest(model, version)
    manifest, digest = codec.decode(Manifest, document), sha256(document)
    releases = Releases(repository, BlockStore(directory / "blocks"))
    holdings = NodeBlocks(releases)
    said = {"version": version, "labels": read_pairs("--label", labels), "deployment": deployment, "where": where}
    wish = commands.read_as(commands.Start, json.dumps(said))
    known = open_store(directory).counted_nodes()
    facts, present = facts_of(states_of(known)), model_of(repository, model)
    place = deployments.place_of(present, wish, facts)
    changes, decides = deployments.taken(present, place, facts), deployments.nodes_of(present, place, facts)
    rows = [row for row in known if row.node in decides]
    planned = [_plan_one(row, manifest, digest, holdings) for row in rows]
    fits = [one for one in planned if not one.refused]
    result = {
        "release": f"{model}@{version}",
        "deployment": place.name,
        "bytes_planned": sum(one.cost.fetched_bytes for one in fits),
        "bytes_reused": sum(one.cost.reused_bytes for one in fits),
        "nodes": [_node_row(one, speeds) for one in planned] if each else [],
        "sites": _site_rows(fits),
        "links": _link_rows(fits, speeds),
        "variants": _variant_rows(fits, [variant.name for variant in manifest.variants]),
        "drift": _drift(rows, manifest, load(directory).cohort_nodes_min),
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
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    _print(result, none_fits=_why_none(place, facts, len(rows)))


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


def _print(result: Mapping[str, Any], *, none_fits: str) -> None:
    if result["nodes"]:
        columns = ["node", "site", "link", "runs", "variant", "fetches", "has", "whole_for_delta", "takes", "refused"]
        show(result["nodes"], columns, as_json=False, empty="")
        click.echo()
    show(result["sites"], ["site", "nodes", "fetches", "behind_a_relay"], as_json=False, empty=none_fits)
    click.echo()
    show(result["links"], ["link", "nodes", "fetches", "bit_per_second", "longest"], as_json=False, empty="")
    if len(result["variants"]) > 1:
        click.echo()
        show(result["variants"], ["variant", "nodes", "fetches"], as_json=False, empty="")
    click.echo(f"In all {result['bytes_planned']} bytes to fetch, {result['bytes_reused']} are there already.")
    if result["drift"]["cohorts"]:
        click.echo(f"D{result['drift']['text'][1:]}.")
    for one in result["first_install"]:
        click.echo(f"A device that has nothing yet fetches {one['bytes']} bytes (variant {one['variant']}).")
    for one in result["breaks"]:
        click.echo(f"Programs that use {one['version']}, which {one['nodes']} of the nodes serve, would not work with it:")
        click.echo(f"  {'; '.join(one['differences'])}. `fleetcast rollout start` needs --breaking.")
    for note in result["notes"]:
        click.echo(plain(f"{note[0].upper()}{note[1:]}."))


def _plan_one(row: NodeRow, manifest: Manifest, digest: bytes, holdings: NodeBlocks) -> _Planned:
    state = codec.decode(State, row.state)
    site = state.profile.labels.get("site", NO_SITE) if state.profile else NO_SITE
    runs = next((slot.serving_version or "-" for slot in state.slots if slot.model == manifest.model), "-")
    link = state.link or "free"
    if state.profile is None:
        return _Planned(row.node, site, link, runs, "-", Cost({}, 0, 0), "it has not said what it is")
    try:
        variant = choose(manifest, state.profile).name
    except Refused as refusal:
        return _Planned(row.node, site, link, runs, "-", Cost({}, 0, 0), refusal.reason)
    follows = any(slot.model == manifest.model and (slot.serving or slot.last_good) for slot in state.slots)
    held = holdings.releases_of(state)
    return _Planned(row.node, site, link, runs, variant, holdings.cost_of(digest, variant, held, follows=follows))


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


@click.command()
@click.argument("release", metavar="MODEL@VERSION")
@dir_option
@json_option
@list_options()
def ledger(release: str, directory: Path, as_json: bool) -> None:
    """Show the bytes that a release has cost each node.

    Payload bytes: planned = received + reused + missing. Wasted bytes (sent twice, or damaged) come on top.

    \b
    Examples:
      fleetcast ledger delay@1.2.0
      fleetcast ledger delay@1.2.0 --json
    """
    model, version = split(release)
    repository = Repository(directory / "trust")
    check_model(repository, model)
    digest = sha256(repository.manifest(model, version))
    store = open_store(directory)
    rows = {row.node: _of_receipt(row) for row in store.receipts_of_release(digest) if row.outcome != "refused"}
    for node in store.nodes():
        for slot in codec.decode(State, node.state).slots:
            if slot.target == digest and slot.bytes_planned:
                rows[node.node] = _ledger_row(
                    node.node, slot.state, slot.code, slot.bytes_planned, slot.bytes_received, slot.bytes_reused, slot.bytes_wasted
                )
    found = [rows[name] for name in sorted(rows)]
    counted = ("planned", "received", "reused", "missing", "wasted")
    sums = {"node": "all", "state": "", "code": "", **{what: sum(row[what] for row in found) for what in counted}}
    columns = ["node", "state", "code", *counted]
    found = choice().arranged(found)
    if as_json:
        click.echo(json.dumps({"release": release, "nodes": found, "sum": {what: sums[what] for what in counted}}, indent=2))
        return
    show(found, columns, as_json=False, empty=f"No node has begun to fetch {release}.")
    if found:
        click.echo(", ".join(f"{what} {sums[what]}" for what in counted) + " bytes in all.")


def _of_receipt(row: ReceiptRow) -> dict[str, Any]:
    evidence = codec.decode(Receipt, codec.decode(SealedReceipt, row.sealed).body).evidence
    if evidence is None:
        return _ledger_row(row.node, row.outcome, row.code, 0, 0, 0, 0)
    counts = (evidence.bytes_planned, evidence.bytes_received, evidence.bytes_reused, evidence.bytes_wasted)
    return _ledger_row(row.node, row.outcome, row.code, *counts)


def _ledger_row(node: str, state: str, code: str, planned: int, received: int, reused: int, wasted: int) -> dict[str, Any]:
    missing = planned - received - reused
    return {
        "node": node,
        "state": state,
        "code": code,
        "planned": planned,
        "received": received,
        "reused": reused,
        "missing": missing,
        "wasted": wasted,
    }


def _rates(said: tuple[str, ...]) -> dict[str, float]:
    found = read_pairs("--rate", said)
    try:
        speeds = {link: float(rate) for link, rate in found.items()}
    except ValueError:
        speeds = {}
    if len(speeds) != len(found) or not set(speeds) <= set(RATES_BIT_S) or not all(0 < rate < float("inf") for rate in speeds.values()):
        raise click.UsageError(f"--rate must be {'|'.join(RATES_BIT_S)}=BIT/S, such as metered=300000, found {', '.join(said)}")
    return speeds


def _duration(value: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s"
