"""What is sent to do harm: markup, SQL, escapes and formulas where names belong, and bodies that never end. What the history keeps."""

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from hub.web import guard
from hub.web.event_stream import STREAMS_MAX
from hub.web.server import Server
from tests.hub.hubs import until
from tests.hub.web.fleets import API, Asked, copied

HARMFUL = {
    "markup": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "SQL": "'; DROP TABLE nodes; --",
    "SQL in a number": "1 OR 1=1",
    "an escape": "\x1b]0;owned\x07\x1b[2J",
    "a formula": '=HYPERLINK("http://evil.example","x")',
    "another formula": "@SUM(1+1)*cmd|' /C calc'!A0",
    "a path": "../../keys/team.pem",
    "a null": "a\x00b",
    "a line": "ok\r\nx-injected: 1",
    "bidi": "a\u202ecba",
}


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL)
def test_harmful_text_is_refused_as_a_name_and_never_becomes_more_than_text(here: Asked, text: str) -> None:
    part = quote(text, safe="")
    labels = {"where": "site=jfk", "labels": {"ring": text}}
    answers = [
        here.ask("GET", f"/models/{part}"),
        here.ask("GET", f"/nodes/{part}"),
        here.ask("GET", f"/rollouts/m/{part}"),
        here.ask("GET", f"/nodes?where={part}"),
        here.ask("GET", f"/audit?actor={part}"),
        here.ask("GET", f"/audit?model={part}"),
        here.ask("POST", "/rollouts?wait=0", json={"model": text, "version": "1.0.0"}),
        here.ask("POST", "/rollouts?wait=0", json={"model": "m", "version": text}),
        here.ask("POST", "/rollouts?wait=0", json={"model": "m", "version": "1.0.0", "stages": text}),
        here.ask("POST", "/rollouts?wait=0", json={"model": "m", "version": "1.0.0", "activate": text}),
        here.ask("PUT", f"/models/m/deployments/{part}?wait=0", json={"where": "site=jfk", "release": "1.0.0"}),
        here.ask("POST", "/node-settings/effect", json=labels),
        here.ask("POST", "/node-settings/effect", json={**labels, "labels": {text: "x"}}),
        here.ask("POST", "/node-settings/effect", json={"where": text, "labels": {"ring": "x"}}),
        here.ask("POST", "/plan", json={"model": "m", "version": "1.0.0", "where": text}),
        here.ask("POST", "/publications", json={"model": text, "version": "1.0.0", "manifest": ""}),
        here.ask("GET", "/fleet", headers={"accept": "text/html"}),
    ]

    for answer in answers:
        assert answer.status_code < 500, answer.text
        assert answer.headers["content-type"] in {"application/json", "application/problem+json"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "x-injected" not in answer.headers
        assert not any(ord(one) < 32 for one in answer.text)
    assert here.get("/nodes")["total"] == 6
    assert here.get("/audit?model=m")["items"] == []


def test_a_body_that_drips_in_is_answered_in_time_and_keeps_nobody_out(listening: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    listening.get("/token")
    monkeypatch.setattr(guard, "BODY_SECONDS_MAX", 0.3)
    address, token = urlsplit(str(listening.client.base_url)), listening.tokens["admin"]
    head = f"POST {API}/tokens HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection((address.hostname, address.port)) as client:
        client.settimeout(30)
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{".encode())
        assert listening.get("/token")["name"] == "viewer"
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        while client.recv(4096):
            pass  # The connection is closed: what is left of the body is not read.


@pytest.fixture
def listening(unused: Asked, tmp_path: Path) -> Iterator[Asked]:
    """The API, served without a hub."""
    with served_alone(unused, tmp_path) as found:
        yield found


@contextmanager
def served_alone(unused: Asked, folder: Path) -> Iterator[Asked]:
    asked = copied(unused, folder / "made")
    running = Server(asked.fleet)
    with httpx.Client(base_url=running.start() or "") as asked.client:
        asked.server = running
        yield asked
    running.stop()
    asked.fleet.store.close()


@pytest.mark.slow
def test_a_thousand_event_streams_cost_a_bounded_little_and_leave_room_for_requests(unused: Asked, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    try:
        with served_alone(unused, tmp_path) as asked, ExitStack() as stack:
            asked.get("/token")
            address = urlsplit(str(asked.client.base_url))
            head = f"GET {API}/events/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {asked.tokens['viewer']}\r\n\r\n"
            clients = []
            for _ in range(1000):
                client = stack.enter_context(socket.create_connection((address.hostname, address.port)))
                client.settimeout(60)
                client.sendall(head.encode())
                clients.append(client)
            statuses = [client.recv(12)[9:] for client in clients]
            began = time.monotonic()
            assert asked.get("/fleet")["nodes"] == 6
            assert time.monotonic() - began < 5
            assert statuses.count(b"200") == STREAMS_MAX
            assert set(statuses) == {b"200", b"429"}
            for client in clients:
                client.close()
            until("a place to be free", lambda: asked.ask("GET", "/token", "viewer").status_code == 200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_history_says_what_was_before_and_after_and_why(running: Asked) -> None:
    running.ask("POST", "/rollouts", "operator", json={"model": "m", "version": "1.0.0", "stages": "50,100"})
    running.ask("POST", "/rollouts/m/default/halt", "operator")
    running.ask("PATCH", "/nodes/n2/settings", "operator", json={"labels": {"ring": "one"}, "telemetry": False})
    running.ask("PATCH", "/nodes/n2/settings", "operator", json={"labels": {"ring": "two"}})
    second, first, halted, started = running.get("/audit?actor=token:operator&limit=4")["items"]

    assert (started["before"], started["after"]["release"], started["after"]["percent"]) == (None, "1.0.0", 50)
    assert (halted["before"], halted["after"]) == ({"state": "running"}, {"state": "halted"})
    assert "token:operator" in halted["reason"]
    assert (first["before"], first["after"]) == ({"label.ring": None, "telemetry": None}, {"label.ring": "one", "telemetry": False})
    assert (second["before"], second["after"]) == ({"label.ring": "one"}, {"label.ring": "two"})
    assert json.dumps(second)
