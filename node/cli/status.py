"""`fleetcast-node status`: how this node is, whether its agent runs or not."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.table_output import show
from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted, verb
from node.cli.errors import Exit
from node.cli.options import json_option, settings_option
from node.cli.units import size, span
from node.core.activation.lifecycle import ModelSlot
from node.core.delivery.byte_quota import Policy
from node.core.doctor import agent_health
from node.core.doctor.agent_health import AgentStatus, Verdict
from node.core.trust import clock
from node.enrol.credentials import expires_at
from node.host.pidfile import is_locked, read_status
from node.settings import NodeSettings, load
from node.storage.inventory import releases
from node.storage.rows import ByteUsage
from node.storage.store import NodeStore
from schemas import codec
from schemas.errors import Code, Refused, Unreachable
from schemas.receipt import Receipt, SealedReceipt

RECEIPTS = 256  # receipts that are read: the newest of a model says why it was refused
EXITS = {Verdict.NOT_RUNNING: Exit.NOT_RUNNING, Verdict.NOT_TURNING: Exit.NOT_SERVING, Verdict.NOT_SERVING: Exit.NOT_SERVING}


@dataclass(frozen=True, slots=True)
class Remembered:
    """Hold what the store has."""

    floor: int = 0
    slots: tuple[tuple[ModelSlot, ByteUsage, str], ...] = ()  # with the bytes of what it is busy with, and why it was refused
    today_bytes: dict[str, int] | None = None
    error: str = ""  # why it could not be read


@click.command()
@settings_option
@json_option
def status(path: Path, as_json: bool) -> None:
    """Show the state of this node.

    Shown are agent, broker, trusted metadata, clock, models, budgets and disk. The agent may run or not.

    The command ends with 0 when the node serves what it should, or has nothing to serve yet. It ends with 11 when the node does not run,
    and with 12 when the node runs and does not serve. A node without a broker is well: it serves what it has.

    \b
    Examples:
      fleetcast-node status
      fleetcast-node status --json | jq .verdict
      fleetcast-node status > /dev/null || systemctl restart fleetcast-node
    """
    settings = load(path)
    now = int(time.time())
    agent_status = read_status(settings.data)
    verdict = agent_health.judge(agent_status, running=is_locked(settings.data), now=now)
    found = report(settings, agent_status, verdict, _remembered(settings.data), now=now)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found, now)
    sys.exit(EXITS.get(verdict, Exit.OK))


def report(settings: NodeSettings, agent_status: AgentStatus | None, verdict: Verdict, kept: Remembered, *, now: int) -> dict[str, Any]:
    """Return the state of a node, as JSON has it; times are ISO 8601 in UTC.

    `agent_status` is the newest that an agent wrote. Facts of a running agent (its process, its connection) are absent if none runs.
    """
    live = None if verdict is Verdict.NOT_RUNNING else agent_status
    reported = {slot.model: slot for slot in agent_status.slots} if agent_status else {}
    rollouts = agent_status.rollouts if agent_status else {}
    workers = agent_health.workers_of(live)
    return {
        "node": settings.id,
        "fleet": settings.fleet,
        "verdict": str(verdict),
        "agent": _agent(agent_status, running=verdict is not Verdict.NOT_RUNNING),
        "broker": _broker(settings, agent_status, live),
        "metadata": _metadata(agent_status, kept, now),
        "clock": {"trusted": clock.is_known(now, kept.floor), "now": _at(now), "not_before": _at(max(kept.floor, clock.BUILD_TIME))},
        "models": [
            {**_model(slot, counted, reason, reported.get(slot.model), workers), "rollout": rollouts.get(slot.model)}
            for slot, counted, reason in kept.slots
        ],
        "link": _link(settings, agent_status, kept),
        "settings": _settings(settings, agent_status),
        "telemetry": agent_status.telemetry.model_dump(mode="json") if agent_status and agent_status.telemetry else None,
        "disk": _disk(settings, live, kept),
    }


def _agent(agent_status: AgentStatus | None, *, running: bool) -> dict[str, Any]:
    """Report the process; `agent_status` is the newest that it or its predecessor wrote."""
    if agent_status is None:
        known = ("pid", "since", "ended", "said", "software", "listen", "key", "watchdog_seconds")
        return {"running": running, **dict.fromkeys(known), "findings": [], "error": "", "error_at": None}
    return {
        "running": running,
        "pid": agent_status.pid if running else None,
        "since": _at(agent_status.started_at if running else None),
        "ended": _at(None if running else agent_status.ended_at),
        "said": _at(agent_status.written_at),
        "software": agent_status.software,
        "listen": agent_status.listen if running else None,
        "key": agent_status.key.hex() if agent_status.key else None,
        "watchdog_seconds": agent_status.watchdog_seconds if running else None,
        "findings": [one.model_dump() for one in agent_status.findings] if running else [],
        "error": agent_status.error,
        "error_at": _at(agent_status.error_at),
    }


def _broker(settings: NodeSettings, agent_status: AgentStatus | None, live: AgentStatus | None) -> dict[str, Any]:
    return {
        "url": _without_password(settings.broker),
        "connected": live is not None and live.online,
        "since": _at(live.since if live else None),
        "reason": agent_status.reason if agent_status else "",
        "session": agent_status.session if agent_status else None,
        "certificate_expires": _at(expires_at(settings.tls_certificate) or (agent_status.certificate_expires if agent_status else None)),
    }


def _metadata(agent_status: AgentStatus | None, kept: Remembered, now: int) -> dict[str, Any]:
    return {
        "fresh": agent_health.is_fresh(agent_status, wall=now, floor=kept.floor),
        "expires": _at(agent_status.expires if agent_status else None),
        "root_version": agent_status.root_version if agent_status else None,
        "timestamp_version": agent_status.timestamp_version if agent_status else None,
    }


def _link(settings: NodeSettings, agent_status: AgentStatus | None, kept: Remembered) -> dict[str, Any]:
    link = agent_status.link if agent_status else settings.link
    policy = (agent_status.policy if agent_status else None) or settings.budgets.get(link) or Policy.default(link)
    return {
        "class": link,
        "today_bytes": (kept.today_bytes or {}).get(link, 0),
        "bytes_day_max": policy.bytes_day_max,
        "hours": policy.hours or None,
        "full_download": policy.full_download,
    }


def _settings(settings: NodeSettings, agent_status: AgentStatus | None) -> dict[str, Any]:
    """Report what is in force; before an agent has run, that is what the site's own file says."""
    if agent_status is None or agent_status.sends_telemetry is None:
        own = {"labels": dict(settings.labels), "cohort": settings.cohort, "telemetry": settings.telemetry}
        return {**own, "display_name": None, "hub_serial": None, "ignored": []}
    hub = agent_status.hub_settings
    return {
        "labels": dict(agent_status.labels),
        "cohort": agent_status.cohort,
        "telemetry": agent_status.sends_telemetry,
        "display_name": (hub.display_name or None) if hub else None,
        "hub_serial": hub.serial if hub else None,
        "ignored": list(hub.ignored) if hub else [],
    }


