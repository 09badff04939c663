"""A hub that does not answer as it should, on a real socket: what the client sends again, and what it believes."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hub.client.connection import ANSWER_BYTES_MAX, Connection
from hub.client.events import follow
from hub.client.hub_client import HubClient
from hub.client.place import place_of
from schemas.errors import Code, Refused, Unreachable


def test_a_missing_token_claims_nothing_of_a_hub_that_was_not_asked() -> None:
    with pytest.raises(Refused) as caught:
        place_of("http://127.0.0.1:1", environment={})

    assert caught.value.reason.startswith("no token is given for the hub at http://127.0.0.1:1: put it into a file")


def answer(status: int, body: object = None, kind: str = "application/json", **headers: str) -> bytes:
    content = json.dumps(body).encode() if not isinstance(body, bytes) else body
    named = {"content-type": kind, "content-length": str(len(content)), "connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} x\r\n{head}\r\n".encode() + content


@contextmanager
def scripted(*answers: bytes) -> Iterator[tuple[Connection, list[bytes], list[float]]]:
    """A peer that answers each connection with the next of these, and ends it; an empty one is no answer."""
    requests, slept = list[bytes](), list[float]()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for one in answers:
                peer, _ = listener.accept()
                with peer:
                    requests.append(peer.recv(65536))
                    peer.sendall(one)
            listener.close()  # Nobody waits for an answer that the script does not have.

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        place = place_of(f"http://127.0.0.1:{listener.getsockname()[1]}", token="fct_secret", environment={})
        connection = Connection(place, sleep=slept.append, chance=lambda: 0.5)
        yield connection, requests, slept
        thread.join(10)
        connection.close()


PROBLEM = {"type": "urn:x", "title": "t", "status": 409, "detail": "it is halted already", "code": "rollout.invalid"}
DONE = {"id": 7, "kind": "halt", "model": "m", "state": "done", "text": "halted", "code": "", "actor": "a"}


def test_a_change_whose_answer_was_lost_is_sent_again_with_its_key() -> None:
    with scripted(b"", answer(503, {"code": "hub.failed", "detail": "busy"}, retry_after="2"), answer(200, DONE)) as (
        connection,
        asked,
        slept,
    ):
        found = HubClient(connection.place, connection=connection).act("halt", "m")

    keys = {line for one in asked for line in one.split(b"\r\n") if line.lower().startswith(b"idempotency-key")}
    assert (found.id, len(asked), len(keys)) == (7, 3, 1)
    assert slept == [0.25, 2.0]


def test_a_hub_that_asks_for_much_patience_is_not_waited_for() -> None:
    crowded = {"code": "request.crowded", "detail": "too many requests with bad tokens came from this address"}
    with (
        scripted(answer(429, crowded, "application/problem+json", retry_after="600")) as (connection, _, slept),
        pytest.raises(Refused) as seen,
    ):
        connection.request("GET", "/fleet")

    assert (seen.value.code, slept) == (Code.REQUEST_CROWDED, [])


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (answer(409, PROBLEM, "application/problem+json"), Refused, r"it is halted already \[rollout.invalid\]"),
        (answer(422, {**PROBLEM, "code": "of.tomorrow"}, "application/problem+json"), Refused, r"already \(of.tomorrow\)"),
        (answer(500, {"code": "hub.failed", "detail": "a bug, reference 12"}, "application/problem+json"), Unreachable, "reference 12"),
        (answer(302, b"", location="http://evil.example/"), Refused, "redirects are not followed"),
        (answer(200, b"<html>", "text/html"), Unreachable, "is it a hub"),
        (answer(404, b"<html>", "text/html"), Unreachable, "no answer of a hub's API"),
        (answer(200, b"{" * 5), Unreachable, "no JSON"),
        (answer(200, b"[" * 100_000), Unreachable, "no JSON"),
        (answer(200, [1]), Unreachable, "no object"),
    ],
)
def test_what_is_answered_becomes_our_own_error(given: bytes, kind: type[Exception], text: str) -> None:
    with scripted(given) as (connection, asked, _), pytest.raises(kind, match=text):
        HubClient(connection.place, connection=connection).fleet()
    assert len(asked) == 1


def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.client.connection.ANSWER_BYTES_MAX", 1000)
    assert ANSWER_BYTES_MAX > 1000
    endless = b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\n\r\n" + b"[" + b"1," * 100_000
    with scripted(endless) as (connection, _, _), pytest.raises(Unreachable, match="more than 1000 bytes"):
        connection.request("POST", "/fleet")


def test_a_cut_answer_and_a_list_in_a_circle_are_no_answers() -> None:
    cut = b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n[1,"
    with scripted(cut) as (connection, _, _), pytest.raises(Unreachable, match="before the answer was whole"):
        connection.request("POST", "/fleet")
    page = answer(200, {"items": [], "next": "abc"})
    with scripted(page, page) as (connection, _, _), pytest.raises(Unreachable, match="for the second time"):
        list(HubClient(connection.place, connection=connection).nodes())


def test_a_peer_that_is_not_there_is_named_and_the_token_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    slept = list[float]()
    connection = Connection(place_of(f"http://127.0.0.1:{port}", token="fct_secret", environment={}), sleep=slept.append)
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}: connection refused; is the hub running there") as seen:
        connection.request("GET", "/fleet")
    assert len(slept) == 3
    assert "fct_secret" not in str(seen.value)


def test_a_hub_without_tls_that_is_asked_by_https_is_named_as_such() -> None:
    with scripted(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (plain, _, _):
        connection = Connection(place_of(plain.place.url.replace("http:", "https:"), token="fct_x", environment={}))
        with pytest.raises(Unreachable, match="does not speak TLS; is the hub's address one with http://") as seen:
            connection.request("GET", "/fleet", is_repeatable=False)
    assert not any(word in str(seen.value) for word in ("--ca-file", "WRONG_VERSION"))


def event(number: int) -> bytes:
    data = json.dumps({"id": number, "at": "2026-01-01", "kind": "k", "text": f"t{number}", "actor": None, "facts": {}})
    return f"id: {number}\nevent: k\ndata: {data}\n\n".encode()


def test_a_stream_that_ends_goes_on_behind_the_last_event() -> None:
    head = b"HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\n\r\n"
    first = head + b"retry: 2000\n\nid: 4\n\n" + event(5) + b": beat\n\ndata: no JSON\n\n" + event(6)[:20]
    second = head + event(5) + event(6) + event(7)
    with scripted(head + b"id: 4\n\n", first, second) as (connection, asked, _):
        found = follow(connection, sleep=lambda _: None)
        assert [next(found).id for _ in range(3)] == [5, 6, 7]

    ids = [[line for line in one.lower().split(b"\r\n") if line.startswith(b"last-event-id")] for one in asked]
    assert ids == [[], [b"last-event-id: 4"], [b"last-event-id: 5"]]


def test_a_stream_that_is_refused_ends_and_one_that_is_lost_does_too_at_last() -> None:
    gone = answer(401, {"code": "request.token", "detail": "the token is unknown, expired or revoked"}, "application/problem+json")
    with scripted(gone) as (connection, _, _), pytest.raises(Refused) as seen:
        next(follow(connection))
    assert seen.value.code == Code.REQUEST_TOKEN
    with scripted(b"", b"", b"") as (connection, _, _), pytest.raises(Unreachable):
        next(follow(connection, failures_max=2, sleep=lambda _: None))
