"""A web page in a browser near the device, by what browsers send: DNS rebinding, simple requests, forms; and honest clients beside it."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from node.agent.listen_socket import listen_of
from node.serving.server import Listen
from schemas.errors import Refused
from tests.node.conftest import Running, serving, starting
from tests.node.serving.test_curl import INFER, asked

ROWS = np.zeros((1, 5), np.float32)
POSTED = (
    INFER,
    "/v2/models/delay/versions/1.0.0/infer",
    "/v2/models/delay/labels",
    "/v2/models/delay/versions/1.0.0/labels",
    "/v2/repository/index",
    "/v1/chat/completions",
)
ENDPOINTS = (
    *POSTED,
    *(f"/v2/models/delay{version}{what}" for version in ("", "/versions/1.0.0") for what in ("", "/ready", "/stats")),
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v1/models", "/v1/models/delay", "/metrics", "/openapi.json"),
)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def here(regressors: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("foreign"), regressors.linear) as running:
        yield running


def infer(running: Running, **headers: str) -> httpx.Response:
    return httpx.post(
        running.url + INFER, content=asked(ROWS), headers={**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    )


@pytest.mark.parametrize(
    "host",
    [
        *("rebound.example", "rebound.example:8080", "localhost.rebound.example", "127.0.0.1.rebound.example"),
        *("", "evil com.localhost", "evil/.localhost", "[::1"),  # None of them is spelled as a host.
    ],
)
def test_a_name_that_is_rebound_to_this_device_reads_and_asks_nothing(here: Running, host: str) -> None:
    answers = [infer(here, host=host), httpx.get(f"{here.url}/v2", headers={"host": host})]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert "allowed_hosts" in answers[0].json()["error"]
    assert here.observations == []


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "192.0.2.7", "app.localhost", socket.gethostname()]
)
def test_a_name_of_this_device_and_any_address_are_answered(here: Running, host: str) -> None:
    assert httpx.get(f"{here.url}/v2", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:3000", "null", "http://127.0.0.1"])
def test_a_page_of_another_site_is_refused_whatever_it_sends(here: Running, origin: str) -> None:
    before = len(here.observations)
    answers = [infer(here, origin=origin), infer(here, origin=origin, content_type="text/plain")]
    answers.append(httpx.post(f"{here.url}/v1/chat/completions", json={}, headers={"origin": origin}))

    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert "allowed_origins" in answers[0].json()["error"]
    assert answers[2].json()["error"]["code"] == "request.foreign"
    assert len(here.observations) == before


def test_a_request_of_another_site_that_hides_its_origin_is_refused(here: Running) -> None:
    assert infer(here, sec_fetch_site="cross-site").status_code == 403
    assert infer(here, sec_fetch_site="none").status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "Multipart/Form-Data; boundary=x",
        "text/json",
        "application/xml",
        "application/json, text/plain",
        "json",
        "",
    ],
)
@pytest.mark.parametrize("path", [INFER, "/v2/models/delay/labels", "/v1/chat/completions"])
def test_a_body_of_another_type_than_models_are_asked_with_is_refused(here: Running, kind: str, path: str) -> None:
    answer = httpx.post(here.url + path, content=asked(ROWS), headers={"content-type": kind})

    assert answer.status_code == 415
    assert "content-type: application/json" in answer.text


def test_a_body_that_says_no_type_or_a_binary_one_is_answered(here: Running) -> None:
    assert httpx.post(here.url + INFER, content=asked(ROWS)).status_code == 200
    for kind in ("application/octet-stream", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.kserve+json"):
        assert infer(here, content_type=kind).status_code == 200


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_endpoint_refuses_pages_and_rebound_names(here: Running, path: str) -> None:
    method = "POST" if path in POSTED else "GET"
    for headers in (
        {"host": "rebound.example"},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ):
        assert httpx.request(method, here.url + path, headers=headers).status_code == 403, headers


def test_the_list_of_endpoints_above_is_whole(here: Running) -> None:
    described = json.loads(httpx.get(f"{here.url}/openapi.json").text)["paths"]
    known = {re.sub("/versions/[^/]+", "/versions/{}", path.replace("delay", "{}")) for path in ENDPOINTS}

    assert {re.sub("{[a-z_]+}", "{}", path) for path in described} <= known


def test_a_link_of_another_site_that_a_person_follows_is_answered(here: Running) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}

    assert httpx.get(f"{here.url}/v2", headers=headers).status_code == 200
    assert httpx.post(here.url + INFER, content=asked(ROWS), headers=headers).status_code == 403
    assert httpx.get(f"{here.url}/v2", headers={**headers, "sec-fetch-dest": "document"}).status_code == 200
    assert httpx.get(f"{here.url}/v2", headers={**headers, "sec-fetch-dest": "iframe"}).status_code == 403


def test_two_origins_are_refused_whichever_is_ours(here: Running) -> None:
    own = here.url
    for both in ((own, "https://evil.example"), ("https://evil.example", own)):
        assert httpx.get(f"{here.url}/v2", headers=[("origin", one) for one in both]).status_code == 403


@pytest.mark.parametrize(("target", "status"), [("http://rebound.example/v2", b"403"), ("http://localhost:99/v2", b"200")])
def test_a_host_in_the_target_counts_and_not_the_field(here: Running, target: str, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", here.server.port)) as raw:
        raw.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

        assert raw.recv(4096).split()[1] == status


def test_the_grpc_port_answers_nothing_that_a_browser_speaks(start: Callable[..., Running]) -> None:
    running = start(Listen(port=0, grpc_port=0))
    for asks in (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST /inference.GRPCInferenceService/ServerLive HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", running.server.grpc_port)) as raw:
            raw.sendall(asks)
            heard = b"".join(iter(lambda raw=raw: raw.recv(4096), b""))  # type: ignore[misc]

        assert b"HTTP/1" not in heard


@pytest.mark.parametrize(("head", "status"), [("Host: localhost\r\nHost: localhost\r\n", b"400"), ("", b"400")])
def test_a_request_names_its_host_once(here: Running, head: str, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", here.server.port)) as raw:
        raw.sendall(f"GET /v2/health/live HTTP/1.1\r\n{head}\r\n".encode())

        assert raw.recv(4096).split()[1] == status


def test_over_a_unix_socket_any_host_asks_and_no_page(start: Callable[..., Running], tmp_path: Path) -> None:
    path = str(tmp_path / "node.sock")
    start(Listen(uds=path))
    with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
        assert client.get("http://any.example/v2").status_code == 200
        assert client.get("http://any.example/v2", headers={"origin": "https://evil.example"}).status_code == 403


def test_names_and_pages_that_the_site_lists_may_ask(regressors: Any, tmp_path: Path) -> None:
    page = "http://dashboard.plant.example:3000"
    listen = Listen(port=0, allowed_hosts=("gateway.plant.example",), allowed_origins=(page,))
    with starting() as begin:
        running = begin(listen)
        preflight = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        asks = httpx.options(running.url + INFER, headers=preflight)
        reads = httpx.get(f"{running.url}/v2", headers={"host": "gateway.plant.example:8080", "origin": page})

        assert (asks.status_code, asks.headers["access-control-allow-origin"]) == (200, page)
        assert (reads.status_code, reads.headers["access-control-allow-origin"]) == (200, page)
        assert httpx.get(f"{running.url}/v2", headers={"host": "other.plant.example"}).status_code == 403
        assert httpx.get(f"{running.url}/v2", headers={"origin": "http://dashboard.plant.example"}).status_code == 403


def test_settings_take_names_and_origins_and_refuse_what_is_neither(tmp_path: Path) -> None:
    from node.settings import load

    base = 'id = "n1"\nfleet = "f"\nbroker = "mqtt://x"\ndata = "data"\nroot = "root.json"\n'
    (tmp_path / "node.toml").write_text(base + 'allowed_hosts = ["gateway.plant"]\nallowed_origins = ["https://a.example:3000"]\n')
    assert load(tmp_path / "node.toml").allowed_hosts == ("gateway.plant",)

    (tmp_path / "node.toml").write_text(base + "tcp = false\n")
    alone = listen_of(load(tmp_path / "node.toml"))
    assert (alone.port, alone.uds) == (None, str(tmp_path / "data" / "node.sock"))
    (tmp_path / "node.toml").write_text(base + 'tcp = false\nsocket = "here.sock"\n')
    assert listen_of(load(tmp_path / "node.toml")).uds == str(tmp_path / "here.sock")
    (tmp_path / "node.toml").write_text(base + "tcp = false\ngrpc_port = 8081\n")
    with pytest.raises(Refused, match="grpc_port"):
        load(tmp_path / "node.toml")

    (tmp_path / "node.toml").write_text(base + 'allowed_origins = ["https://a.example/path"]\n')
    with pytest.raises(Refused, match="allowed_origins"):
        load(tmp_path / "node.toml")
