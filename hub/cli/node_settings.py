"""`fleetcast nodes label`, `set` and `settings`: what the hub sets of nodes, and what of it is in force there."""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted, verb
from hub.cli.options import NOT_EMPTY, changes_fleet, dir_option, hub_runs, json_option, opened, show_one
from hub.cli.remote import WAIT_SECONDS, print_answer, remote
from schemas.names import check_name

if TYPE_CHECKING:  # `nodes list`, which is beside these commands, takes less time than to import what they need.
    from hub.client.hub_client import HubClient
    from hub.core.nodes.device_settings import SetNodeSettings

NODES_PER_SECOND = 20.0  # How many nodes' settings a hub signs on a slow disk.
SWITCHES = {"on": True, "off": False}
LINES_MAX = 20

where_option = click.option(
    "--where", metavar="SELECTOR", type=NOT_EMPTY, help="Nodes that this selector matches, such as site=jfk,tier!=lab."
)
breaking_option = click.option(
    "--breaking", is_flag=True, help="Set labels even if programs would not work with the release that their node then gets."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


@click.command()
@click.argument("words", nargs=-1, metavar="[NODE] KEY=VALUE ... KEY- ...")
@where_option
@breaking_option
@yes_option
@changes_fleet
@dir_option
@json_option
def label(words: Sequence[str], where: str | None, breaking: bool, yes: bool, directory: Path, as_json: bool) -> None:
    """Set labels of a node, or of all nodes that a selector matches.

    KEY=VALUE sets a label, and KEY- takes back one that was set here: the device's own file then decides again. Labels choose
    deployments and variants: the command shows for which nodes another deployment will decide. It is refused without --breaking where
    programs that use what these nodes have now would not work with the release that they would get.

    \b
    Examples:
      fleetcast nodes label gateway-17 ring=canary
      fleetcast nodes label gateway-17 ring-
      fleetcast nodes label --where site=jfk ring=main --yes
    """
    node, rest = _target(words, where)
    if not rest:
        raise click.UsageError("name at least one label: KEY=VALUE sets it, KEY- takes it back")
    labels: dict[str, str] = {}
    unset: list[str] = []
    for word in rest:
        key, sign, value = word.partition("=")
        if sign and key and value:
            labels[key] = value
        elif not sign and word.endswith("-") and len(word) > 1:
            unset.append(f"label.{word[:-1]}")
        else:
            raise click.UsageError(f"{word!r} must be KEY=VALUE or KEY-")
    if both := sorted(labels.keys() & {name.removeprefix("label.") for name in unset}):
        raise click.UsageError(f"label {both[0]!r} is set and taken back: give only one of the two")
    _change(directory, _wish(node, where, labels=labels, unset=unset, breaking=breaking or None), yes=yes, as_json=as_json)


@click.command(name="set")
@click.argument("words", nargs=-1, metavar="[NODE] KEY=VALUE ...")
@where_option
@click.option("--unset", multiple=True, metavar="KEY", help="Take a setting back: the device's own file decides again. Repeatable.")
@breaking_option
@yes_option
@changes_fleet
@dir_option
@json_option
def set_(words: Sequence[str], where: str | None, unset: Sequence[str], breaking: bool, yes: bool, directory: Path, as_json: bool) -> None:
    """Set the cohort, telemetry, name or budgets of nodes.

    They are those of one node, or of all nodes that a selector matches.

    Keys: cohort, telemetry (on or off), display-name, and for each link (free, metered, roaming) budget.LINK.bytes-day-max,
    budget.LINK.hours and budget.LINK.full-download (on or off). --unset also takes budget.LINK, budgets and labels.

    A device's own file has the last word: the hub can turn telemetry off and lower a budget, and never allows what the site forbids.

    \b
    Examples:
      fleetcast nodes set gateway-17 cohort=nyc display-name="Gate 17"
      fleetcast nodes set --where site=jfk telemetry=off
      fleetcast nodes set gateway-17 budget.metered.hours=22:00-05:00
      fleetcast nodes set gateway-17 --unset cohort --unset budget.metered
    """
    node, rest = _target(words, where)
    if not rest and not unset:
        raise click.UsageError("name at least one setting: KEY=VALUE, or --unset KEY")
    given: dict[str, Any] = {}
    for word in rest:
        key, sign, value = word.partition("=")
        if not (sign and key):
            raise click.UsageError(f"{word!r} must be KEY=VALUE")
        _put(given, key, value)
    _change(
        directory, _wish(node, where, unset=[_field(name) for name in unset], breaking=breaking or None, **given), yes=yes, as_json=as_json
    )


@click.command()
@click.argument("node")
@dir_option
@json_option
def settings(node: str, directory: Path, as_json: bool) -> None:
    """Show what the hub sets of a node, and what of it is in force there.

    \b
    Examples:
      fleetcast nodes settings gateway-17
      fleetcast nodes settings gateway-17 --json
    """
    if (hub := remote()) is not None:
        found = hub.node_settings(check_name("node", node)).row
    else:
        from hub.operations.node_changes import settings_row  # noqa: PLC0415  # with SQLAlchemy, which --help does without

        found = settings_row(opened(directory), node)
    show_one(found if as_json else {name: _in_words(value) for name, value in found.items()}, as_json=as_json)


def _in_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json.dumps(value) if any(isinstance(one, Mapping) for one in value.values()) else [f"{k}={v}" for k, v in value.items()]
    return value


def _target(words: Sequence[str], where: str | None) -> tuple[str | None, Sequence[str]]:
    """Return the node that is named, if one is, and the other words."""
    if where is not None:
        if words and "=" not in words[0] and not words[0].endswith("-"):
            raise click.UsageError(f"give {words[0]!r} or --where, and not both")
        return None, words
    if not words or "=" in words[0]:
        raise click.UsageError("say which nodes: give a node's name first, or --where SELECTOR")
    return check_name("node", words[0]), words[1:]


def _field(name: str) -> str:
    return name if name.startswith("label.") else name.replace("-", "_")


def _put(given: dict[str, Any], key: str, value: str) -> None:
    """Put one KEY=VALUE among the fields of a command."""
    from hub.core.nodes.device_settings import LINK_FIELDS  # noqa: PLC0415

    parts = key.split(".")
    if parts[0] == "budget" and len(parts) == 3:
        field = _field(parts[2])
        if field not in LINK_FIELDS:
            raise click.UsageError(f"{key!r} is no setting: a budget has bytes-day-max, hours and full-download")
        found: Any = _switch(key, value) if field == "full_download" else value
        if field == "bytes_day_max":
            if not value.isdecimal():
                raise click.UsageError(f"{key}={value} must be a whole number of bytes")
            found = int(value)
        given.setdefault("budgets", {}).setdefault(parts[1], {})[field] = found
    elif key == "telemetry":
        given[key] = _switch(key, value)
    elif key in {"cohort", "display-name"}:
        given[_field(key)] = value
    else:
        mend = " (labels: `fleetcast nodes label`)" if key.startswith("label") else ""
        raise click.UsageError(f"{key!r} is no setting: cohort, telemetry, display-name, budget.LINK.FIELD{mend}")


def _switch(key: str, value: str) -> bool:
    if value not in SWITCHES:
        raise click.UsageError(f"{key}={value} must be on or off")
    return SWITCHES[value]


def _wish(node: str | None, where: str | None, **fields: Any) -> "SetNodeSettings":
    from hub.core.nodes import device_settings as core  # noqa: PLC0415

    given = {"node": node, "where": where, **fields}
    return core.read(json.dumps({name: value for name, value in given.items() if value is not None and value != []}))


def _change(directory: Path, wish: "SetNodeSettings", *, yes: bool, as_json: bool) -> None:
    if (hub := remote()) is not None:
        _change_remote(hub, wish, yes=yes, as_json=as_json)
        return
    from hub.cli.command_queue import ANSWER_SECONDS, answered  # noqa: PLC0415
    from hub.database.node_commands import NodeCommands  # noqa: PLC0415  # with SQLAlchemy, which --help does without
    from hub.operations.node_changes import effect_of, effect_row, move_row  # noqa: PLC0415

    fleet = opened(directory)
    effect = effect_of(fleet, wish)
    rows = [effect_row(model, one) for model, found in effect.moves.items() for one in found]
    _warn_of_access_lists(directory)
    _announce(Announced(effect.nodes, effect.known, effect.keep_labels, rows), wish, yes=yes)
    commands = NodeCommands(fleet.store.database)
    number = commands.add(wish)
    moved = [move_row(model, one) for model, found in effect.moves.items() for one in found]
    facts = {"command": number, "nodes": len(effect.nodes), "moves": moved}
    if not hub_runs(directory):
        click.echo("No hub runs here now: the command waits until one starts.", err=True)
        if as_json:
            click.echo(json.dumps({**facts, "state": "queued", "text": ""}, indent=2))
        return
    until = time.monotonic() + max(ANSWER_SECONDS, len(effect.nodes) / NODES_PER_SECOND)
    try:
        text = answered(commands.get, number, directory=directory, until=until)
    finally:
        fleet.store.close()
    click.echo(json.dumps({**facts, "state": "done", "text": text}, indent=2) if as_json else plain(text))


@dataclass(frozen=True, slots=True)
class Announced:
    """Hold what a change will do, as it is shown before it is made."""

    nodes: Sequence[str]
    known: int
    keep_labels: Sequence[str]
    moves: Sequence[Mapping[str, Any]]


def _change_remote(hub: "HubClient", wish: "SetNodeSettings", *, yes: bool, as_json: bool) -> None:
    given = wish.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    found = hub.settings_effect(given)
    effect = Announced(found["nodes"], found["known"], found["keep_labels"], found["moves"])
    _announce(effect, wish, yes=yes)
    seconds = max(WAIT_SECONDS, len(effect.nodes) / NODES_PER_SECOND)
    if wish.node is not None:
        del given["node"]
        done = hub.set_node_settings(wish.node, given, wait_seconds=seconds)
    else:
        done = hub.set_settings_of_nodes(given, wait_seconds=seconds)
    moves = [{name: value for name, value in one.items() if name != "before_release"} for one in effect.moves]
    print_answer(done, as_json=as_json, nodes=len(effect.nodes), moves=moves)


def _warn_of_access_lists(directory: Path) -> None:
    """Warn where mosquitto may keep settings from the nodes that they are for."""
    from hub.service.broker import access_lists  # noqa: PLC0415
    from hub.settings import load  # noqa: PLC0415

    fleet = load(directory)
    if fleet.broker_url and (rules := access_lists.missing(directory, fleet.fleet)):
        click.echo(f"warning: {access_lists.in_words(rules)}", err=True)


def _announce(effect: Announced, wish: "SetNodeSettings", *, yes: bool) -> None:
    """Say what will change, and ask where there is somebody to ask."""
    what = (
        f"node {wish.node}"
        if wish.node is not None
        else f"{len(effect.nodes)} of the {counted(effect.known, 'node')} that {wish.where!r} matches"
    )
    click.echo(plain(f"This changes the settings of {what}." if effect.nodes else "This changes nothing: it is set so already."), err=True)
    if effect.keep_labels:
        keepers = len(effect.keep_labels)
        keep = f"{counted(keepers, 'node')} {verb(keepers, 'accept')}"
        names, whose = ", ".join(effect.keep_labels[:3]), "its own file" if keepers == 1 else "their own files"
        click.echo(plain(f"warning: {keep} no labels from the hub, by {whose}: {names}"), err=True)
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for one in effect.moves:
        by_model.setdefault(str(one["model"]), []).append(one)
    lines = [line for model, found in by_model.items() for line in _lines(model, found)]
    for line in lines[:LINES_MAX]:
        click.echo(plain(line), err=True)
    if len(lines) > LINES_MAX:
        click.echo(f"... and {len(lines) - LINES_MAX} more; --json has all of them", err=True)
    if wish.where is not None and effect.nodes and not yes and sys.stdin.isatty():
        click.confirm("Go on?", abort=True, err=True)


def _lines(model: str, moves: Sequence[Mapping[str, Any]]) -> list[str]:
    titles = [(_title(one["before"], one["before_release"]), _title(one["after"], one["release"])) for one in moves]
    counts = Counter(titles)
    first: dict[tuple[str | None, str | None], str] = {}
    for title, one in zip(titles, moves, strict=True):
        first.setdefault(title, str(one["node"]))
    return [
        f"{model}: for {first[(before, after)] if count == 1 else counted(count, 'node')} {_movement(before, after)}"
        for (before, after), count in counts.items()
    ]


def _movement(before: str | None, after: str | None) -> str:
    """Return which deployment will decide, and which decided until now."""
    if after is None:
        return f"no deployment will decide, and {before} no longer"
    return f"{after} will decide" + (f", and no longer {before}" if before is not None else "; none decides now")


def _title(deployment: str | None, version: str | None) -> str | None:
    return f"deployment {deployment} ({version})" if deployment is not None else None
