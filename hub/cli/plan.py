"""`fleetcast plan` says what a rollout will cost, `fleetcast ledger` what it did."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.list_choice import choice, list_options
from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from hub.cli.key_values import read_pairs
from hub.cli.options import NOT_EMPTY, dir_option, json_option, opened, show, split
from hub.cli.remote import remote
from hub.cli.time_arguments import DEADLINE, parsed_option
from hub.core.rollouts import commands
from hub.core.rollouts.terms import check_times
from hub.operations import planning
from hub.operations.planning import RATES_BIT_S
from hub.operations.release_bytes import COUNTED, release_bytes
from schemas.windows import parse_windows


@click.command()
@click.argument("release", metavar="MODEL@VERSION")
@click.option("--deployment", metavar="NAME", type=NOT_EMPTY, help="Deployment in which the rollout would begin.")
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
    speeds = {**RATES_BIT_S, **_rates(rates)}
    windows = {name: parsed_option(name, parse_windows, times[name]) if times[name] is not None else None for name in ("activate", "fetch")}
    check_times(activate=windows["activate"], fetch=windows["fetch"], deadline=times["deadline"], now=int(time.time()))
    if (hub := remote()) is not None:
        selector = ",".join([*([where] if where is not None else []), *(f"{k}={v}" for k, v in read_pairs("--label", labels).items())])
        named = {"deployment": deployment, "where": selector or None, **times}
        wish = {"model": model, "version": version, "nodes": each, "rates_bit_s": _rates(rates)}
        found = hub.plan({**wish, **{name: value for name, value in named.items() if value is not None}})
        none_fits = str(found.pop("none_fits"))
        del found["nodes_planned"]
        result = {**found, "changes": [{"from": one["deployment"], "nodes": one["nodes"]} for one in found["changes"]]}
    else:
        result, none_fits = _planned(directory, release, deployment, where, labels, speeds, each=each)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    _print(result, none_fits=none_fits)


def _planned(
    directory: Path,
    release: str,
    deployment: str | None,
    where: str | None,
    labels: tuple[str, ...],
    speeds: Mapping[str, float],
    *,
    each: bool,
) -> tuple[dict[str, Any], str]:
    model, version = split(release)
    fleet = opened(directory)
    given = {"version": version, "labels": read_pairs("--label", labels), "deployment": deployment, "where": where}
    found = planning.plan(fleet, model, commands.read_as(commands.Start, json.dumps(given)), rates_bit_s=speeds, each=each)
    fleet.store.close()
    return found


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
    there = f"{result['bytes_reused']} {'is' if result['bytes_reused'] == 1 else 'are'} there already"
    click.echo(f"In all {counted(result['bytes_planned'], 'byte')} to fetch, {there}.")
    if result["drift"]["cohorts"]:
        click.echo(f"D{result['drift']['text'][1:]}.")
    for one in result["first_install"]:
        click.echo(f"A device that has nothing yet fetches {counted(one['bytes'], 'byte')} (variant {one['variant']}).")
    for one in result["breaks"]:
        click.echo(f"Programs that use {one['version']}, which {one['nodes']} of the nodes serve, would not work with it:")
        click.echo(f"  {'; '.join(one['differences'])}. `fleetcast rollout start` needs --breaking.")
    for note in result["notes"]:
        click.echo(plain(f"{note[0].upper()}{note[1:]}."))


@click.command()
@click.argument("release", metavar="MODEL@VERSION")
@dir_option
@json_option
@list_options()
def ledger(release: str, directory: Path, as_json: bool) -> None:
    """Show the bytes that a release has cost each node.

    Payload bytes since the node first took the release: planned = received + reused + missing. Wasted bytes (sent twice, or damaged) come
    on top. The state is true now: `serving`; `served`, where the node serves another release now, or none; `rolled_back`, where it went
    back by itself; or the step of a transfer that is under way.

    \b
    Examples:
      fleetcast ledger delay@1.2.0
      fleetcast ledger delay@1.2.0 --where state=serving
      fleetcast ledger delay@1.2.0 --json
    """
    model, version = split(release)
    if (hub := remote()) is not None:
        found = [{name: row[name] for name in ("node", "state", "code", *COUNTED)} for row in hub.release_bytes(model, version)]
    else:
        found = release_bytes(opened(directory), model, version)
    sums = {"node": "all", "state": "", "code": "", **{what: sum(row[what] for row in found) for what in COUNTED}}
    columns = ["node", "state", "code", *COUNTED]
    found = choice().arranged(found)
    if as_json:
        click.echo(json.dumps({"release": release, "nodes": found, "sum": {what: sums[what] for what in COUNTED}}, indent=2))
        return
    show(found, columns, as_json=False, empty=f"No node has begun to fetch {release}.")
    if found:
        click.echo(", ".join(f"{what} {sums[what]}" for what in COUNTED) + " bytes in all.")


def _rates(said: tuple[str, ...]) -> dict[str, float]:
    found = read_pairs("--rate", said)
    try:
        speeds = {link: float(rate) for link, rate in found.items()}
    except ValueError:
        speeds = {}
    if len(speeds) != len(found) or not set(speeds) <= set(RATES_BIT_S) or not all(0 < rate < float("inf") for rate in speeds.values()):
        raise click.UsageError(f"--rate must be {'|'.join(RATES_BIT_S)}=BIT/S, such as metered=300000, found {', '.join(said)}")
    return speeds
