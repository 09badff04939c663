"""What a person at the device sees of a real agent, from before its first start to after its death, by the real commands."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.brokers import Broker
from tests.e2e.test_path import Plant, until

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def plant(mosquitto: Broker, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(tmp_path, mosquitto)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextmanager
def service_manager(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What services have said, which is heard at once: what nobody reads is soon thrown away."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000000")
        listening = threading.Thread(target=lambda: heard.extend(said.decode() for said in iter(lambda: sock.recv(4096), b"end")))
        listening.start()
        try:
            yield heard
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closing:
                closing.sendto(b"end", str(folder / "notify"))
            listening.join()


def device(plant: Plant, *arguments: str, node: str = "node-a", code: int | set[int] = 0) -> Any:
    """What `fleetcast-node` says of a node as JSON."""
    done = warm.run("fleetcast-node", *arguments, "--settings", plant.directory / node / "node.toml", "--json")
    assert done.returncode in ({code} if isinstance(code, int) else code), f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def status_when(plant: Plant, verdict: str, *, node: str = "node-a", **broker: Any) -> dict[str, Any]:
    def probe() -> Any:
        found = device(plant, "status", node=node, code={0, 11, 12})
        return found if found["verdict"] == verdict and all(found["broker"][name] == value for name, value in broker.items()) else None

    return dict(until(f"status {verdict}", probe))


def test_a_device_tells_how_it_is_from_before_its_first_start_to_after_its_death(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service_manager(tmp_path, monkeypatch) as heard:
        plant.start_node("node-a")
        idle = status_when(plant, "idle", connected=True)
        until("READY", lambda: "READY=1" in heard)

        assert (idle["agent"]["pid"], idle["agent"]["watchdog_seconds"]) == (plant.nodes["node-a"][0].pid, 20.0)
        assert (idle["models"], idle["clock"]["trusted"], idle["broker"]["certificate_expires"] is not None) == ([], True, True)
        command = [str(BIN / "fleetcast-node"), "run", "--settings", str(plant.directory / "node-a" / "node.toml")]
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert (second.returncode, f"process {idle['agent']['pid']} runs" in second.stderr) == (6, True)

        published = plant.publish("1.0.0", 1.0)
        plant.cli("rollout", "start", "diabetes@1.0.0", "--wait", "--timeout-seconds", "200")
        serving = status_when(plant, "serving")
        model = serving["models"][0]
        assert (model["model"], model["serving"], model["serving_digest"]) == ("diabetes", "1.0.0", published["digest"])
        assert model["bytes_planned"] == model["bytes_received"] + model["bytes_reused"] > 0
        assert (serving["metadata"]["fresh"], serving["metadata"]["root_version"]) == (True, 1)
        assert serving["disk"]["used_bytes"] >= model["bytes_planned"] > 0
        assert serving["telemetry"]["rho_day_max"] == 0.7
        os.kill(model["worker_pid"], 0)

        row = device(plant, "models")[0]
        assert (row["role"], row["digest"], row["worker_pid"]) == ("serving", published["digest"], model["worker_pid"])
        assert 0 <= row["evidence"]["golden_error_max"] <= 1
        assert 0 < row["evidence"]["latency_ms"] < row["limits"]["latency_ms_max"]
        assert row["worker_rss_bytes"] > 1024 * 1024

        # A warning of the machine that this runs on is none of this test's; the doctor has ended nobody's session.
        findings = [finding["code"] for finding in device(plant, "doctor", code={0, 1})]
        assert set(findings) <= {"memory.limits", "service.no_socket", "disk.low", "key.open_to_others"}
        assert "service.no_socket" in findings
        assert device(plant, "status")["broker"]["session"] == serving["broker"]["session"]

        until("the watchdog", lambda: heard.count("WATCHDOG=1") >= 3)
        assert "STATUS=serving diabetes 1.0.0; connected" in heard
        plant.nodes["node-a"][0].kill()
        plant.nodes["node-a"][0].wait()
        dead = device(plant, "status", code=11)
        assert (dead["verdict"], dead["agent"]["ended"], dead["models"][0]["serving"]) == ("not_running", None, "1.0.0")
        assert dead["models"][0]["worker_pid"] is None
        assert device(plant, "models")[0]["evidence"] == row["evidence"]
        assert "agent.died" in [finding["code"] for finding in device(plant, "doctor", code={1, 2})]

        plant.start_node("node-a")
        status_when(plant, "serving", connected=True)
        plant.nodes["node-a"][0].send_signal(signal.SIGTERM)
        assert plant.nodes["node-a"][0].wait(100) == 0
        ended = device(plant, "status", code=11)
        until("its goodbye", lambda: heard[-1] == "STOPPING=1")
        assert ended["agent"]["ended"] is not None


def test_a_broker_that_is_gone_is_told_with_its_reason_while_the_node_is_well(plant: Plant) -> None:
    plant.start_node("node-a")
    status_when(plant, "idle", connected=True)
    plant.broker.stop()

    lost = status_when(plant, "idle", connected=False)

    assert lost["broker"]["reason"]
    assert "tcp.refused" in [finding["code"] for finding in device(plant, "doctor", code=2)]
