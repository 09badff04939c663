"""One trace, by a rollout's id, that spans the real hub and a real node, and one id in all that both log and show."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fleetcast.rollout_spans import node_span_id, root_id
from tests import brokers
from tests.e2e.test_path import Plant, until

pytestmark = pytest.mark.timeout(200)


class Collector:
    """A local receiver of OTLP over HTTP: what hub and nodes send, decoded by OpenTelemetry's own messages."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for one in request.resource_spans:
                    service = next(each.value.string_value for each in one.resource.attributes if each.key == "service.name")
                    for span in (span for scope in one.scope_spans for span in scope.spans):
                        about = {each.key.removeprefix("fleetcast."): each.value for each in span.attributes}
                        collector.spans.append({"service": service, "span": span, "name": span.name, "about": about})
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[Any]:
        return [one["span"] for one in list(self.spans) if one["name"] == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def test_one_trace_and_one_id_span_publish_want_block_and_activation(tmp_path: Path, collector: Collector) -> None:
    traces = (f'traces_url = "{collector.url}"',)
    with brokers.running("embedded", tmp_path / "broker") as broker:
        plant = Plant(tmp_path, broker, hub_settings=(*traces, "metrics_port = 0"), node_settings=traces)
        try:
            plant.start()
            plant.publish("1.0.0", 0.1)
            plant.start_node("gate-1")
            plant.cli("rollout", "start", "diabetes@1.0.0", "--allow-empty")
            until("the rollout", lambda: plant.cli("rollout", "status")[0]["state"] == "done")
            status = plant.cli("rollout", "status")[0]
            until("the last span", lambda: collector.named("release.activated") and collector.named("blocks.published"))
            until("the hub's end", lambda: any(one.attributes for one in collector.named("rollout.moved")))
            on_node = plant.node_cli("gate-1", "status", "--json") if False else None
        finally:
            plant.stop()

    rollout = bytes.fromhex(status["rollout"])
    by_name = {name: collector.named(name) for name in {one["name"] for one in collector.spans}}
    services = {one["name"]: one["service"] for one in collector.spans}
    # Publish, want, block, activation: each in the process that does it, all in one trace.
    hubs = {"rollout.started", "deployments.announced", "want.taken", "blocks.published"}
    nodes = {"want.sent", "blocks.taken", "release.fetched", "worker.prepared", "release.activated"}
    assert {name for name, service in services.items() if service == "fleetcast-hub"} >= hubs
    assert {name for name, service in services.items() if service == "fleetcast-node"} == nodes
    assert {span.trace_id for spans in by_name.values() for span in spans} == {rollout}
    root, fetch = root_id(rollout), node_span_id(rollout, "gate-1", "fetch")
    assert [span.span_id for span in by_name["rollout.started"]] == [root]
    assert [span.parent_span_id for span in by_name["rollout.started"]] == [b""]
    assert [(span.span_id, span.parent_span_id) for span in by_name["release.fetched"]] == [(fetch, root)]
    for name in ("want.sent", "want.taken", "blocks.taken"):
        assert {span.parent_span_id for span in by_name[name]} == {fetch}
    assert {span.parent_span_id for span in by_name["worker.prepared"]} == {span.span_id for span in by_name["release.activated"]}
    ids = [span.span_id for spans in by_name.values() for span in spans]
    assert len(ids) == len(set(ids))
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for spans in by_name.values() for span in spans)
    said = {key for one in collector.spans for key in one["about"]}
    own = {"node", "model", "version", "rollout", "deployment", "state", "percent", "blocks", "bytes", "wasted_bytes", "again"}
    assert said <= own  # Nothing of what was asked there.

    # One id in the logs of hub, node and worker, in the events, and in what operators read.
    hub, node = logged(tmp_path / "hub.log"), logged(tmp_path / "gate-1.log")
    assert {line["event"] for line in hub if line.get("rollout") == rollout.hex()} >= {"rollout.signed"}
    events = {"fetch.started", "fetch.planned", "fetch.completed", "slot.moved", "release.switched", "receipt.signed"}
    assert {line["event"] for line in node if line.get("rollout") == rollout.hex()} >= events
    assert rollout.hex() in next(line for line in node if line["event"] == "deployments.accepted")["rollouts"]
    assert on_node is None
