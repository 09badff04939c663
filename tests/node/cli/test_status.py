"""`status` and `models` tell what is in the folder, whoever wrote it and whether it runs or not, to people and to scripts."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from node.core.activation.lifecycle import ModelSlot, Move, Target
from node.core.doctor.agent_health import AgentStatus, WorkerProcess
from node.enrol.identity import Identity
from node.host.pidfile import alone, write_status
from node.storage.store import NodeStore
from schemas import codec
from schemas.names import sha256
from schemas.parameters import Setting
from schemas.receipt import Evidence, Receipt
from schemas.state import Slot, TelemetryBudget
from tests import warm
from tests.node.agent.hubs import release

BIN = Path(sys.executable).parent
SETTINGS = """
id = "gw-1"
fleet = "f"
broker = "mqtt://user:hidden@127.0.0.1:1"
data = "data"
root = "root.json"
link = "metered"
disk_bytes_max = 10000000

[budgets.metered]
bytes_day_max = 5000000
hours = "22:00-06:00"
"""
NOW = int(time.time())
NEW = Target(version="2.0.0", digest=sha256(b"2"))


def ask(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run("fleetcast-node", *arguments, "--settings", folder / "node.toml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a node that serves one release, and was refused another."""
    (tmp_path / "node.toml").write_text(SETTINGS)
    data = tmp_path / "data"
    manifest, _ = release(bytes(200_000))
    digest = sha256(codec.encode(manifest))
    placed = data / "artifacts" / digest.hex()
    (placed / "v").mkdir(parents=True)
    (placed / "manifest.msgpack").write_bytes(codec.encode(manifest))
    (placed / "v" / "model.onnx").write_bytes(bytes(200_000))
    (data / "artifacts" / sha256(b"half").hex()).mkdir()
    store = NodeStore(data / "node.sqlite")
    serving = Target(version=manifest.version, digest=digest)
    slot = ModelSlot(
        model="m", state="refused", target=NEW, serving=serving, since=NOW - 60, serving_since=NOW - 7200, code="model.golden_mismatch"
    )
    store.put_slot(slot, Move(number=1, at=NOW - 60, event="failed", before="testing", after="refused", target=NEW, code=slot.code))
    for at, (version, code, reason) in enumerate(
        [("1.9.0", "model.golden_mismatch", "an older reason"), ("2.0.0", "model.golden_mismatch", "output y: \x1b[31mwrong")]
    ):
        receipt = Receipt(node="gw-1", sequence=at + 1, at=NOW, outcome="refused", model="m", version=version, code=code, reason=reason)
        store.enqueue("receipt", "t", codec.encode(Identity.load_or_create(data / "device.pem").seal(receipt)))
    store.enqueue("receipt", "t", b"of a later version")
    store.open_usage(NEW.digest)
    store.plan_missing(NEW.digest, 5000)
    store.add_bytes(NEW.digest, received=4000)
    store.put_evidence(digest, Evidence(golden_error_max=0.25, latency_ms=1.5, memory_bytes=30_000_000), at=NOW - 7200)
    store.close()
    setting = Setting("threshold", 0.7, "site")
    write_status(
        data,
        AgentStatus(
            node="gw-1",
            fleet="f",
            pid=os.getpid(),
            software="fleetcast 1",
            started_at=NOW - 20_000,
            written_at=int(time.time()),
            answered_at=int(time.time()),
            listen="127.0.0.1:8080",
            online=False,
            since=NOW - 10_800,
            reason="Keep alive timeout",
            link="metered",
            root_version=1,
            expires=int(time.time()) + 8000,
            workers=(WorkerProcess(digest=digest, pid=os.getpid()),),
            slots=(Slot(model="m", state="refused", serving=digest, serving_version="1.0.0", variant="v", parameters=(setting,)),),
            telemetry=TelemetryBudget(rho_spent=0.1, rho_day_max=0.7, windows_waiting=2),
            watchdog_seconds=180.0,
        ),
    )
    return tmp_path