def _disk(settings: NodeSettings, live: AgentStatus | None, kept: Remembered) -> dict[str, Any]:
    return {
        "used_bytes": sum(one.bytes for one in releases(settings.data)),
        "bytes_max": settings.disk_bytes_max,
        "free_bytes": shutil.disk_usage(settings.data).free if settings.data.exists() else None,
        "read_only": live.read_only if live else "",
        "store_error": kept.error,
    }


def _model(slot: ModelSlot, counted: ByteUsage, reason: str, reported: Any, workers: dict[bytes, int | None]) -> dict[str, Any]:
    serving = slot.serving
    target = slot.target if slot.target and (serving is None or slot.target.digest != serving.digest) else None
    return {
        "model": slot.model,
        "state": slot.state,
        "serving": serving.version if serving else None,
        "serving_digest": serving.digest.hex() if serving else None,
        "serving_since": _at(slot.serving_since or None),
        "worker_pid": workers.get(serving.digest) if serving else None,
        "variant": reported.variant if reported else None,
        "last_good": slot.last_good.version if slot.last_good else None,
        "target": target.version if target else None,
        "target_digest": target.digest.hex() if target else None,
        "state_since": _at(slot.since or None),
        "code": slot.code or _damage(reported),
        "reason": reason,
        "bytes_planned": counted.planned,
        "bytes_received": counted.received,
        "bytes_reused": counted.reused,
        "bytes_wasted": counted.wasted,
    }


