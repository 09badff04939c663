"""Events over a connection that stays open: none is missed, none comes twice, and a client that does not read is ended."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import insert

from hub.client.hub_client import HubClient
from hub.client.place import place_of
from hub.database import tables
from hub.web import event_stream, server
from hub.web.server import Server
from schemas.errors import Refused, Unreachable
from tests.hub.hubs import until
from tests.hub.web.fleets import API, Asked, copied


@pytest.fixture
def listening(unused: Asked, tmp_path: Path) -> Iterator[Asked]:
    """The API, served without a hub."""
    asked = copied(unused, tmp_path / "made")
    running = Server(asked.fleet)
    url = running.start()
    asked.client, asked.server = httpx.Client(base_url=url), running
    yield asked
    asked.client.close()
    running.stop()
    asked.fleet.store.close()


def ids_of(asked: Asked, wanted: int, *, after: int | None = None, once_open: Callable[[], object] = lambda: None) -> list[int]:
    found, is_open = list[int](), False
    headers = {"authorization": f"Bearer {asked.tokens['viewer']}"} | ({"last-event-id": str(after)} if after is not None else {})
    with asked.client.stream("GET", f"{API}/events/stream", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if not is_open:
                is_open = True
                once_open()
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                found.append(event["id"])
                assert set(event) == {"id", "at", "kind", "text", "actor", "facts"}
            if len(found) == wanted:
                return found
    return found


def test_a_client_that_comes_again_goes_on_behind_the_last_event(listening: Asked) -> None:
    store = listening.fleet.store
    began = store.last_event_id()
    for number in range(6):
        store.add_event("broker", f"event {number}\n\ndata: no event of its own", {"n": number})
    first = ids_of(listening, 4, after=began)
    second = ids_of(listening, 3, after=first[-1], once_open=lambda: store.add_event("broker", "a late one", {}))

    assert first + second == list(range(began + 1, began + 8))


def test_a_client_without_an_id_sees_what_is_new(listening: Asked) -> None:
    listening.get("/fleet")  # The first request loads what the API is made of.
    store, began = listening.fleet.store, listening.fleet.store.last_event_id()

    assert ids_of(listening, 1, once_open=lambda: store.add_event("broker", "new", {})) == [began + 1]


def test_a_client_that_does_not_read_is_ended_and_costs_little(listening: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub.web import connection  # with uvicorn

    monkeypatch.setattr(connection, "WRITE_SECONDS_MAX", 2.0)
    store, address = listening.fleet.store, urlsplit(str(listening.client.base_url))
    rows = [{"at": 1, "kind": "broker", "text": "x" * 30_000, "body": "{}", "actor": None} for _ in range(400)]
    with store.database.write() as db:
        db.execute(insert(tables.events), rows)
    listening.get("/fleet")
    with socket.create_connection((address.hostname, address.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        token, port = listening.tokens["viewer"], client.getsockname()[1]
        head = f"GET {API}/events/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nLast-Event-ID: 0\r\n\r\n"
        client.sendall(head.encode())
        assert address.port is not None
        assert is_established(address.port, port)
        until("the hub to end it", lambda: not is_established(address.port, port), seconds=20)
    assert listening.get("/fleet")["fleet"] == "f"


def is_established(ours: int, theirs: int) -> bool:
    """Return whether the server's end of a connection is open; what the client has not read keeps it half closed in the kernel."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{ours:04X}") and row[2].endswith(f":{theirs:04X}") and row[3] == "01" for row in rows)


def test_no_more_streams_are_open_than_are_allowed(listening: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "STREAMS_MAX", 1)
    headers = {"authorization": f"Bearer {listening.tokens['viewer']}"}
    with listening.client.stream("GET", f"{API}/events/stream", headers=headers) as first:
        lines = first.iter_lines()  # As long as it is held, the connection is open.
        next(lines)
        second = listening.ask("GET", "/events/stream", "viewer")
        assert (second.status_code, second.json()["code"]) == (429, "request.crowded")
        lines.close()
    until("the first one's end to be seen", lambda: ids_or_status(listening) == 200)


