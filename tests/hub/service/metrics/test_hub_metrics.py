"""What a Prometheus scrapes from a hub: real figures of a real rollout, and a bounded cost whatever the scraper does."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from hub.core.rollouts import commands
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.rollout import Progress
from hub.service.metrics import endpoint, hub_metrics
from hub.service.metrics.figures import ROLLOUTS_MAX, rollout_figures
from schemas.deployments import Deployment
from schemas.errors import Code, Refused
from schemas.rollout import ReleaseRef
from tests.brokers import Broker
from tests.hub.hubs import Device, Fleet, deployment_of, until


@pytest.fixture(autouse=True)
def _quick_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hub_metrics, "GATHER_SECONDS", 0.05)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@dataclass
class Scraped:
    """The samples of one scrape."""

    text: str

    @property
    def samples(self) -> dict[tuple[str, ...], float]:
        """By name and the values of its labels, in the order of their names."""
        return {
            (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
            for family in text_string_to_metric_families(self.text)
            for one in family.samples
        }


def scrape(fleet: Fleet) -> dict[tuple[str, ...], float]:
    port = json.loads((fleet.directory / "hub.ready").read_text())["metrics_port"]
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain")
    return Scraped(answer.text).samples


def test_a_rollout_can_be_followed_by_its_figures(embedded: Broker, fleet: Fleet) -> None:
    manifest = fleet.publish("1.0.0")
    with fleet.hub(embedded, metrics_port=0):
        devices = [Device.connect(name, embedded, fleet) for name in ("n1", "n2")]
        until("both nodes", lambda: scrape(fleet)["fleetcast_hub_nodes", "online"] == 2)
        fleet.store.add_command("delay", commands.read("start", json.dumps({"version": "1.0.0", "stages": [100]})))
        until("the rollout", lambda: scrape(fleet).get(("fleetcast_hub_rollout_nodes", "addressed", "default", "delay")) == 2)
        rollout = deployment_of(fleet.store.rollout_rows()[0]).rollout.hex()
        running = scrape(fleet)
        devices[0].fetch(manifest)
        devices[1].client.link.publish(fleet.topics.want("n2"), b"no want")
        for device in devices:
            device.sign("serving", manifest)
        done = ("fleetcast_hub_rollout_info", "default", "delay", rollout, "done", "1.0.0")
        until("the end", lambda: scrape(fleet).get(done) == 1)
        until("all that was wrong", lambda: scrape(fleet).get(("fleetcast_hub_messages_refused_total", Code.SCHEMA_MALFORMED)) == 1)
        now = time.time()
        until("figures of after that", lambda: scrape(fleet)["fleetcast_hub_gathered_seconds",] > now)
        found = scrape(fleet)

    assert running["fleetcast_hub_rollout_info", "default", "delay", rollout, "running", "1.0.0"] == 1
    assert (found["fleetcast_hub_connected",], found["fleetcast_hub_listening",]) == (1, 1)
    assert found["fleetcast_hub_rollout_percent", "default", "delay"] == 100
    assert found["fleetcast_hub_rollout_nodes", "serving", "default", "delay"] == 2
    assert found["fleetcast_hub_wants_total",] == 1
    assert found["fleetcast_hub_blocks_published_total",] == 5
    assert found["fleetcast_hub_block_bytes_published_total",] == 5 * 20_000
    assert found["fleetcast_hub_messages_total", "receipt"] == 2
    assert found["fleetcast_hub_metadata_expires_seconds", "timestamp"] > found["fleetcast_hub_gathered_seconds",]
    assert found["fleetcast_hub_turned_seconds",] >= found["fleetcast_hub_gathered_seconds",] - 1  # It is gathered within a turn.
    assert found["fleetcast_hub_memory_bytes",] > 1e7
    assert not any({"n1", "n2"} & set(key) for key in found)


def test_scrapers_that_send_or_read_nothing_keep_nobody_waiting(embedded: Broker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "CONNECTION_SECONDS_MAX", 0.5)
    with fleet.hub(embedded, metrics_port=0) as hub:
        scrape(fleet)
        place = ("127.0.0.1", hub._metrics.port or 0)
        idle = [socket.create_connection(place) for _ in range(3 * endpoint.CONNECTIONS_MAX)]
        for one in idle[::2]:
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)
        began = scrape(fleet)["fleetcast_hub_turned_seconds",]
        until("the loop goes on", lambda: scrape(fleet)["fleetcast_hub_turned_seconds",] > began)
        for one in idle:
            one.settimeout(20)
            try:
                while one.recv(65536):
                    pass
            except ConnectionError:
                pass
            one.close()


def test_metrics_are_off_by_default_and_else_on_loopback_only(embedded: Broker, fleet: Fleet) -> None:
    assert (fleet.settings(None).metrics_port, fleet.settings(None).metrics_host) == (None, "127.0.0.1")
    with fleet.hub(embedded, metrics_port=0) as hub:
        listener = f"http://127.0.0.1:{hub._metrics.port}/metrics"
        named = httpx.get(listener, headers={"host": "shop.example"})
        assert [httpx.get(listener, headers={"host": host}).status_code for host in ("localhost:1", "[::1]:80", "10.0.0.7")] == [200] * 3
        openmetrics = httpx.get(listener, headers={"accept": "application/openmetrics-text; version=1.0.0"})

    assert named.status_code == 403
    assert "names another host" in named.text
    assert openmetrics.text.endswith("# EOF\n")


def test_figures_that_cannot_be_had_leave_the_hub_at_work(embedded: Broker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    with fleet.hub(embedded, metrics_port=0):
        until("the first", lambda: scrape(fleet)["fleetcast_hub_listening",] == 1)

        def gone(path: object) -> None:
            raise FileNotFoundError(path)

        monkeypatch.setattr(hub_metrics.shutil, "disk_usage", gone)
        at = scrape(fleet)["fleetcast_hub_turned_seconds",]
        until("turns go on", lambda: scrape(fleet)["fleetcast_hub_turned_seconds",] > at)
        found = scrape(fleet)

    assert found["fleetcast_hub_connected",] == 1
    assert found["fleetcast_hub_gathered_seconds",] < found["fleetcast_hub_turned_seconds",]


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", Code.PORT_IN_USE), ("192.0.2.1", Code.SETTINGS_INVALID)])
def test_an_address_that_cannot_be_had_ends_the_start_with_the_mend(fleet: Fleet, host: str, code: Code) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        shown = endpoint.MetricsEndpoint(host, taken.getsockname()[1], lambda accept: (b"", ""))
        with pytest.raises(Refused, match="metrics_port") as refused:
            shown.start()

    assert refused.value.code is code


def test_series_are_bounded_however_many_rollouts_there_are() -> None:
    def model(number: int) -> Model:
        ref = ReleaseRef("1.0.0", bytes(32))
        state = "running" if number == ROLLOUTS_MAX + 5 else "done"
        one = Deployment(name="default", release=ref, state=state, rollout=bytes(16), started=1)
        return Model(f"m{number}", rollouts=(Progress(f"m{number}", one, stage_entered_at=1, judged_from=1, tries_from=1),))

    shown, left_out = rollout_figures(model(number) for number in range(ROLLOUTS_MAX + 10))

    assert (len(shown), left_out) == (ROLLOUTS_MAX, 10)
    assert shown[0].state == "running"