def _damage(reported: Any) -> str:
    """Return the code of a release whose files are damaged: a slot itself does not know it."""
    return reported.code if reported and reported.code == Code.DISK_DAMAGED else ""


def _remembered(data: Path) -> Remembered:
    path = data / "node.sqlite"
    if not path.exists():
        return Remembered()
    try:
        store = NodeStore.reading(path)
    except Unreachable as error:  # The agent's own status is shown all the same.
        return Remembered(error=str(error))
    try:
        reasons = _reasons(store)
        slots = tuple(
            (
                slot,
                store.usage_of(slot.target.digest) if slot.target else ByteUsage(),
                reasons.get((model, slot.code), "") if slot.code else "",
            )
            for model, slot in sorted(store.slots().items())
        )
        today = date.today().toordinal()  # The device's own day, as budgets count.
        return Remembered(store.fact("clock_floor"), slots, {link: count for day, link, count in store.days() if day == today})
    finally:
        store.close()


def _reasons(store: NodeStore) -> dict[tuple[str, str], str]:
    """Return the reason of the newest receipt, by model and code."""
    found: dict[tuple[str, str], str] = {}
    for _, _, payload, _ in store.outbox_payloads("receipt", RECEIPTS):
        try:
            receipt = codec.decode(Receipt, codec.decode(SealedReceipt, payload).body)
        except Refused:  # A later version wrote it, before this one was put back.
            continue
        found.setdefault((receipt.model or "", receipt.code), receipt.reason)
    return found


def _print(found: dict[str, Any], now: int) -> None:
    for name, text in _lines(found, now):
        click.echo(f"{name:<10} {plain(text)}")
    rows = [_row(model, now) for model in found["models"]]
    click.echo()
    show(rows, ("model", "state", "serving", "since", "target", "bytes", "why"), as_json=False, empty="There is no model here yet.")


def _row(model: dict[str, Any], now: int) -> dict[str, Any]:
    got = f"{size(model['bytes_received'] + model['bytes_reused'])} of {size(model['bytes_planned'])}"
    return {
        **model,
        "since": f"{span(now - _seconds(model['serving_since']))} ago" if model["serving_since"] else None,
        "bytes": got if model["bytes_planned"] else None,
        "why": f"{model['reason']} [{model['code']}]" if model["reason"] else model["code"],
    }


def _lines(found: dict[str, Any], now: int) -> list[tuple[str, str]]:
    """Return what people read above the table of models: a name and a text each."""
    return [
        ("node", f"{found['node']} of fleet {found['fleet']}: {found['verdict'].replace('_', ' ')}"),
        *_agent_lines(found["agent"], now),
        *_broker_lines(found["broker"], now),
        ("metadata", _metadata_text(found["metadata"], now)),
        ("clock", _clock_text(found["clock"])),
        ("link", _link_text(found["link"])),
        *_settings_lines(found["settings"]),
        *_telemetry_lines(found["telemetry"]),
        *_disk_lines(found["disk"]),
    ]


