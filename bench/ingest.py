"""How many windows a second a hub takes in and makes durable, against a bare subscriber that only acknowledges them."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression

from bench.delivery import MOSQUITTO, _Fleet, _mosquitto
from bench.figures import Figure, median
from node.core.telemetry.privacy import BitSource
from node.core.telemetry.privatise import noised
from schemas import codec
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.state import State

WINDOWS, ROUNDS, COLUMNS, HOURS = 20_000, 3, 19, 24
HUB_READS = "SELECT count(*) FROM windows_seen"


def measure() -> list[Figure]:
    """Twenty thousand windows of twenty signals wait at mosquitto for whoever comes: a hub, or a paho client that counts them."""
    if not Path(MOSQUITTO).exists():
        raise SystemExit("bench ingest needs mosquitto: apt-get install mosquitto")
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as folder, _mosquitto(Path(folder)) as port:
        fleet = _Fleet(Path(folder), port)
        fleet.begin()
        manifest = _publish(fleet)
        topic = "fleetcast/v1/bench/telemetry/m/lab"
        for number in range(ROUNDS):
            payloads = _windows(manifest, number)
            bare.append(_bare(port, payloads))
            fleet.stop()  # its session stays
            _send(port, topic, payloads)
            ours.append(_hub(fleet))
        fleet.stop()
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    peer = "bare paho subscriber, windows/s"
    return [
        Figure("telemetry.ingest_ratio", median(ratios), "of the peer's rate", ">= 0.5", peer, median(bare)),
        Figure("telemetry.ingest_per_s", median(ours), "windows/s, durable", "", peer, median(bare)),
    ]


def _publish(fleet: _Fleet) -> Manifest:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, COLUMNS)).astype(np.float32)
    model = LinearRegression().fit(values, values.sum(axis=1))
    (fleet.folder / "m.onnx").write_bytes(to_onnx(model, values[:1]).SerializeToString())
    pd.DataFrame(values, columns=[f"c{number}" for number in range(COLUMNS)]).to_parquet(fleet.folder / "reference.parquet")
    arguments = ["publish", str(fleet.folder / "m.onnx"), "--name", "m", "--version", "1.0.0"]
    fleet.cli(*arguments, "--reference", str(fleet.folder / "reference.parquet"), "--calibrate-rows", "0", *fleet.secret)
    time.sleep(2)  # until the hub knows it
    from hub.signing.tuf_repository import Repository

    return codec.decode(Manifest, Repository(fleet.folder / "fleet" / "trust").manifest("m", "1.0.0"))


def _windows(manifest: Manifest, number: int) -> list[bytes]:
    """Of as many nodes over a day, each with an id of its own; a few hundred kinds of noise are enough."""
    assert manifest.baseline is not None
    assert manifest.privacy is not None
    rng = np.random.default_rng(number)
    bits = BitSource(os.urandom)
    now = int(time.time()) // 3600 * 3600
    kinds = []
    for _ in range(200):
        counts: list[int] = []
        for signal in manifest.baseline.signals:
            shares = np.array(signal.counts) / sum(signal.counts)
            counts += rng.multinomial(100, shares).tolist()
        kinds.append(
            noised(
                counts,
                baseline=manifest.baseline,
                privacy=manifest.privacy,
                bits=bits,
                window_id=bytes(16),
                release=sha256(codec.encode(manifest))[:8],
                start=now,
            )
        )
    return [
        codec.encode(kinds[index % len(kinds)].model_copy(update={"id": os.urandom(16), "start": now - 3600 * (index % HOURS)}))
        for index in range(WINDOWS)
    ]


def _send(port: int, topic: str, payloads: list[bytes]) -> None:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    state = State(node="lab-1", session=1, status="online", at=int(time.time()), cohort="lab")  # It names the windows' cohort.
    client.publish("fleetcast/v1/bench/node/lab-1/state", codec.encode(state), qos=1, retain=True)
    for payload in payloads:
        said = client.publish(topic, payload, qos=1)
    said.wait_for_publish(120)
    client.disconnect()
    client.loop_stop()


def _hub(fleet: _Fleet) -> float:
    """Windows a second, from the first that is in the database to the last."""
    path = fleet.folder / "fleet" / "hub.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        before = db.execute(HUB_READS).fetchone()[0]
        fleet.run_hub()
        counted, began = before, 0.0
        while counted < before + WINDOWS:
            time.sleep(0.02)
            counted = db.execute(HUB_READS).fetchone()[0]
            if counted > before and not began:
                began, first = time.perf_counter(), counted
        return (before + WINDOWS - first) / (time.perf_counter() - began)


def _bare(port: int, payloads: list[bytes]) -> float:
    """The same for a client in a process of its own that does nothing with what it gets."""
    program = [sys.executable, "-c", _PROGRAM, str(port)]
    subprocess.run([*program, "0"], check=True)
    _send(port, "bare/windows", payloads)
    return float(subprocess.run([*program, str(len(payloads))], check=True, stdout=subprocess.PIPE, text=True).stdout)


_PROGRAM = """
import sys, threading, time
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
port, wanted = int(sys.argv[1]), int(sys.argv[2])
client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bare", protocol=MQTTProtocolVersion.MQTTv5)
kept = Properties(PacketTypes.CONNECT)
kept.SessionExpiryInterval = 3600
done, times = threading.Event(), []
def heard(client, userdata, message):
    times.append(time.perf_counter())
    if len(times) >= wanted:
        done.set()
client.on_message = heard
client.on_subscribe = lambda *_: wanted or done.set()
client.connect("127.0.0.1", port, clean_start=False, properties=kept)
if not wanted:
    client.subscribe("bare/#", qos=1)
client.loop_start()
done.wait(300)
client.disconnect()
client.loop_stop()
if wanted:
    print((len(times) - 1) / (times[-1] - times[0]))
"""
