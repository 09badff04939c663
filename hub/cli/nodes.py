"""`fleetcast nodes`: what every node serves, by its own signed receipts; nodes that are gone, and new hardware in their place."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcast.cli.list_choice import choice, list_options
from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from hub.cli.node_settings import label, set_, settings
from hub.cli.options import (
    ALL,
    Lines,
    changes_fleet,
    dir_option,
    hub_runs,
    json_option,
    node_marks,
    node_page,
    open_store,
    opened,
    passphrase_option,
    show,
    show_one,
)
from hub.cli.remote import remote
from hub.core.rollouts.duplicates import OVER_SECONDS
from hub.core.rollouts.parameters import in_words as parameter_in_words
from hub.core.rollouts.refusals import SITE, in_words
from hub.database.rows import NodeMarks, by_model
from hub.operations.node_findings import builds, findings_by_node, shortened
from hub.operations.node_rows import moment, node_row
from schemas import codec
from schemas.errors import Code, Refused
from schemas.limits import MIB
from schemas.names import check_name
from schemas.state import Finding, State

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient

LEDGER = ("planned", "received", "reused", "wasted")


NODE_COMMANDS = ("list", "forget", "replace")
PAGE = 100  # Nodes of one table.
ONLY_REMOTE = frozenset({"state", "code", "sentence", "deployments"})  # What the API says of a node besides.
HOURS_MAX = 720
BY_TOKEN = ("node", "token", "expires", "command")  # What is shown of new hardware that comes with a token,
BY_KEY = ("node", "lets_in", "fingerprint", "until", "old_key")  # or by its key.
WAIT_HOURS = 24  # how long new hardware is waited for


class NodesGroup(click.Group):
    """Take `nodes`, `nodes NODE` and their options for `nodes list`, as commands of earlier versions were."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` in front where no command is named."""
        if args not in (["--help"], ["-h"]) and not any(one in self.commands for one in args):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name; any other name is a node's, which `list` shows."""
        return super().get_command(ctx, cmd_name) or self.commands["list"]


@click.group(cls=NodesGroup, context_settings={"help_option_names": ["-h", "--help"]})
@dir_option
@json_option
@click.pass_context
def nodes(context: click.Context, directory: Path, as_json: bool) -> None:
    """List the nodes, set labels and settings, forget or replace one.

    Without a command, or with a node's name instead of one, it is `fleetcast nodes list`.

    \b
    Examples:
      fleetcast nodes
      fleetcast nodes gateway-17 --json
      fleetcast nodes label gateway-17 ring=canary
      fleetcast nodes forget gateway-17
      fleetcast nodes replace gateway-17
    """
    context.default_map = {name: {"directory": directory, "as_json": as_json} for name in NODE_COMMANDS}


nodes.add_command(label)
nodes.add_command(set_)
nodes.add_command(settings)


