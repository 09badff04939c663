"""Carry out, inside the guest, what the host asks for over a virtio port: commands, requests to the node, looks into both databases.

Runs with Debian's own Python, and imports nothing of fleetcast: what it reports was read past the product.
"""

import base64
import hashlib
import http.client
import json
import os
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

PORTS = Path("/sys/class/virtio-ports")
NODE_STORE = Path("/var/lib/private/fleetcast-node/gate-17/node.sqlite")
HUB_STORE = Path("/var/lib/fleetcast-hub/hub.sqlite")
_writing = threading.Lock()


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Run a command."""
    environment = {**os.environ, **asked.get("environment", {})}
    try:
        done = subprocess.run(
            asked["command"],
            input=asked.get("typed", ""),
            capture_output=True,
            text=True,
            timeout=asked["limit"],
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return {"code": 124, "out": str(error.stdout or ""), "err": f"it took more than {asked['limit']} s"}
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def ask(asked: dict[str, Any]) -> dict[str, Any]:
    """Send one HTTP request to the node."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", asked.get("port", 8080), timeout=asked["limit"])
    try:
        with closing(connection):
            body = asked.get("body")
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request("GET" if body is None else "POST", asked["path"], body=body, headers=headers)
            reply = connection.getresponse()
            return {"status": reply.status, "body": reply.read().decode(), "seconds": time.monotonic() - began}
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "body": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - began}


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what both databases hold, each as of one moment; of the outbox only payloads that the host does not have."""
    return {"node": _look_at(NODE_STORE, _node, asked["after"]), "hub": _look_at(HUB_STORE, _hub, 0)}


def _look_at(path: Path, read: Any, after: int) -> Any:
    # With its log beside it, a process has it open: looking at it makes no file, and leaves none.
    if not path.with_name(f"{path.name}-wal").exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10, isolation_level=None)) as db:
            db.execute("BEGIN")
            return read(db, after)
    except sqlite3.OperationalError as error:
        return {"error": str(error)} if "locked" not in str(error) and "no such table" not in str(error) else None


def _node(db: sqlite3.Connection, after: int) -> dict[str, Any]:
    payloads = db.execute("SELECT id, kind, payload FROM outbox WHERE id > ? ORDER BY id", (after,)).fetchall()
    return {
        "new": [(number, kind, base64.b64encode(payload).decode()) for number, kind, payload in payloads],
        "outbox": db.execute("SELECT id, kind, sent FROM outbox ORDER BY id").fetchall(),
        "spent": dict(db.execute("SELECT day, rho FROM spent").fetchall()),
        "windows": [(release.hex(), start, rho) for release, start, rho in db.execute("SELECT release, start, rho FROM window")],
        "ledger": [(number, head.hex()) for number, head in db.execute("SELECT number, head FROM ledger ORDER BY number")],
        "charged": [([int(day) for day in days.split(",") if day], rho) for days, rho in db.execute("SELECT days, rho FROM ledger")],
        "slots": [json.loads(document) for (document,) in db.execute("SELECT document FROM slot")],
        "facts": dict(db.execute("SELECT name, value FROM fact").fetchall()),
    }


def _hub(db: sqlite3.Connection, _: int) -> dict[str, Any]:
    receipts = db.execute("SELECT node, epoch, sequence, outcome, version, sealed FROM receipts ORDER BY node, epoch, sequence").fetchall()
    return {
        "seen": [one.hex() for (one,) in db.execute("SELECT id FROM windows_seen")],
        "counted": db.execute("SELECT coalesce(sum(windows), 0) FROM merged_intervals").fetchone()[0],
        "early": db.execute("SELECT count(*) FROM early_windows").fetchone()[0],
        "receipts": [(*row[:5], hashlib.sha256(row[5]).hexdigest()) for row in receipts],
        "rollouts": db.execute("SELECT model, deployment, serial FROM deployment_rollouts").fetchall(),
        "refusals": db.execute("SELECT topic, code, reason FROM refusals").fetchall(),
    }


def hello(_: dict[str, Any]) -> dict[str, Any]:
    """Say that the channel is there, and how long the guest has run."""
    return {
        "uptime": float(Path("/proc/uptime").read_text().split()[0]),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    }


DOES = {"run": run, "ask": ask, "look": look, "hello": hello}


def answer(port: Any, asked: dict[str, Any]) -> None:
    """Carry one out, and send what came of it."""
    try:
        found = DOES[asked["do"]](asked)
    except Exception as error:
        found = {"failed": f"{type(error).__name__}: {error}"}
    line = json.dumps({"id": asked["id"], **found}).encode() + b"\n"
    with _writing:
        while line:
            line = line[port.write(line) :]


def main() -> None:
    """Serve the host."""
    while not (named := [one for one in PORTS.glob("*/name") if one.read_text().strip() == "ctl"]):
        time.sleep(0.1)
    with (Path("/dev") / named[0].parent.name).open("r+b", buffering=0) as port:
        kept = b""
        while True:
            data = port.read(65536)
            if not data:  # no host is there
                time.sleep(0.1)
                continue
            *lines, kept = (kept + data).split(b"\n")
            for line in lines:
                threading.Thread(target=answer, args=(port, json.loads(line)), daemon=True).start()


if __name__ == "__main__":
    main()
