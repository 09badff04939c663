"""One rollout of a real hub and a real node as everything sees it that watches: traces, logs, scrapes, and the board and alerts on them."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from fleetcast.rollout_spans import node_span_id, root_id
from node.core.doctor.agent_health import AgentStatus
from node.serving.server import Listen, Server
from schemas.topics import Topics
from tests import brokers
from tests.broker.client import Client
from tests.brokers import FLEET
from tests.e2e.test_path import Plant, until

pytestmark = [pytest.mark.timeout(200), pytest.mark.xdist_group("observed")]
CHECKOUT = Path(__file__).parents[2]
MONITORING = CHECKOUT / "deploy" / "monitoring"


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


@dataclass
class Observed:
    """A rollout that went from its start to its end, as all that watches it has seen it."""

    folder: Path
    status: dict[str, Any]
    history: list[dict[str, Any]]
    node_status: dict[str, Any]
    hub: dict[str, set[str]]  # Names of what was scraped, with the labels of each.
    node: dict[str, set[str]]
    collector: Collector

    @property
    def rollout(self) -> bytes:
        return bytes.fromhex(self.status["rollout"])


def scraped(url: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(httpx.get(url).raise_for_status().text):
        found.setdefault(family.name + ("_total" if family.type == "counter" else ""), set())
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
    return found


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """One real hub, one real node and one rollout, for all tests here."""
    folder, collector = tmp_path_factory.mktemp("observed"), Collector()
    traces = (f'traces_url = "{collector.url}"',)
    with brokers.running("embedded", folder / "broker") as broker:
        plant = Plant(folder, broker, hub_settings=(*traces, "metrics_port = 0"), node_settings=traces)
        try:
            plant.start()
            plant.publish("1.0.0", 0.1)
            plant.start_node("gate-1")
            plant.cli("rollout", "start", "diabetes@1.0.0", "--allow-empty")
            hub = f"http://127.0.0.1:{json.loads((plant.fleet / 'hub.ready').read_text())['metrics_port']}/metrics"
            until("the rollout", lambda: 'state="done"' in httpx.get(hub).text)
            plant.infer("gate-1", np.zeros((3, 10), np.float32))
            stranger = Client.of(broker, "gate-2")
            stranger.open()
            stranger.link.publish(Topics(FLEET).want("gate-2"), b"no want")
            shows = 'fleetcast_hub_rollout_nodes{class="serving",deployment="default",model="diabetes"} 1.0'
            refused = 'fleetcast_hub_messages_refused_total{code="schema.malformed"} 1.0'
            until("the figures", lambda: shows in (text := httpx.get(hub).text) and refused in text)
            stranger.link.close()
            until("the node's status", lambda: json.loads((folder / "gate-1" / "data" / "status.json").read_bytes())["rollouts"])
            seen = Observed(
                folder,
                plant.cli("rollout", "status")[0],
                plant.cli("history"),
                plant.node_cli("gate-1", "status", "--json"),
                scraped(hub),
                scraped(f"http://127.0.0.1:{plant.nodes['gate-1'][1]}/metrics"),
                collector,
            )
        finally:
            plant.stop()
    yield seen
    collector.server.shutdown()
    collector.server.server_close()


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def test_one_trace_spans_publish_want_block_and_activation(observed: Observed) -> None:
    spans = observed.collector.spans
    by_name = {name: observed.collector.named(name) for name in {one["name"] for one in spans}}
    hubs = {"rollout.started", "rollout.moved", "deployments.announced", "want.taken", "blocks.published"}
    nodes = {"want.sent", "blocks.taken", "release.fetched", "worker.prepared", "release.activated"}
    root = root_id(observed.rollout)
    fetch = node_span_id(observed.rollout, "gate-1", "fetch")

    assert {one["name"] for one in spans if one["service"] == "fleetcast-hub"} == hubs
    assert {one["name"] for one in spans if one["service"] == "fleetcast-node"} == nodes
    assert {one["span"].trace_id for one in spans} == {observed.rollout}
    assert [(one.span_id, one.parent_span_id) for one in by_name["rollout.started"]] == [(root, b"")]
    assert [(one.span_id, one.parent_span_id) for one in by_name["release.fetched"]] == [(fetch, root)]
    assert {one.parent_span_id for name in ("want.sent", "want.taken", "blocks.taken") for one in by_name[name]} == {fetch}
    assert {one.parent_span_id for one in by_name["blocks.published"]} == {root}
    assert {one.parent_span_id for one in by_name["worker.prepared"]} == {one.span_id for one in by_name["release.activated"]}
    assert len({one["span"].span_id for one in spans}) == len(spans)
    assert all(one["span"].start_time_unix_nano <= one["span"].end_time_unix_nano for one in spans)


def test_a_span_says_nothing_of_what_was_asked_on_the_node(observed: Observed) -> None:
    said = {key for one in observed.collector.spans for key in one["about"]}

    assert said == {"node", "model", "version", "rollout", "deployment", "state", "percent", "blocks", "bytes", "wasted_bytes", "again"}


def test_one_id_is_in_logs_events_and_what_operators_read(observed: Observed) -> None:
    hub, node, rollout = logged(observed.folder / "hub.log"), logged(observed.folder / "gate-1.log"), observed.status["rollout"]
    events = {"fetch.started", "fetch.planned", "fetch.completed", "slot.moved", "release.switched", "receipt.signed"}

    assert "rollout.signed" in {line["event"] for line in hub if line.get("rollout") == rollout}
    assert events <= {line["event"] for line in node if line.get("rollout") == rollout}
    assert [line["rollouts"] for line in node if line["event"] == "deployments.accepted"][-1] == [rollout]
    assert {one["rollout"] for one in observed.history if one["kind"] == "rollout"} == {rollout}
    assert [one["rollout"] for one in observed.node_status["models"]] == [rollout]


def scraped_certified() -> dict[str, set[str]]:
    """What a node with a certificate shows: the embedded broker asks for none."""
    server = Server(Listen(port=0), node="n", on_rows=lambda rows: None)
    server.start()
    status = {"node": "n", "fleet": "f", "pid": 1, "software": "1", "listen": "", "online": True, "certificate_expires": 1}
    server.show(AgentStatus(**status, **dict.fromkeys(("started_at", "written_at", "since", "answered_at"), 1)))
    try:
        return scraped(f"http://127.0.0.1:{server.port}/metrics")
    finally:
        server.stop()


BOARD = json.loads((MONITORING / "grafana-board.json").read_text())
RULES = yaml.safe_load((MONITORING / "fleetcast-rules.yaml").read_text())
FROM_SCRAPER = {"instance", "job"}


def expressions() -> list[str]:
    panels = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ())]
    return [*panels, *(rule["expr"] for group in RULES["groups"] for rule in group["rules"])]


def test_every_metric_of_board_and_rules_is_in_a_real_scrape(observed: Observed) -> None:
    real = {**observed.hub, **observed.node, **scraped_certified()}
    queries = [one["query"]["query"] for one in BOARD["templating"]["list"] if one["type"] == "query"]
    named = {name for one in [*expressions(), *queries] for name in re.findall(r"\bfleetcast_[a-z_0-9]+", one)}

    assert named - real.keys() == set()
    assert not set(observed.hub) & set(observed.node)


def test_every_label_of_board_and_rules_is_in_a_real_scrape(observed: Observed) -> None:
    real = set().union(*observed.hub.values(), *observed.node.values()) | FROM_SCRAPER
    matched = {
        label for one in expressions() for labels in re.findall(r"\{([^}]*)\}", one) for label in re.findall(r"(\w+)\s*[=!]", labels)
    }
    grouped = {
        label.strip()
        for one in expressions()
        for labels in re.findall(r"(?:by|on|ignoring) \(([^)]*)\)", one)
        for label in labels.split(",")
    }

    assert (matched | grouped) - real == set()


def test_the_page_names_every_metric_that_a_hub_and_a_node_have(observed: Observed) -> None:
    page = (CHECKOUT / "docs" / "monitoring.md").read_text()
    parts = re.compile(r"_(bucket|sum|count|created)$")

    assert {name for name in {*observed.hub, *observed.node} if not parts.search(name) and f"`{name}`" not in page} == set()


def test_every_command_that_an_alert_names_is_one() -> None:
    actions = [rule["annotations"]["action"] for group in RULES["groups"] for rule in group["rules"]]
    named = [command for action in actions for command in re.findall(r"`(fleetcast(?:-node)? [^`]*)`", action)]
    pages = (CHECKOUT / "docs" / "commands.md").read_text()

    assert named
    for command in named:
        words = re.sub(r"\{\{.*?\}\}", "", command).split(" --")[0].strip()
        assert f"`{words}`" in pages, command


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing, which Debian's package prometheus has: `make test-monitoring` installs it")
    return found


def test_promtool_takes_the_rules_and_each_fires_on_what_it_is_for() -> None:
    for command in (["check", "rules", "fleetcast-rules.yaml"], ["test", "rules", "fleetcast-rules-test.yaml"]):
        done = subprocess.run([promtool(), *command], cwd=MONITORING, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_every_query_of_the_board(tmp_path: Path) -> None:
    queries = [
        target["expr"].replace("$hub", ".*").replace("$node", ".*") for panel in BOARD["panels"] for target in panel.get("targets", ())
    ]
    rules = [{"record": f"board:query{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "board.yaml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run([promtool(), "check", "rules", tmp_path / "board.yaml"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_of_the_board_do_not_lie_over_each_other() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    cells = [(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]

    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(places)