@nodes.command("list")
@click.argument("node", required=False)
@click.option("--where", metavar="SELECTOR", help="List only these nodes, such as site=jfk or 'state in (refused,waiting)'.")
@click.option("--after", default="", metavar="NODE", help="List only nodes whose names come after this one.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=None,
    help=f"Greatest number of nodes to list. The default is {PAGE}, and with --json all of them.",
)
@dir_option
@json_option
@list_options(has_where=True)
def list_(node: str | None, where: str | None, after: str, limit: int | None, directory: Path, as_json: bool) -> None:
    """List the nodes by name, or show one node in detail.

    A table shows the first of them. The line below it names the command for the next page.

    In --where the key `state` is the class of a node, as `fleetcast rollout status MODEL --nodes` has it. A node with several models counts
    in the class that needs somebody most.

    \b
    Examples:
      fleetcast nodes
      fleetcast nodes list --where site=jfk,state!=serving
      fleetcast nodes list --after gateway-17 --limit 500
      fleetcast nodes gateway-17 --json
    """
    wanted, limit = choice(), limit or (ALL if as_json else PAGE)
    if node is not None and (wanted.columns or wanted.sort or where is not None):
        given = "--columns" if wanted.columns else "--sort" if wanted.sort else "--where"
        raise click.UsageError(f"{given} is for the list of nodes, and {node!r} is one: leave it out, or list with --where node={node}")
    if (hub := remote()) is not None:
        _list_remote(hub, node, where, after, limit, as_json=as_json)
        return
    page = node_page(directory, node=node, after=after, limit=ALL if where is not None or wanted.sort else limit + 1)
    marks = node_marks(directory)
    if node is not None and not page.nodes:
        raise _unknown(node, marks.get(node, NodeMarks()))
    empty, of = "No node has reported yet." if not page.total else f"No node's name comes after {after!r}.", page.total
    listed = list(page.nodes)
    if where is not None:
        from hub.operations.node_classes import matching  # noqa: PLC0415  # SQLAlchemy takes longer to import than the list without it

        names, empty = matching(opened(directory), where)
        listed = [row for row in listed if row.node in names]
        of = len(names)
    is_more, listed = len(listed) > limit, listed if wanted.sort else listed[:limit]
    serving = by_model(page.serving)
    states = {row.node: codec.decode(State, row.state) for row in listed}
    findings = findings_by_node(directory, states, lambda: open_store(directory))
    rows = [node_row(row, states[row.node], serving, findings[row.node], marks.get(row.node, NodeMarks())) for row in listed]
    if node is not None:
        _show_node(rows[0], as_json=as_json)
        return
    rows = _arranged(rows)[:limit]
    waiting = {name: one.expected_until for name, one in marks.items() if one.expected_until is not None}
    listing = Listing(rows, of=of, is_more=is_more, where=where, nobody=empty, waiting=waiting)
    _show_nodes(listing, {name: state.software for name, state in states.items()}, findings, as_json=as_json)


@dataclass(frozen=True, slots=True)
class Listing:
    """Hold a page of nodes, and of how many it is one."""

    rows: Sequence[Mapping[str, Any]]
    of: int
    is_more: bool
    where: str | None
    nobody: str
    waiting: Mapping[str, int]


def _list_remote(hub: "HubClient", node: str | None, where: str | None, after: str, limit: int, *, as_json: bool) -> None:
    from hub.core.rollouts.node_filter import nobody  # noqa: PLC0415  # the list of a folder does without
    from schemas.selectors import NodeFacts  # noqa: PLC0415

    if node is not None:
        _show_node(_told(hub.node(check_name("node", node))), as_json=as_json)
        return
    wanted = choice()
    found, total = hub.nodes_page(where, after=after, limit=ALL if wanted.sort else limit + 1)
    rows = [_told(row) for row in found]
    everybody = list(hub.nodes()) if not rows else []
    nobody_in = [NodeFacts(one["node"], one["labels"], one["arch"] or "") for one in everybody]
    empty = nobody(where, nobody_in) if where is not None else "No node has reported yet." if not everybody else ""
    is_more, rows = len(rows) > limit, _arranged(rows)[:limit]
    findings = {row["node"]: tuple(Finding(**one) for one in row["findings"]) for row in rows}
    listing = Listing(rows, of=total, is_more=is_more, where=where, nobody=empty or f"No node's name comes after {after!r}.", waiting={})
    _show_nodes(listing, {row["node"]: row["software"] for row in rows}, findings, as_json=as_json)


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node of the API as the folder has it."""
    return {name: value for name, value in row.items() if name not in ONLY_REMOTE}


def _show_node(one: Mapping[str, Any], *, as_json: bool) -> None:
    show_one(one if as_json else {**one, **_details(one)}, as_json=as_json)


def _show_nodes(listing: Listing, software: Mapping[str, str], findings: Mapping[str, Sequence[Finding]], *, as_json: bool) -> None:
    rows, of, where, is_more = listing.rows, listing.of, listing.where, listing.is_more
    flat = [{**row, "serves": _serves(row), "status": _status(row)} for row in rows]
    show(
        rows,
        ["node", "status", "last_seen", "cohort", "serves", "software"],
        as_json=as_json,
        empty=listing.nobody,
        in_words=flat,
    )
    if not as_json:
        lines = [
            f"{name} {in_words(one)}" if one.kind != SITE else f"{name}: {in_words(one)}" for name in findings for one in findings[name]
        ]
        with_others = [row for row in rows if row["other_key_since"]]
        if with_others:
            from hub.core.rollouts.node_class import other_key_in_words  # noqa: PLC0415  # with all of rollouts, which is seldom needed
        others = [f"{row['node']}: {other_key_in_words(row['node'])} [{Code.RECEIPT_KEY_CHANGED}]" for row in with_others]
        two = [_two_devices(row) for row in rows if row["duplicate_since"] and not row["other_key_since"]]
        lines = [*others, *two, *lines]
        which = "Nodes" if len(rows) == of else "The nodes shown"
        mixed = builds(software.items(), which=which)
        for line in [*shortened(lines, mend="`fleetcast nodes --json` has all of them"), *([mixed] if mixed else [])]:
            click.echo(plain(line))
        shown = f"{len(rows)} of {counted(of, 'node')} {'is' if len(rows) == 1 else 'are'} shown"
        if is_more and choice().sort:
            click.echo(f"{shown}; --limit shows more", err=True)
        elif is_more:
            same = f" --where {shlex.quote(where)}" if where is not None else ""
            click.echo(plain(f"{shown}; the next: fleetcast nodes list{same} --after {rows[-1]['node']}"), err=True)
    if not as_json:
        for name, until in sorted(listing.waiting.items()):
            click.echo(f"{name} waits for new hardware until {moment(until)}.", err=True)


def _arranged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes that are asked for, in their order; `serves`, which a table has and JSON has not, is a column, too."""
    return [rows[at] for at in choice().arrange([{**row, "serves": ", ".join(_serves(row))} for row in rows])]


