"""Parameters from the operator's desk to a local program's answer, by the real commands and processes on the embedded broker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.parameters import Parameter
from tests import probed, warm
from tests.brokers import free_port
from tests.hub.cli.fleets import INPUTS, Made, make
from tests.hub.cli.test_rollout import Hub
from tests.hub.hubs import until

PARAMETERS = (
    Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0),
    Parameter(name="labels", goes_to="client", default={"ill": "ill", "well": "well"}),
)
ROW = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 10], "data": INPUTS[0].tolist()}]}
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = make(tmp_path, "m")
    made.publish_as("1.0.0", made.folder / "good.onnx", parameters=PARAMETERS)
    return made


@pytest.fixture
def port(made: Made) -> Iterator[int]:
    """A node that follows a running hub; where its local programs find it."""
    with Hub(made) as hub:
        port, settings = free_port(), made.folder / "node.toml"
        lines = ['id = "gate-1"', 'fleet = "f"', f'broker = "{hub.ready["broker_url"]}"', 'data = "node"', 'root = "fleet/root.json"']
        settings.write_text("\n".join([*lines, f"port = {port}"]) + "\n")
        probed.answer_in(made.folder / "node")
        with (made.folder / "node.log").open("wb") as log:
            node = warm.start("fleetcast-node", "run", "--settings", settings, log=log)
        try:
            yield port
        finally:
            node.terminate()
            node.wait(100)


def told(port: int) -> dict[str, Any]:
    """The parameters of an answer, as a local program reads them."""
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/v2/models/m/infer", json=ROW)
    except httpx.TransportError:
        return {}
    return dict(answer.json().get("parameters", {})) if answer.status_code == 200 else {}


def status(made: Made) -> dict[str, Any]:
    rows: list[dict[str, Any]] = json.loads(made.run("rollout", "status", "m", "--json").stdout)
    return rows[0]


def test_set_parameters_reach_every_answer_and_a_sites_override_is_reported(made: Made, port: int) -> None:
    started = made.run(
        "rollout", "start", "m@1.0.0", "--set", "threshold=0.7", "--set", "labels.ill=krank", "--wait", "--timeout-seconds", "200"
    )
    assert started.returncode == 0, started.stderr
    until("0.7 in an answer", lambda: told(port).get("threshold") == 0.7)
    before = status(made)

    assert made.run("rollout", "set", "m", "threshold=0.65").returncode == 0
    until("0.65 in an answer", lambda: told(port).get("threshold") == 0.65)
    after = until("the node's report", lambda: row if (row := status(made))["parameters"]["threshold"]["rollout"] == 1 else None)
    (made.folder / "node" / "parameters.toml").write_text("[m]\nthreshold = 7.0\n")
    refused = until("the site's value to be told", lambda: row if (row := status(made))["parameters"]["threshold"]["refused"] else None)

    assert (before["state"], after["state"], after["digest"]) == ("done", "done", before["digest"])
    assert after["parameters"]["labels"]["set"] == {"ill": "krank", "well": "well"}
    assert refused["parameters"]["threshold"]["refused"] == [{"node": "gate-1", "code": "parameter.bounds"}]
    assert told(port)["threshold"] == 0.65