def test_a_running_nodes_status_is_whole_for_scripts(folder: Path) -> None:
    with alone(folder / "data"):
        done = ask(folder, "status", "--json")

    found: dict[str, Any] = json.loads(done.stdout)
    model = found["models"][0]
    assert (done.returncode, found["verdict"], found["agent"]["pid"]) == (0, "serving", os.getpid())
    assert found["broker"]["url"] == "mqtt://127.0.0.1:1"  # no password is printed
    assert (found["broker"]["connected"], found["broker"]["reason"]) == (False, "Keep alive timeout")
    assert (found["metadata"]["fresh"], found["clock"]["trusted"]) == (True, True)
    assert (model["serving"], model["target"], model["code"]) == ("1.0.0", "2.0.0", "model.golden_mismatch")
    assert model["reason"] == "output y: \x1b[31mwrong"
    assert (model["bytes_planned"], model["bytes_received"], model["variant"]) == (5000, 4000, "v")
    assert (found["link"]["class"], found["link"]["bytes_day_max"]) == ("metered", 5_000_000)
    assert found["telemetry"]["windows_waiting"] == 2
    assert found["disk"]["used_bytes"] > 200_000


def test_a_running_nodes_status_is_readable_and_touches_no_terminal(folder: Path) -> None:
    with alone(folder / "data"):
        done = ask(folder, "status")

    assert done.returncode == 0, done.stderr
    assert "gw-1 of fleet f: serving" in done.stdout
    assert "not connected since 3 h: Keep alive timeout" in done.stdout
    assert "fresh, expires in 2 h" in done.stdout
    assert "watchdog 180 s" in done.stdout
    assert "metered, 0 B of 4.8 MiB today, used from 22:00-06:00" in done.stdout
    assert "output y: \\x1b[31mwrong [model.golden_mismatch]" in done.stdout
    assert "\x1b" not in done.stdout
    assert "hidden" not in done.stdout


def test_a_node_that_does_not_run_says_so_and_still_tells_what_it_knows(folder: Path) -> None:
    done, told = ask(folder, "status"), ask(folder, "status", "--json")

    found = json.loads(told.stdout)
    assert (done.returncode, told.returncode) == (11, 11)
    assert "does not run; ended without a word" in done.stdout
    assert (found["verdict"], found["agent"]["pid"], found["models"][0]["worker_pid"]) == ("not_running", None, None)
    assert found["models"][0]["serving"] == "1.0.0"


def test_a_node_that_never_ran_says_so(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(SETTINGS)

    done = ask(tmp_path, "status")

    assert (done.returncode, "has not run here yet" in done.stdout, (tmp_path / "data").exists()) == (11, True, False)


def test_models_tell_what_each_release_is_and_what_it_was_measured_to_do(folder: Path) -> None:
    with alone(folder / "data"):
        rows = json.loads(ask(folder, "models", "--json").stdout)
        table = ask(folder, "models").stdout

    serving = next(row for row in rows if row["model"] == "m")
    other = next(row for row in rows if row["model"] is None)
    assert (serving["role"], serving["version"], serving["variant"], serving["runtime"]) == ("serving", "1.0.0", "v", "onnx")
    assert serving["evidence"] == {**serving["evidence"], "golden_error_max": 0.25, "latency_ms": 1.5, "memory_bytes": 30_000_000}
    assert serving["parameters"] == [{"name": "threshold", "value": 0.7, "source": "site", "code": None}]
    assert (serving["worker_pid"], serving["worker_rss_bytes"] > 0) == (os.getpid(), True)
    assert (other["role"], other["evidence"], other["limits"]) == ("kept for deltas", None, None)
    assert all(word in table for word in ("1.50 of 1000 ms", "28.6 MiB of 2.0 GiB", "threshold=0.7 (site)", "0.25", "serving"))


def test_models_of_a_node_that_does_not_run_name_no_process(folder: Path) -> None:
    rows = json.loads(ask(folder, "models", "--json").stdout)

    assert {row["worker_pid"] for row in rows} == {None}