def _serves(row: Mapping[str, Any]) -> list[str]:
    return [_in_words(one) for one in row["models"]]


def _two_devices(row: Mapping[str, Any]) -> str:
    """Return since when two devices use a node's name, and until when that is shown."""
    until = datetime.fromisoformat(row["duplicate_last_at"]) + timedelta(seconds=OVER_SECONDS)
    return (
        f"{row['node']}: two devices use its name and key since {row['duplicate_since']}, last seen at {row['duplicate_last_at']};"
        f" this ends at {until.isoformat()}, if the hub listens and sees no more of it [{Code.NODE_DUPLICATE}]"
    )


def _status(row: Mapping[str, Any]) -> str:
    if row["other_key_since"]:
        return f"{row['status']} (another key)"
    return f"{row['status']} (two devices)" if row["duplicate_since"] else str(row["status"])


def _unknown(node: str, marks: NodeMarks) -> Refused:
    if marks.is_forgotten:
        return Refused(Code.NODE_FORGOTTEN, f"node {node!r} was forgotten; `fleetcast nodes replace {node}` lets a device in by this name")
    if marks.expected_until is not None:
        return Refused(Code.NODE_UNKNOWN, f"node {node!r} waits for new hardware until {moment(marks.expected_until)}")
    return Refused(Code.NODE_UNKNOWN, f"node {node!r} has never reported; `fleetcast nodes` lists the nodes that have")


