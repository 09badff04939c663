"""What a monitoring system scrapes: real counts of real requests, and no series that a client could make."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.core.doctor.agent_health import AgentStatus
from node.serving.oip_routes import application
from node.workers import worker_handle
from schemas.manifest import Tensor
from schemas.state import TelemetryBudget
from tests.hub.hubs import until

ROWS = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [3, 5], "data": [1.0] * 15}]}


def scrape(running: Any) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels, in the order of their names."""
    answer = httpx.get(running.url + "/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain")
    return samples(answer.text)


def samples(text: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(text)
    return {(one.name, *(value for _, value in sorted(one.labels.items()))): one.value for family in families for one in family.samples}


@pytest.fixture
def served(running: Any, stage: Callable[..., Any], regressors: Any) -> Any:
    running.serve(stage("1.0.0", regressors.linear.onnx))
    return running


def test_requests_are_counted_by_whose_fault_they_failed(served: Any) -> None:
    infer = served.url + "/v2/models/delay/infer"
    statuses = [httpx.post(infer, json=ROWS).status_code for _ in range(3)]
    statuses += [httpx.post(infer, json={"inputs": []}).status_code, httpx.post(infer, content=b"x").status_code]
    until("the last to be counted", lambda: scrape(served)["fleetcast_requests_total", "delay", "refused"] == 2)
    found = scrape(served)

    assert statuses == [200, 200, 200, 400, 400]
    assert found["fleetcast_requests_total", "delay", "answered"] == 3
    assert found["fleetcast_requests_total", "delay", "refused"] == 2
    assert found["fleetcast_requests_total", "delay", "failed"] == 0
    assert found["fleetcast_rows_total", "delay"] == 9
    assert found["fleetcast_request_seconds_count", "delay"] == 3
    assert found["fleetcast_request_seconds_bucket", "+Inf", "delay"] == 3
    assert 0 < found["fleetcast_request_seconds_sum", "delay"] < 60
    assert found["fleetcast_requests_waiting", "delay"] == 0


def test_counts_go_on_over_a_swap_and_releases_are_named(served: Any, stage: Callable[..., Any], regressors: Any) -> None:
    httpx.post(served.url + "/v2/models/delay/infer", json=ROWS)
    second = stage("2.0.0", regressors.forest.onnx)
    served.serve(second)
    httpx.post(served.url + "/v2/models/delay/infer", json=ROWS)
    served.told(2)
    found = scrape(served)

    assert found["fleetcast_requests_total", "delay", "answered"] == 2
    assert found["fleetcast_release_info", second.digest.hex()[:16], "delay", "serving", "2.0.0"] == 1
    assert {name[3] for name in found if name[0] == "fleetcast_release_info"} == {"serving", "held"}
    assert found["fleetcast_release_live", "delay", "2.0.0"] == 1
    assert found["fleetcast_worker_memory_bytes", "delay", "2.0.0"] > 1e6
    assert found["fleetcast_worker_deaths", "delay", "2.0.0"] == 0


def test_names_that_clients_choose_make_no_series(served: Any) -> None:
    before = set(scrape(served))
    with httpx.Client(base_url=served.url) as client:
        for number in range(30):
            client.post(f"/v2/models/m{number}/infer", json=ROWS)
            client.post("/v1/chat/completions", json={"model": f"m{number}", "messages": [{"role": "user", "content": "x"}]})
            client.post(f"/v2/models/delay/versions/{number}.9.0/infer", json=ROWS)
        client.post("/v1/chat/completions", json={"model": 3})
    until("the last to be counted", lambda: scrape(served)["fleetcast_requests_unmatched_total",] == 61)
    found = scrape(served)

    assert set(found) == before
    assert found["fleetcast_requests_total", "delay", "refused"] == 30


def test_counts_of_a_model_that_is_removed_go_with_it(served: Any) -> None:
    httpx.post(served.url + "/v2/models/delay/infer", json=ROWS)
    served.server.forget("delay")
    found = scrape(served)

    assert not any("delay" in name for name in found)


def test_a_scraper_elsewhere_gets_no_counts_of_what_was_asked(served: Any) -> None:
    counts = {"fleetcast_rows_total", "fleetcast_requests_total", "fleetcast_request_seconds_count", "fleetcast_requests_unmatched_total"}
    counts |= {"fleetcast_telemetry_rho_spent", "fleetcast_telemetry_windows_waiting", "fleetcast_telemetry_windows_withheld"}
    status = {"node": "n", "fleet": "f", "pid": 1, "software": "1", "listen": "", "online": True}
    times = dict.fromkeys(("started_at", "written_at", "since", "answered_at"), 1)
    report = AgentStatus(
        **status, **times, telemetry=TelemetryBudget(rho_spent=0.1, rho_day_max=1.0, windows_waiting=1, windows_withheld=2)
    )

    async def scrape_from(client: tuple[str, int] | None, *, counts_to_all: bool = False) -> set[str]:
        app = application(
            served.server._pool, node="n", observing=served.server._observing, status=lambda: report, counts_to_all=counts_to_all
        )
        transport = httpx.ASGITransport(app=app, client=client)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking:
            found = {name for name, *_ in samples((await asking.get("/metrics")).text)}
        assert {"fleetcast_release_live", "fleetcast_worker_deaths", "fleetcast_node_info"} <= found
        return counts & found

    for local in (("127.0.0.1", 5), ("::ffff:127.0.0.1", 5), ("::1", 5), None):  # None: a Unix socket
        assert asyncio.run(scrape_from(local)) == counts
    for elsewhere in (("192.0.2.7", 5), ("2001:db8::7", 5)):
        assert asyncio.run(scrape_from(elsewhere)) == set()
        assert asyncio.run(scrape_from(elsewhere, counts_to_all=True)) == counts


def test_openmetrics_is_written_for_those_who_ask_for_it(served: Any) -> None:
    answer = httpx.get(served.url + "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_turns_of_a_conversation_are_counted(running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**worker_handle._runtimes(), "talking": "tests.node.bad_runtimes:Talking"}
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)
    tensors = {
        "inputs": (Tensor(name="prompt", datatype="BYTES", shape=(1,)),),
        "outputs": (Tensor(name="text", datatype="BYTES", shape=(1,)),),
    }
    running.serve(replace(stage("1.0.0", b"talk", model="echo", **tensors), runtime="talking"))
    for text in ("hello", "hello", "raise"):
        httpx.post(running.url + "/v1/chat/completions", json={"model": "echo", "messages": [{"role": "user", "content": text}]})
    until("the last to be counted", lambda: scrape(running)["fleetcast_requests_total", "echo", "failed"] == 1)
    counted = scrape(running)

    assert counted["fleetcast_requests_total", "echo", "answered"] == 2
