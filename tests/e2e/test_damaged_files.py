"""A model file that is lost or changed on a device's disk, by the real commands: reported, fetched from the hub, and served again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker, Mosquitto
from tests.e2e.test_device import device, status_when
from tests.e2e.test_path import Plant, until
from tests.e2e.test_storage import ROW, end, version_of

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def plant(mosquitto: Broker, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(tmp_path, mosquitto, cohort_nodes_min=1, node_settings=("state_seconds = 1",))
    try:
        made.start()
        made.start_node("node-a")
        made.publish("1.0.0", 1.0)
        made.cli("rollout", "start", "diabetes@1.0.0", "--wait", "--timeout-seconds", "200")
        made.infer("node-a", ROW)
        status_when(made, "serving", connected=True)
        yield made
    finally:
        pause(made, signal.SIGCONT)
        made.stop()


def pause(plant: Plant, how: int) -> None:
    assert isinstance(plant.broker, Mosquitto)
    plant.broker._process.send_signal(how)


@pytest.mark.parametrize("how", ["deleted", "changed"])
def test_a_damaged_model_file_is_reported_then_fetched_and_served_again(plant: Plant, how: str) -> None:
    answer = plant.infer("node-a", ROW)["outputs"]
    end(plant, signal.SIGTERM)
    file = next((plant.directory / "node-a" / "data" / "artifacts").rglob("model.onnx"))
    whole = file.read_bytes()
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    pause(plant, signal.SIGSTOP)  # nothing can be fetched yet

    plant.start_node("node-a")
    until("the code", lambda: status_when(plant, "not_serving", connected=False)["models"][0]["code"] == "artifact.digest_mismatch")

    device(plant, "status", code=12)
    assert "artifact.damaged" in [finding["code"] for finding in device(plant, "doctor", code=2)]
    assert version_of(plant) is None

    pause(plant, signal.SIGCONT)
    until("the release that was served", lambda: version_of(plant) == "1.0.0")
    assert (file.read_bytes(), plant.infer("node-a", ROW)["outputs"]) == (whole, answer)
    status_when(plant, "serving", connected=True)
    assert "artifact.damaged" not in [finding["code"] for finding in device(plant, "doctor", code={0, 1})]
