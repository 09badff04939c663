"""`fleetcast-node models`: every release that stands on this device's disk, and what is known of it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.list_choice import list_options
from fleetcast.cli.table_output import show
from node.cli.options import json_option, settings_option, store_of
from node.cli.units import size
from node.core.activation.lifecycle import ModelSlot
from node.core.doctor.agent_health import AgentStatus
from node.host.pidfile import is_locked, read_status
from node.settings import load
from node.storage.inventory import OnDisk, releases
from schemas.receipt import Evidence

COLUMNS = ("model", "version", "digest", "variant", "role", "size", "golden_error", "latency", "memory", "worker", "parameters")


@click.command()
@settings_option
@json_option
@list_options()
def models(path: Path, as_json: bool) -> None:
    """List the releases on this disk.

    Each has its role on this node, what its last activation measured here, and its limits.

    A golden error of 1 is the limit. Latency is the median of one request. Memory is the largest amount that the worker has held.

    \b
    Examples:
      fleetcast-node models
      fleetcast-node models --json | jq '.[] | select(.role == "serving")'
    """
    settings = load(path)
    store = store_of(settings)
    slots, evidence = store.slots(), store.evidence()
    store.close()
    status = read_status(settings.data)
    pids = {worker.digest: worker.pid for worker in status.workers} if status and is_locked(settings.data) else {}
    rows = [_row(one, slots, evidence, status, pids) for one in releases(settings.data)]
    rows.sort(key=lambda row: (str(row["model"]), str(row["version"])))
    in_words = [{**row, **_short(row)} for row in rows]
    show(rows, COLUMNS, as_json=as_json, empty="There is no release on this disk.", in_words=in_words)


def role_of(digest: bytes, slots: Mapping[str, ModelSlot]) -> str:
    """Return the role of a release on this node."""
    for slot in slots.values():
        for role, target in (("serving", slot.serving), ("last good", slot.last_good), (slot.state, slot.target)):
            if target is not None and target.digest == digest:
                return role
    return "kept for deltas"  # what nobody needs is removed when a release has settled


def rss_bytes(pid: int | None) -> int | None:
    """Return the memory that a process holds now; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in fields if line.startswith("VmRSS:")), None)


def _row(
    one: OnDisk,
    slots: Mapping[str, ModelSlot],
    evidence: Mapping[bytes, tuple[int, Evidence]],
    status: AgentStatus | None,
    pids: Mapping[bytes, int | None],
) -> dict[str, Any]:
    manifest, (at, measured) = one.manifest, evidence.get(one.digest, (None, None))
    return {
        "model": manifest.model if manifest else None,
        "version": manifest.version if manifest else None,
        "digest": one.digest.hex(),
        "variant": ", ".join(variant.name for variant in one.variants) or None,
        "runtime": ", ".join(sorted({variant.runtime for variant in one.variants})) or None,
        "role": role_of(one.digest, slots),
        "bytes": one.bytes,
        "activated": datetime.fromtimestamp(at, UTC).isoformat() if at is not None else None,
        "evidence": measured.model_dump(mode="json", exclude_none=True) if measured else None,
        "limits": manifest.limits.model_dump(mode="json", exclude_none=True) if manifest else None,
        "parameters": _parameters(one.digest, status),
        "worker_pid": pids.get(one.digest),
        "worker_rss_bytes": rss_bytes(pids.get(one.digest)),
    }


def _parameters(digest: bytes, status: AgentStatus | None) -> list[dict[str, Any]]:
    """Return the parameters that a release is served with; none of one that is not served."""
    slot = next((slot for slot in status.slots if slot.serving == digest), None) if status else None
    settings = (slot.parameters or ()) if slot else ()
    return [{"name": setting.name, "value": setting.value, "source": setting.source, "code": setting.code} for setting in settings]


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    measured, limits = row["evidence"], row["limits"]
    pid = row["worker_pid"]
    return {
        "digest": row["digest"][:12],
        "size": size(row["bytes"]),
        "golden_error": f"{measured['golden_error_max']:.2g}" if measured else None,
        "latency": f"{measured['latency_ms']:.2f} of {limits['latency_ms_max']:g} ms" if measured and limits else None,
        "memory": f"{size(measured['memory_bytes'])} of {size(limits['memory_bytes_max'])}" if measured and limits else None,
        "worker": f"{pid} ({size(row['worker_rss_bytes'])})" if pid else None,
        "parameters": ", ".join(f"{one['name']}={one['value']} ({one['source']})" for one in row["parameters"]),
    }