@nodes.command()
@click.argument("node")
@changes_fleet
@dir_option
@passphrase_option
@json_option
def forget(node: str, directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Forget a node that is gone for good.

    It leaves every list, count and rollout, its certificates are revoked, and its retained state is cleared from the broker when the hub
    is connected. What it still sends is refused, and reported once. `fleetcast nodes replace` lets a device in by this name again.

    \b
    Examples:
      fleetcast nodes forget gateway-17
      fleetcast nodes forget gateway-17 --json
    """
    if (hub := remote()) is not None:
        show_one({**hub.forget_node(check_name("node", node)), "hub": "it refuses the node from now on"}, as_json=as_json)
        return
    from hub.cli.enroll import revoke_everything  # noqa: PLC0415  # with SQLAlchemy, which the list does without
    from hub.database.device_lives import DeviceLives  # noqa: PLC0415
    from hub.operations.forgetting import check_known  # noqa: PLC0415

    fleet = opened(directory)
    check_known(fleet, node)
    DeviceLives(fleet.store.database).forget(node)  # before anybody is asked for a passphrase
    revoked = revoke_everything(directory, fleet.store.database, node, passphrase_file)
    facts = {"node": node, "certificates_revoked": revoked.certificates, "tokens_withdrawn": revoked.tokens}
    runs = hub_runs(directory)
    sentence = "it refuses the node from now on" if runs else "none runs here; it refuses the node when it is started"
    show_one({**facts, "hub": sentence}, as_json=as_json)


@nodes.command()
@click.argument("node")
@click.option("--fingerprint", default=None, metavar="HEX", help="Let in only the device whose key has this SHA-256 digest.")
@click.option(
    "--hours", type=click.IntRange(1, HOURS_MAX), default=WAIT_HOURS, show_default=True, help="Time in which the new device must come."
)
@changes_fleet
@dir_option
@json_option
def replace(node: str, fingerprint: str | None, hours: int, directory: Path, as_json: bool) -> None:
    """Give a node's name to new hardware.

    Where devices enrol, this prints a token for the new device; the old one's certificate is revoked when the token is used.

    Elsewhere the old key is out at once, and the next key that comes in this name within --hours is in. Any device that reaches the
    broker could come first. So name the new device's key by --fingerprint: `fleetcast-node status` shows it on the device.

    \b
    Examples:
      fleetcast nodes replace gateway-17
      fleetcast nodes replace gateway-17 --fingerprint 5f0c...e1 --hours 2
    """
    digest = _fingerprint(fingerprint)
    try:
        row, warnings = _replaced(directory, check_name("node", node), digest, hours)
    except Refused as refused:
        if digest is not None and refused.code == Code.SETTINGS_INVALID:
            raise click.UsageError(refused.reason) from None
        raise
    for sentence in warnings:
        click.echo(f"warning: {plain(sentence)}", err=True)
    show_one(row, as_json=as_json)


def _replaced(directory: Path, node: str, fingerprint: bytes | None, hours: int) -> tuple[dict[str, Any], Sequence[str]]:
    if (hub := remote()) is not None:
        answer = hub.replace_node(node, fingerprint=fingerprint, hours=hours)
        return {name: answer[name] for name in (BY_TOKEN if answer["token"] is not None else BY_KEY)}, answer["warnings"]
    from hub.operations import replacing  # noqa: PLC0415  # with SQLAlchemy, which the list does without

    fleet = opened(directory)
    row = replacing.replace(fleet, node, fingerprint=fingerprint, hours=hours)
    return row, replacing.unanswered(fleet) if "token" in row else []


def _fingerprint(text: str | None) -> bytes | None:
    if text is None:
        return None
    digits = text.lower().removeprefix("sha256:").replace(":", "")
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise click.UsageError(f"--fingerprint {text[:80]!r} must be 64 hexadecimal digits, as `fleetcast-node status` shows them")
    return bytes.fromhex(digits)


def _details(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's nested values, in words."""
    ledger = [f"{m['model']}: " + ", ".join(f"{m[f'bytes_{what}']} {what}" for what in LEDGER) for m in one["models"]]
    labels = [f"{key}={value}" for key, value in one["labels"].items()]
    parameters = [f"{m['model']}: {_setting(setting)}" for m in one["models"] for setting in m["parameters"]]
    measured = [f"{m['model']}: {_measured(m['evidence'])}" for m in one["models"] if m["evidence"]]
    return {
        "labels": labels,
        "models": Lines(map(_in_words, one["models"])),
        "measured": Lines(measured),
        "bytes": Lines(ledger),
        "parameters": Lines(parameters),
        "findings": Lines(in_words(Finding(**finding)) for finding in one["findings"]),
    }


def _measured(one: Mapping[str, Any]) -> str:
    """`latency 1.42 ms, load 620 ms, memory 71 MiB` when it was activated."""
    return f"latency {one['latency_ms']:.3g} ms, load {one['load_ms']:.0f} ms, memory {one['memory_bytes'] / MIB:.0f} MiB"


def _setting(one: Mapping[str, Any]) -> str:
    """`threshold=0.7 (rollout; the site's own value is not allowed: parameter.bounds)`."""
    refused = f"; the site's own value is not allowed: {one['code']}" if one["code"] else ""
    return f"{parameter_in_words(one['name'], one['value'])} ({one['source']}{refused})"


def _in_words(one: dict[str, Any]) -> str:
    busy = "" if one["state"] == "active" else f" ({one['state']} {one['target_version'] or ''}{' ' + one['code'] if one['code'] else ''})"
    since = f" by its last receipt, and reports {one['reported_version']}" if one.get("reported_version") else ""
    return f"{one['model']}@{one['serving_version'] or '-'}{since}{busy}"
