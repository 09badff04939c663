"""A real hub of few descriptors, whose enrolment port is held open by 1,100 silent connections from many addresses."""

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hub.cli.options import database_url
from hub.database.store import Store
from hub.settings import load
from schemas.enrolment import AUTHORITY_PATH
from tests.brokers import free_port
from tests.hub.cli import fleets
from tests.hub.hubs import until

DESCRIPTORS = 256
SILENT = """
import socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
held = []
for number in range(count):
    try:
        held.append(socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{2 + number % 100}", 0), timeout=60))
    except OSError:
        pass
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def process(command: list[str], **popen: object) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(command, text=True, **popen) as running:  # type: ignore[call-overload]
        try:
            yield running
        finally:
            running.terminate()
            running.wait(60)


def test_silent_connections_cost_a_hub_of_few_descriptors_neither_its_broker_nor_its_log(tmp_path: Path) -> None:
    made, port = fleets.Made(tmp_path), free_port()
    made.secret.write_text("test\n")
    made.secret.chmod(0o600)
    assert made.run("init", str(made.fleet), "--fleet", "f", "--model", "m", "--hub-url", f"https://127.0.0.1:{port}").returncode == 0
    (made.fleet / "hub.sqlite").chmod(0o644)  # as an earlier version left it
    ready, log = made.fleet / "hub.ready", tmp_path / "log"
    command = f"ulimit -n {DESCRIPTORS}; exec {sys.executable} -m hub hub {made.fleet} --json-logs --passphrase-file {made.secret}"
    silent = [sys.executable, "-c", SILENT, str(port), "1100"]
    with log.open("w") as target, process(["/bin/sh", "-c", command], stdout=target, stderr=target):
        until("the hub", ready.exists)
        facts = json.loads(ready.read_text())
        broker, descriptors = facts["broker_pid"], Path(f"/proc/{facts['pid']}/fd")
        with process(silent, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as connections:
            assert connections.stdout
            assert connections.stdout.readline() == "open\n"
            assert len(list(descriptors.iterdir())) < DESCRIPTORS // 2
            os.kill(broker, signal.SIGKILL)  # A new one needs descriptors, and so does the hub's connection to it.
            until("another broker", lambda: json.loads(ready.read_text())["broker_pid"] != broker)
            until("the hub at it", lambda: log.read_text().count("broker.connected") == 2)

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cafile=made.fleet / "ca.crt")
            stranger = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
            stranger.request("GET", AUTHORITY_PATH)
            assert stranger.getresponse().status == 200
            stranger.close()
        store = Store(database_url(made.fleet, load(made.fleet)))
        until("the alert", lambda: store.alerts_of("refused"))

    assert [alert.code for alert in store.alerts_of("refused")] == ["enrolment.crowded"]
    assert log.stat().st_size < 20_000
    public = {"ca.crt", "issuer.crt", "enrolment.crt", "revoked.crl", "root.json", "acl", "acl-consumers"}
    assert {path.name for path in made.fleet.rglob("*") if path.is_file() and path.stat().st_mode & 0o007} <= public
