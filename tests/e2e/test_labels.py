"""A real model whose accuracy falls, told by labels that come weeks late, by the real commands and processes over the embedded broker."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fleetcast.mqtt_connection import Message
from schemas.topics import Topics
from tests import brokers
from tests.broker.client import Client
from tests.brokers import CONSUMER, FLEET
from tests.e2e.test_path import Plant, until
from tests.hub import digits

pytestmark = pytest.mark.timeout(400)
HOUR, HOURS, FALLS = 3600, 8, 4
SITES = {"node-a": "lab", "node-b": "field"}  # the first one's world changes


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with brokers.running("embedded", tmp_path / "broker") as broker:
        made = Plant(
            tmp_path,
            broker,
            cohort_nodes_min=1,
            hub_settings=("alpha = 0.0001",),
            node_settings=("labels_wait_seconds = 0", "rho_day_max = 1000.0"),
        )
        try:
            made.start()
            yield made
        finally:
            made.stop()


def publish(plant: Plant) -> tuple[np.ndarray, np.ndarray]:
    """A forest that reads digits, and the rows and truths that it has not seen, of twelve shifts."""
    features, truth = digits.rows()
    held, known = features[digits.TRAINED :], truth[digits.TRAINED :]
    (plant.directory / "digits.onnx").write_bytes(digits.forest())
    columns = {name: held[:, at] for at, name in enumerate(digits.PIXELS)}
    np.savez(plant.directory / "held.npz", shift=np.arange(len(held)) % 12, digit=known, **columns)
    said = ["--name", "digits", "--version", "1.0.0", "--reference", str(plant.directory / "held.npz"), "--blocks", "shift"]
    said += ["--columns", ",".join(digits.PIXELS), "--signals", "label", "--epsilon", "8", "--window-seconds", str(HOUR)]
    said += ["--accuracy-truth", "digit", "--accuracy-epsilon", "8", "--accuracy-window-seconds", str(HOUR), "--probation-seconds", "0"]
    plant.cli("publish", str(plant.directory / "digits.onnx"), *said, "--passphrase-file", str(plant.directory / "secret"))
    return held, known


def ask(plant: Plant, node: str, rows: np.ndarray, at: int) -> np.ndarray:
    tensor = {"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    url = f"http://127.0.0.1:{plant.nodes[node][1]}/v2/models/digits/infer"
    reply = httpx.post(url, json={"inputs": [tensor], "parameters": {"event_time": at}}, timeout=60)
    assert reply.status_code == 200, reply.text
    return np.array(next(one["data"] for one in reply.json()["outputs"] if one["name"] == "label"))


def label(plant: Plant, node: str, answers: np.ndarray, truth: np.ndarray, at: int) -> dict[str, Any]:
    right = int((answers == truth).sum())
    body = {"at": datetime.fromtimestamp(at, UTC).isoformat(), "right": right, "wrong": len(truth) - right, "id": f"{node} {at}"}
    reply = httpx.post(f"http://127.0.0.1:{plant.nodes[node][1]}/v2/models/digits/labels", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_a_fall_of_accuracy_is_found_by_labels_that_come_weeks_late_and_no_signal_had_shown_it(plant: Plant) -> None:
    consumer = Client.of(plant.broker, CONSUMER)
    consumer.open()
    consumer.subscribe(Topics(FLEET).alert)
    for node, cohort in SITES.items():
        plant.start_node(node, cohort)
    until("two nodes", lambda: len(plant.cli("nodes")) == 2)
    held, known = publish(plant)
    plant.cli("rollout", "start", "digits@1.0.0", "--wait", "--timeout-seconds", "200")
    begin = (int(datetime.now(UTC).timestamp()) // 86_400 - 21) * 86_400
    moments = [begin + hour * HOUR for hour in range(HOURS)]
    answers = {(node, at): ask(plant, node, held, at + 7) for node in SITES for at in moments}

    # Three weeks later: in the lab, from the fourth hour on, what looks like a 1, 3 or 7 is called otherwise.
    changed = np.where(np.isin(known, [1, 3, 7]), (known + 1) % 10, known)
    for (node, at), said in answers.items():
        if (node, at) != ("node-b", moments[-1]):
            label(plant, node, said, changed if node == "node-a" and at >= moments[FALLS] else known, at)
    right = int((answers["node-b", moments[-1]] == known).sum())
    counts = ["--right", str(right), "--wrong", str(len(known) - right), "--at", str(moments[-1])]
    by_command = plant.node_cli("node-b", "labels", "digits@1.0.0", *counts, "--json")

    def tested() -> list[dict[str, Any]] | None:
        rows = [one for one in _drift(plant) if one["about"] == "accuracy"]
        newest = datetime.fromtimestamp(moments[-1], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return rows if [one["newest"] for one in rows] == [newest] * 2 else None

    rows = {one["cohort"]: one for one in until("both cohorts' last hour", tested)}
    signals = [one for one in _drift(plant) if one["about"] == "signals"]
    alert = json.loads(consumer.next(Message).payload)
    consumer.link.close()
    fell = datetime.fromtimestamp(moments[FALLS], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert by_command["counted"] is True
    assert (rows["lab"]["state"], rows["lab"]["since"]) == ("drifts", fell)
    assert [(one["name"], one["direction"]) for one in rows["lab"]["signals"]] == [("accuracy", "lower")]
    assert (rows["field"]["state"], rows["field"]["signals"]) == ("quiet", [])
    assert {one["state"] for one in signals} == {"quiet"}
    assert (alert["about"], alert["cohort"], alert["since"]) == ("accuracy", "lab", moments[FALLS])
    assert "accuracy is lower" in alert["text"]

    def left() -> list[dict[str, Any]]:
        return [one for one in plant.node_cli("node-a", "telemetry", "show", "--json") if one["about"] == "accuracy"]

    until(
        "the broker's word that it has all", lambda: all(one["sent"] for one in left())
    )  # the hub may have read it before the node has that
    assert sorted(one["start"] for one in left()) == [datetime.fromtimestamp(at, UTC).isoformat() for at in moments]
    assert all(len(one["signals"]) == 1 for one in left())


def _drift(plant: Plant) -> list[dict[str, Any]]:
    """What `fleetcast drift` says, whether an alarm lasts or not."""
    return list(plant.cli("drift", code={0, 11}))  # in one command: between two the alarm may begin