def ids_or_status(asked: Asked) -> int:
    headers = {"authorization": f"Bearer {asked.tokens['viewer']}"}
    with asked.client.stream("GET", f"{API}/events/stream", headers=headers) as answer:
        return int(answer.status_code)


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "9" * 19])
def test_an_id_that_no_event_has_is_refused(listening: Asked, given: str) -> None:
    assert listening.ask("GET", "/events/stream", "viewer", headers={"last-event-id": given}).status_code == 422


def half_closed(asked: Asked, sent: str, *, first: str = "") -> bytes:
    """What comes back when a client sends this, and closes its sending side."""
    address = urlsplit(str(asked.client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=8) as client:
        if first:
            client.sendall(first.encode())
            answer = HTTPResponse(client)
            answer.begin()
            assert answer.status == 200
            if answer.length is not None:  # A stream has no end.
                answer.read()
        client.sendall(sent.encode())
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_client_that_closes_its_sending_side_gets_what_it_asked_for(listening: Asked) -> None:
    head = f"Host: localhost\r\nAuthorization: Bearer {listening.tokens['viewer']}\r\n"
    one, stream = (f"GET {API}{path} HTTP/1.1\r\n{head}\r\n" for path in ("/fleet", "/events/stream"))
    cut, body = one[:-6], f"POST {API}/tokens HTTP/1.1\r\n{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{"
    listening.get("/fleet")  # The first request loads what the API is made of.

    assert half_closed(listening, one).count(b"HTTP/1.1 200 OK") == 1
    assert half_closed(listening, 3 * one).count(b"HTTP/1.1 200 OK") == 3
    assert half_closed(listening, "", first=one) == half_closed(listening, cut, first=one) == b""  # It ends at once, not after 10 s.
    assert b"HTTP/1.1 2" not in half_closed(listening, body)
    ended = half_closed(listening, stream)  # Nothing would show that the client of a stream has left.
    assert ended.startswith(b"HTTP/1.1 200 OK")
    assert b"data:" not in ended
    assert b"event:" not in half_closed(listening, "", first=stream)


def test_a_port_that_was_picked_is_picked_again_and_one_that_is_taken_is_named(unused: Asked, tmp_path: Path) -> None:
    asked = copied(unused, tmp_path / "made")
    first = Server(asked.fleet)
    url = first.start()
    first.stop()
    second = Server(asked.fleet)

    assert second.start() == url
    fixed = asked.fleet.settings.model_copy(update={"web_listen": urlsplit(url or "").netloc})
    third = Server(server.OpenedFleet(asked.fleet.directory, fixed, asked.fleet.store, asked.fleet.repository))
    with pytest.raises(Exception, match=r"cannot listen on 127.0.0.1:\d+.*`web_listen` in fleet.toml says where"):
        third.start()
    second.stop()


def test_without_the_extra_a_hub_runs_and_says_what_is_missing(
    unused: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)

    assert Server(unused.fleet).start() is None
    assert "fleetcast[web]" in capsys.readouterr().out


def test_with_a_certificate_the_api_speaks_tls_alone(unused: Asked, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate, private = tmp_path / "web.crt", tmp_path / "web.key"
    certificate.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    asked = copied(unused, tmp_path / "made")
    changes = {"web_tls_certificate": str(certificate), "web_tls_key": str(private)}
    running = Server(replace(asked.fleet, settings=asked.fleet.settings.model_copy(update=changes)))
    url = running.start() or ""
    port = urlsplit(url).port

    with httpx.Client(base_url=f"https://localhost:{port}", verify=ssl.create_default_context(cafile=str(certificate))) as client:
        asked.client = client
        assert asked.get("/fleet")["fleet"] == "f"
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://localhost:{port}/api/v1/fleet")
    place = place_of(f"https://localhost:{port}", token=asked.tokens["viewer"], ca_file=certificate, environment={})
    with HubClient(place) as hub:
        assert hub.fleet()["fleet"] == "f"
    with HubClient(replace(place, ca_file=None)) as hub, pytest.raises(Unreachable, match="FLEETCAST_CA_FILE, names the authority"):
        hub.connection.request("POST", "/fleet")
    with pytest.raises(Refused, match=r"CA file .*web\.key"):
        HubClient(replace(place, ca_file=private))
    assert url.startswith("https://")
    running.stop()
