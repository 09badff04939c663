"""`fleetcast nodes`: what every node serves, by its own signed receipts, and what it is busy with."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.terminal_text import plain
from hub.cli.node_findings import builds, findings_by_node, shortened
from hub.cli.options import Lines, dir_option, json_option, nodes_and_receipts, show, show_one
from hub.core.rollouts.parameters import in_words as parameter_in_words
from hub.core.rollouts.refusals import SITE, in_words
from hub.database.rows import NodeRow, ReceiptRow
from schemas import codec
from schemas.errors import Code, Refused
from schemas.limits import MIB
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import Finding, Slot, State

LEDGER = ("planned", "received", "reused", "wasted")


@click.command()
@click.argument("node", required=False)
@dir_option
@json_option
def nodes(node: str | None, directory: Path, as_json: bool) -> None:
    """List the nodes, or show one node in detail.

    \b
    Examples:
      fleetcast nodes
      fleetcast nodes gateway-17 --json
    """
    known, receipts = nodes_and_receipts(directory, node)
    serving = {(one.node, one.model): one for one in reversed(receipts) if one.outcome == "serving"}  # the newest stays
    states = {row.node: codec.decode(State, row.state) for row in known if node in {None, row.node}}
    findings = findings_by_node(directory, states, receipts)
    rows = [_row(row, states[row.node], serving, findings[row.node]) for row in known if row.node in states]
    if node is not None:
        if not rows:
            raise Refused(Code.RECEIPT_UNKNOWN_NODE, f"node {node!r} has never reported; `fleetcast nodes` lists the nodes that have")
        one = rows[0]
        show_one(one if as_json else {**one, **_details(one)}, as_json=as_json)
        return
    flat = [{**row, "serves": [_in_words(one) for one in row["models"]]} for row in rows]
    show(
        rows if as_json else flat,
        ["node", "status", "last_seen", "cohort", "serves", "software"],
        as_json=as_json,
        empty="No node has reported yet.",
    )
    if not as_json:
        lines = [
            f"{name} {in_words(one)}" if one.kind != SITE else f"{name}: {in_words(one)}" for name in findings for one in findings[name]
        ]
        mixed = builds((name, state.software) for name, state in states.items())
        for line in [*shortened(lines, mend="`fleetcast nodes --json` has all of them"), *([mixed] if mixed else [])]:
            click.echo(plain(line))


COUNTS = {"shadow_rows", "shadow_agreement"}  # exact counts of requests, in receipts of older nodes: shown to nobody


def _row(row: NodeRow, state: State, serving: Mapping[tuple[str, str | None], ReceiptRow], findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "node": row.node,
        "status": row.status,
        "last_seen": datetime.fromtimestamp(row.last_seen, UTC).isoformat(),
        "session": row.session,
        "cohort": row.cohort,
        "software": state.software,
        "labels": dict(state.profile.labels) if state.profile else {},
        "arch": state.profile.arch if state.profile else None,
        "stale": state.stale,
        "findings": [one.model_dump() for one in findings],
        "rho_spent_today": round(state.telemetry.rho_spent, 4) if state.telemetry else None,
        "rho_day_max": state.telemetry.rho_day_max if state.telemetry else None,
        "models": [_model(slot, serving.get((row.node, slot.model))) for slot in state.slots],
    }


def _model(slot: Slot, serving: ReceiptRow | None) -> dict[str, Any]:
    return {
        "model": slot.model,
        "serving_version": serving.version if serving else None,  # by receipt, not by what the state claims
        "serving_digest": serving.digest.hex() if serving and serving.digest else None,
        "state": slot.state,
        "target_version": slot.target_version,
        "code": slot.code,
        "bytes_planned": slot.bytes_planned,
        "bytes_received": slot.bytes_received,
        "bytes_reused": slot.bytes_reused,
        "bytes_wasted": slot.bytes_wasted,
        "variant": slot.variant,
        "parameters": [one._asdict() for one in slot.parameters or ()],
        "evidence": _evidence(serving),
    }


def _evidence(serving: ReceiptRow | None) -> dict[str, Any] | None:
    """Return what the device measured when it activated the release that it serves."""
    if serving is None:
        return None
    receipt = codec.decode(Receipt, codec.decode(SealedReceipt, serving.sealed).body)
    return receipt.evidence.model_dump(mode="json", exclude_none=True, exclude=COUNTS) if receipt.evidence is not None else None


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
    return f"{one['model']}@{one['serving_version'] or '-'}{busy}"
