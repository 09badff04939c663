"""What other people's programs read: the snippet of docs/consumers.md, Node-RED and Telegraf's file, against mosquitto and a real hub."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas import topics
from schemas.manifest import Manifest
from tests import brokers
from tests.hub.hubs import Device, Fleet
from tests.hub.receiving import SECRET, Got
from tools.generate_schemas import CARRIES, json_schema

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "consumers.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
TELEGRAF = tomllib.loads((CHECKOUT / "deploy" / "consumers" / "telegraf.conf").read_text())
BESIDE = CHECKOUT / ".consumers"  # where `make test-consumers` installs Node-RED, and says when it has
FLOW: list[dict[str, Any]] = json.loads((CHECKOUT / "deploy" / "consumers" / "node-red.json").read_text())
WINDOWS = 5


@contextmanager
def drifting(mosquitto: brokers.Broker, directory: Path) -> Iterator[Callable[[], None]]:
    """A hub on this broker, and a function that has nodes of one more cohort send an interval that drifts."""
    fleet = Fleet(directory / "fleet")
    manifest: Manifest = fleet.publish("1.0.0")
    with fleet.hub(mosquitto):
        device = Device.connect("node-a", mosquitto, fleet)

        cohorts = itertools.count()

        def drift() -> None:
            cohort = f"c{min(next(cohorts) // 2, 7)}"  # A node's states name eight cohorts a day, and no others count.
            device.say_state(cohort=cohort)
            for _ in range(WINDOWS):
                device.window(manifest, [0, 0, 0, 0, 0, 0, 0, 400, 0], cohort=cohort)

        yield drift
        device.client.link.close()


def drift_until(drift: Callable[[], None], process: "subprocess.Popen[bytes]", out: Path, *wanted: str) -> None:
    """Let cohort after cohort drift until a reader has said all of this: what came before it had subscribed is not said again."""
    deadline = time.monotonic() + 200
    while not all(one in out.read_text() for one in wanted):
        assert process.poll() is None, out.read_text()
        assert time.monotonic() < deadline, f"in vain for {wanted}: {out.read_text()}"
        drift()
        time.sleep(3)


def certificates(mosquitto: brokers.Broker, directory: Path) -> int:
    """A consumer's own files in a folder, and the port of the consumers' listener."""
    tls = mosquitto.tls(brokers.CONSUMER)
    assert tls is not None
    for name, path in (("ca.crt", tls.ca), ("analytics.crt", tls.certificate), ("analytics.key", tls.key)):
        shutil.copy(path, directory / name)
    return int(mosquitto.url(brokers.CONSUMER).rsplit(":", 1)[1])


def test_ten_lines_of_python_read_windows_drift_and_alerts(mosquitto: brokers.Broker, tmp_path: Path) -> None:
    port, reader = certificates(mosquitto, tmp_path), SNIPPETS[0]
    (tmp_path / "reader.py").write_text(reader)
    with drifting(mosquitto, tmp_path) as drift, (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "reader.py", "127.0.0.1", str(port)], cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            drift_until(drift, process, tmp_path / "out", "main/alert", "insight/delay/windows", "insight/delay/drift")
        finally:
            process.kill()
            process.wait(100)

    text = (tmp_path / "out").read_text()
    assert len(reader.splitlines()) == 10
    assert "fleetcast/v1/main/insight/delay/windows {" in text
    assert "fleetcast/v1/main/insight/delay/drift {" in text
    assert "'kind': 'drift'" in text
    assert "'alarm': True" in text


def test_the_receivers_snippet_tells_a_genuine_webhook_from_a_forged_one() -> None:
    from hub.alerts.webhooks import signed

    names: dict[str, Any] = {}
    exec(SNIPPETS[1], names)  # noqa: S102  # what the page tells people to run
    now, body = int(time.time()), b'{"kind": "drift"}'
    headers = signed(SECRET, "plant.1.2", now, body)

    assert Got(headers, body).genuine
    assert names["genuine"](SECRET, headers, body)
    assert not names["genuine"](SECRET, headers, body + b" ")
    assert not names["genuine"](b"x" * 32, headers, body)
    assert not names["genuine"](SECRET, signed(SECRET, "plant.1.2", now - 3600, body), body)


def test_node_red_runs_the_flow_and_says_what_drifts(mosquitto: brokers.Broker, tmp_path: Path) -> None:
    own = f"{BESIDE / 'node_modules' / '.bin'}:" if (BESIDE / ".installed").exists() else ""
    program = shutil.which("node-red", path=own + os.environ.get("PATH", ""))
    if program is None:
        pytest.skip("node-red is not installed: `make test-consumers` installs it beside and runs this")
    port, user = certificates(mosquitto, tmp_path), tmp_path / "node-red"
    user.mkdir()
    flow = json.loads(json.dumps(FLOW))
    for node in flow:
        if node["type"] == "mqtt-broker":
            node.update(broker="127.0.0.1", port=str(port))
        if node["type"] == "tls-config":
            node.update({name: str(tmp_path / Path(node[name]).name) for name in ("ca", "cert", "key")})
    (user / "flows.json").write_text(json.dumps(flow))
    (user / "settings.js").write_text("module.exports = { flowFile: 'flows.json', uiHost: '127.0.0.1', telemetry: { enabled: false } }\n")
    http = brokers.free_port()
    with drifting(mosquitto, tmp_path) as drift, (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [program, "--userDir", str(user), "--port", str(http)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        try:
            drift_until(drift, process, tmp_path / "out", "drifts in c", "drifts in cohort c")
        finally:
            process.terminate()
            process.wait(60)

    text = (tmp_path / "out").read_text()
    assert "Waiting for missing types" not in text
    assert "[debug:say]" in text
    assert re.search(r"delay 1\.0\.0 drifts in c\d+: hour (higher|shape) \d", text)


def test_node_reds_flow_is_wired_and_listens_to_our_topics() -> None:
    nodes = {node["id"]: node for node in FLOW}
    wired = {target for node in FLOW for wires in node.get("wires", []) for target in wires}
    heard = {node["topic"] for node in FLOW if node["type"] == "mqtt in"}
    spoken = topics.Topics("main")

    assert wired <= nodes.keys()
    assert heard == {spoken.filter("drift"), spoken.filter("alert")}
    assert all(node["broker"] in nodes for node in FLOW if node["type"] == "mqtt in")


INPUTS = [
    (kind, one) for one in TELEGRAF["inputs"]["mqtt_consumer"] for kind in CARRIES if one["topics"] == [topics.Topics("main").filter(kind)]
]


def test_telegraf_listens_to_each_of_our_topics_for_consumers() -> None:
    assert sorted(kind for kind, _ in INPUTS) == ["alert", "drift", "windows"]
    assert len({one["client_id"] for _, one in INPUTS}) == len(TELEGRAF["inputs"]["mqtt_consumer"]) == 3


@pytest.mark.parametrize(("kind", "given"), INPUTS, ids=[kind for kind, _ in INPUTS])
def test_telegraf_reads_fields_that_there_are(kind: str, given: dict[str, Any]) -> None:
    document = CARRIES[kind][0]
    assert document is not None
    schema = json_schema(document)
    (parser,) = given["json_v2"]
    required = set(schema["required"])
    named = [one for part in ("tag", "field") for one in parser.get(part, [])]

    assert {one["path"] for one in named} | {parser["timestamp_path"]} <= set(schema["properties"])
    assert {one["path"] for one in named if not one.get("optional")} <= required
    for one in parser.get("object", []):
        (item,) = [part for part in schema["$defs"].values() if "p_adjusted" in part.get("properties", {})]
        assert one["path"] in schema["properties"]
        assert set(one["included_keys"]) <= set(item["properties"])
        assert set(one["tags"]) <= set(one["included_keys"])