def _agent_lines(agent: dict[str, Any], now: int) -> Iterator[tuple[str, str]]:
    if agent["running"]:
        watchdog = f"watchdog {agent['watchdog_seconds']:g} s" if agent["watchdog_seconds"] else "no watchdog"
        since = f"{span(now - _seconds(agent['since']))}, " if agent["since"] else ""
        yield "agent", f"runs since {since}pid {agent['pid']}, {watchdog}, serves on {agent['listen']}"
    elif agent["said"] is None:
        yield "agent", "does not run, and has not run here yet"
    else:
        ended = "ended" if agent["ended"] else "ended without a word (killed, or the power went) after"
        yield "agent", f"does not run; {ended} {agent['ended'] or agent['said']}"
    if agent["key"]:
        yield "key", f"SHA-256 {agent['key']}"
    for one in agent["findings"]:
        yield "wrong now", f"{one['reason']} ({one['code']})"
    if agent["error"]:
        yield "last error", f"{agent['error_at']}: {agent['error']}"


def _broker_lines(broker: dict[str, Any], now: int) -> Iterator[tuple[str, str]]:
    state = "connected" if broker["connected"] else "not connected"
    since = f" since {span(now - _seconds(broker['since']))}" if broker["since"] else ""
    why = f": {broker['reason']}" if broker["reason"] and not broker["connected"] else ""
    yield "broker", f"{broker['url']}, {state}{since}{why}"
    if broker["connected"] and "another device" in broker["reason"]:
        yield "", f"earlier: {broker['reason']}"
    if broker["certificate_expires"]:
        yield "", f"our certificate {_until(broker['certificate_expires'], now)}"


def _metadata_text(metadata: dict[str, Any], now: int) -> str:
    fresh = "fresh" if metadata["fresh"] else "stale: what is active keeps serving, nothing new is activated"
    return f"{fresh}, {_until(metadata['expires'], now)}" if metadata["expires"] else "none has arrived yet"


def _clock_text(seen: dict[str, Any]) -> str:
    return "trusted" if seen["trusted"] else f"not trusted: it says {seen['now']}, and it is {seen['not_before']} or later"


def _link_text(link: dict[str, Any]) -> str:
    most = f" of {size(link['bytes_day_max'])}" if link["bytes_day_max"] is not None else ""
    hours = f", used from {link['hours']}" if link["hours"] else ""
    return f"{link['class']}, {size(link['today_bytes'])}{most} today{hours}"


def _settings_lines(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    labels = ", ".join(f"{key}={value}" for key, value in sorted(settings["labels"].items())) or "no labels"
    off = "" if settings["telemetry"] else ", sends no telemetry"
    name = f", named {settings['display_name']!r}" if settings["display_name"] else ""
    yield "settings", f"{labels}, cohort {settings['cohort']}{off}{name}"
    if settings["hub_serial"]:
        ignored = f"; this site's file does not accept {', '.join(settings['ignored'])}" if settings["ignored"] else ""
        yield "", f"with the hub's settings, serial {settings['hub_serial']}{ignored}"


def _telemetry_lines(spent: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if spent:
        waiting: int = spent["windows_waiting"]
        text = f"rho {spent['rho_spent']:.3f} of {spent['rho_day_max']:g} today, {counted(waiting, 'window')} {verb(waiting, 'wait')}"
        why = f", nothing leaves: {spent['code']}" if spent.get("code") else ""
        yield "telemetry", f"{text}, {spent['windows_withheld']} withheld{why}"


def _disk_lines(disk: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if disk["store_error"]:
        yield "store", f"cannot be read: {disk['store_error']}"
    if disk["read_only"]:
        yield "read-only", f"the node serves what it has, keeps nothing and is not connected: {disk['read_only']}"
    quota = f" of {size(disk['bytes_max'])}" if disk["bytes_max"] else ""
    yield "disk", f"{size(disk['used_bytes'])}{quota} of releases, {size(disk['free_bytes'])} free"


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _until(iso: str, now: int) -> str:
    left = _seconds(iso) - now
    return f"expires in {span(left)}" if left > 0 else f"expired {span(left)} ago"


def _at(seconds: int | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds is not None else None


def _seconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp())
