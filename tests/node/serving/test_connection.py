"""What comes on a connection and is no body: bounded however it comes, and understood as any HTTP/1.1 server would."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from node.serving import connection, server
from node.serving.connection import WHOLE, Connection
from tests.hub.hubs import until
from tests.node.conftest import serving

READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n"
INFER = "/v2/models/delay/infer"
CHUNKED = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, regressors: Any) -> Iterator[Any]:
    with serving(tmp_path_factory.mktemp("served"), regressors.linear) as running:
        yield running


@pytest.fixture
def asked(regressors: Any) -> bytes:
    rows = regressors.rows[:2]
    return json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 5], "data": rows.tolist()}]}).encode()


@contextmanager
def opened(served: Any) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=100) as raw:
        yield raw


def answer(raw: socket.socket) -> tuple[int, bytes]:
    found = HTTPResponse(raw)
    found.begin()
    return found.status, found.read()


def sent_until_closed(raw: socket.socket, piece: bytes, bytes_max: int) -> int:
    """Bytes that the other end took before it closed."""
    sent = 0
    try:
        while sent < bytes_max:
            raw.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


def padded(size: int) -> bytes:
    return READY + b"X-Filling: " + b"x" * size + b"\r\n\r\n"


def test_a_large_head_is_read_and_a_huge_one_refused(served: Any) -> None:
    with opened(served) as raw:
        raw.sendall(padded(connection.HEAD_BYTES_MAX - 200))
        large = answer(raw)
    with opened(served) as raw:
        raw.sendall(padded(connection.HEAD_BYTES_MAX))
        huge = answer(raw)
        rest = raw.recv(1)

    assert large[0] == 200
    assert huge == (431, b'{"error": "the head of the request is larger than 65536 bytes"}')
    assert rest == b""


ENDLESS = {
    "a value": (READY + b"X-Filling: ", b"x"),
    "fields": (READY, b"a:b\r\n"),
    "a path": (b"GET /", b"x"),
    "a method": (b"", b"X"),
    "empty lines": (b"", b"\r\n"),
    "an extension of a chunk": (CHUNKED + b"1;", b"x"),
    "a trailer": (CHUNKED + b"1\r\n{\r\n0\r\nX-Filling: ", b"x"),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", b"a:b\r\n"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_never_becomes_a_body_is_ended(served: Any, what: str) -> None:
    begin, piece = ENDLESS[what]
    with opened(served) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        raw.sendall(begin)

        sent = sent_until_closed(raw, piece * (4096 // len(piece)), 2**26)

    assert sent < 2**24  # what sockets hold, and not what was to come


def test_a_head_in_pieces_is_one_head_and_a_body_in_tiny_chunks_one_body(served: Any, asked: bytes) -> None:
    with opened(served) as raw:
        for byte in padded(100):
            raw.sendall(bytes([byte]))
        ready = answer(raw)
        raw.sendall(CHUNKED + b"".join(b"1;why=not\r\n%c\r\n" % byte for byte in asked) + b"0\r\nX-Sum: 7\r\n\r\n")
        inferred = answer(raw)

    assert (ready[0], inferred[0]) == (200, 200)
    assert json.loads(inferred[1])["model_version"] == "1.0.0"


@pytest.mark.parametrize("framed", ["length", "chunks"])
def test_a_client_that_offers_an_upgrade_is_answered_as_if_it_had_not(served: Any, asked: bytes, framed: str) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n"
    offer = f"{head}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAA\r\n".encode()
    length, chunks = b"Content-Length: %d\r\n\r\n" % len(asked), b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(asked)
    with opened(served) as raw:
        raw.sendall(READY + b"\r\n")  # a connection that was used before
        ready = answer(raw)
        raw.sendall(offer + (length + asked[:50] if framed == "length" else chunks + asked[:50]))
        time.sleep(0.05)
        raw.sendall(asked[50:] + (b"" if framed == "length" else b"\r\n0\r\n\r\n"))
        upgraded = answer(raw)
        raw.sendall(READY + b"\r\n")
        again = answer(raw)
        raw.sendall(padded(connection.HEAD_BYTES_MAX))
        refused = answer(raw)

    assert (ready[0], upgraded[0], again[0], refused[0]) == (200, 200, 200, 431)
    assert json.loads(upgraded[1])["model_version"] == "1.0.0"


def test_requests_that_follow_each_other_unasked_are_answered_in_order_up_to_a_bound(served: Any) -> None:
    few, many = 20, connection.PIPELINED_MAX
    with opened(served) as raw:
        raw.sendall(b"".join(b"GET /v2/models/m%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(few)))
        told = [answer_kept(raw) for _ in range(few)]
    with opened(served) as raw:
        raw.sendall((READY + b"\r\n") * (1 + many + 10))

        statuses = statuses_until_closed(raw)

    assert [f"model 'm{number}'" in said for number, said in enumerate(told)] == [True] * few
    assert statuses == [200] * (1 + many) + [503]


BEHIND = {
    "no HTTP": (b"\0", [200, 400]),
    "an upgrade": (READY + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nhello\r\n\r\n", [200, 200, 400]),
    "a tunnel": (b"CONNECT x:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", [200, 400]),
    "a broken body": (CHUNKED + b"1\r\n{\r\nx", [200, 400]),
}


@pytest.mark.parametrize("what", BEHIND)
def test_a_refusal_comes_behind_the_answers_to_what_was_asked_before(served: Any, what: str) -> None:
    behind, statuses = BEHIND[what]
    with opened(served) as raw:
        raw.sendall(READY + b"\r\n" + behind)

        assert statuses_until_closed(raw) == statuses


def statuses_until_closed(raw: socket.socket) -> list[int]:
    data = b""
    while piece := raw.recv(65536):
        data += piece
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def answer_kept(raw: socket.socket) -> str:
    """One of several answers: no byte more than its own is read."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += raw.recv(1)
    size = int(data.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while size:
        data += (piece := raw.recv(size))
        size -= len(piece)
    return data.decode()


@pytest.mark.parametrize("begin", [b"", b"G", READY], ids=["nothing", "a letter", "half a head"])
def test_whoever_connects_and_does_not_ask_is_let_go(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 1)
    running = start()
    with opened(running) as raw:
        raw.sendall(begin)
        began = time.monotonic()

        assert raw.recv(1) == b""
        assert time.monotonic() - began > 0.5


def test_whoever_offered_an_upgrade_has_no_more_time_to_ask_than_others(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 1)
    running = start()
    with opened(running) as raw:
        raw.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        status, _ = answer(raw)
        raw.sendall(b"G")

        assert (status, raw.recv(1)) == (200, b"")


@pytest.mark.parametrize(
    "request_", [b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_is_told_so(served: Any, request_: bytes) -> None:
    with opened(served) as raw:
        raw.sendall(request_)
        status, said = answer(raw)

    assert (status, said) == (400, b'{"error": "this is no HTTP/1.1 request"}')


def test_an_old_client_gets_its_whole_answer_and_the_end(served: Any, asked: bytes) -> None:
    with opened(served) as raw:
        raw.sendall(f"POST {INFER} HTTP/1.0\r\nContent-Length: {len(asked)}\r\n\r\n".encode() + asked)
        data = b""
        while piece := raw.recv(65536):
            data += piece

    assert b"connection: close\r\n" in data
    assert json.loads(data.split(b"\r\n\r\n")[1])["model_version"] == "1.0.0"


def connected(app: ASGIApp, client: socket.socket, server: socket.socket, talk: Callable[[Connection], Any]) -> None:
    """What `talk` does while one end is served by an application of the test's own."""

    async def both() -> None:
        loop = asyncio.get_running_loop()
        client.setblocking(False)
        state = ServerState()
        _, protocol = await loop.create_connection(lambda: Connection(uvicorn.Config(app, ws="none"), state, {}), sock=server)
        async with asyncio.timeout(60):
            await talk(protocol)
        protocol.transport.abort()
        await asyncio.gather(*state.tasks)

    with client, server:
        asyncio.run(both())


def without_pause(transport: Any, pieces: Any) -> None:
    """`writelines` as Python 3.12.0 to 3.12.8 have it: whoever wrote is not told that nobody reads."""
    transport._maybe_pause_protocol = lambda: None
    transport.write(b"".join(pieces))


def test_who_reads_no_answers_has_one_of_them_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.selector_events._SelectorSocketTransport, "writelines", without_pause)  # type: ignore[attr-defined]
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await scope["extensions"][WHOLE].answer(200, [(b"content-length", b"%d" % 2**24)], [b"x" * 2**24])

    client, server = socket.socketpair()

    async def talk(protocol: Connection) -> None:
        client.sendall(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\n")
        while len(asked) < 2:
            await asyncio.sleep(0.01)

        assert protocol.flow.write_paused
        assert asked == ["/1", "/2"]

    connected(app, client, server, talk)


@pytest.mark.parametrize("behind", [f"POST /2 HTTP/1.1\r\nContent-Length: {2**22}\r\n\r\n".encode(), b"\0"], ids=["a request", "no HTTP"])
def test_little_is_read_behind_a_request_that_is_being_answered(behind: bytes) -> None:
    told, read = asyncio.Event(), {"/1": 0, "/2": 0}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            read[scope["path"]] += len(message["body"])
            more = message["more_body"]
        await told.wait()
        await scope["extensions"][WHOLE].answer(200, [(b"content-length", b"0")], [])

    client, server = socket.socketpair()

    async def talk(protocol: Connection) -> None:
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(loop.sock_sendall(client, b"GET /1 HTTP/1.1\r\n\r\n" + behind + b"x" * 2**22))
        while not protocol.flow.read_paused:
            await asyncio.sleep(0.01)

        assert not sending.done()
        assert protocol.cycle is None or protocol.cycle.body_bytes < 2**20
        told.set()
        while not (protocol.transport.is_closing() or read["/2"] == 2**22):
            await asyncio.sleep(0.01)
        sending.cancel()

    connected(app, client, server, talk)
    assert read == {"/1": 0, "/2": 2**22 if behind != b"\0" else 0}


def post(path: str, body: bytes, *fields: str) -> bytes:
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *fields])
    return f"{head}\r\n\r\n".encode() + body


LIKE = post("/a", b"one")
ALIKE = {
    "the same head": [LIKE, post("/a", b"two"), post("/a", b"GET")],
    "another path of the same length": [LIKE, LIKE, post("/b", b"two"), LIKE],
    "another size of the body": [LIKE, LIKE, post("/a", b"more"), post("/a", b"one")],
    "a head and its body apart": [LIKE, LIKE, LIKE[:-3], b"two", LIKE, LIKE[:20], LIKE[20:], LIKE],
    "two at once": [LIKE, LIKE, LIKE + LIKE, LIKE],
    "one and a half at once": [LIKE, LIKE + LIKE[:20], LIKE[20:], LIKE],
    "a body that ends as a head does": [post("/a", b"\r\n\r\n"), post("/a", b"abcd"), post("/a", b"\r\n\r\n")],
    "empty lines around it": [b"\r\n" + LIKE, LIKE + b"\r\n", LIKE, b"\r\n" + LIKE, LIKE],
    "chunks between": [LIKE, LIKE, b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", LIKE],
    "an offer between": [LIKE, LIKE, post("/u", b"two", "Connection: Upgrade", "Upgrade: h2c"), LIKE],
    "one that waits for 100 between": [LIKE, LIKE, post("/e", b"two", "Expect: 100-continue"), LIKE],
}


def echoed(sent: list[bytes], requests: int) -> bytes:
    """What an application that repeats what it is asked answers to these writes, each made when the one before was taken."""
    client, server = socket.socketpair()
    received: list[bytes] = []
    taken = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        cycle = scope["extensions"][WHOLE]
        body = cycle.whole_body()
        while body is None or cycle.more_body:
            body = (body or b"") + (await receive())["body"]
        said = [scope["method"].encode(), scope["raw_path"], b"%r" % scope["headers"], body]
        await cycle.answer(200, [(b"content-length", b"%d" % len(b" ".join(said)))], [b" ".join(said)])
        received.append(b"")
        taken.set()

    async def talk(protocol: Connection) -> None:
        loop = asyncio.get_running_loop()
        for piece in sent:
            await loop.sock_sendall(client, piece)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):  # which of these pieces are a whole request is what is tried
                    await taken.wait()
            taken.clear()
        while len(received) < requests and not protocol.transport.is_closing():
            await asyncio.sleep(0.01)
        protocol.transport.write(b"end")
        data = b""
        while not data.endswith(b"end") and (piece := await loop.sock_recv(client, 65536)):
            data += piece
        received[:] = [data]

    connected(app, client, server, talk)
    return re.sub(rb"date: [^\r]*\r\n", b"", received[0])


@pytest.mark.parametrize("what", ALIKE)
def test_a_head_that_was_read_before_is_read_alike(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = b"".join(ALIKE[what]).count(b"POST")

    found = echoed(ALIKE[what], requests)

    monkeypatch.setattr(connection, "HEAD_BYTES_KEPT", 0)
    assert found == echoed(ALIKE[what], requests)
    assert found.count(b"HTTP/1.1 200") == requests


def test_only_a_head_that_can_be_read_one_way_is_kept() -> None:
    kept = {}
    for what, first in {
        "plain": LIKE,
        "chunks": ALIKE["chunks between"][2],
        "close": post("/a", b"one", "Connection: close"),
        "empty lines": b"\r\n" + LIKE,
    }.items():
        client, server = socket.socketpair()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await scope["extensions"][WHOLE].answer(200, [(b"content-length", b"0")], [])

        async def talk(protocol: Connection, what: str = what, client: socket.socket = client, first: bytes = first) -> None:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, first)
            await loop.sock_recv(client, 100)
            kept[what] = protocol._known.data if protocol._known is not None else None

        connected(app, client, server, talk)

    assert kept == {"plain": LIKE[:-3], "chunks": None, "close": None, "empty lines": b"\r\n" + LIKE[:-3]}


def test_a_client_that_has_just_connected_is_answered_once_when_the_server_ends() -> None:
    running = server.Server(server.Listen(port=0), node="ewr-1", on_rows=lambda seen: None)
    running.start()
    address = ("127.0.0.1", running.port)
    with socket.create_connection(address, timeout=30) as first, socket.create_connection(address, timeout=30) as silent:
        first.sendall(READY + b"\r\n")
        known = answer(first)[0]
        with socket.create_connection(address, timeout=30) as late:
            late.sendall(READY)  # a part of its head: the server has taken it
            time.sleep(0.3)
            began = time.monotonic()
            ending = threading.Thread(target=running.stop)
            ending.start()
            until("the end of what is idle", lambda: first.recv(1) == b"")
            late.sendall(b"\r\n")
            status, _ = answer(late)
            assert late.recv(1) == b""  # and nothing after it
            assert silent.recv(1) == b""
        ending.join(30)

    assert status == known
    assert not ending.is_alive()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("times", [1, 3])
def test_whoever_closes_the_sending_side_behind_whole_requests_is_answered(served: Any, asked: bytes, times: int) -> None:
    request = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(asked))
    with opened(served) as raw:
        raw.sendall((request + asked) * times)
        raw.shutdown(socket.SHUT_WR)
        came = b"".join(iter(lambda: raw.recv(65536), b""))

    assert came.count(b"HTTP/1.1 200 OK") == times
    assert came.count(b'"outputs"') == times


@pytest.mark.parametrize(
    "begun",
    ["", "GET /v2/health/ready HTTP/1.1\r\nHost: local", f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{"],
)
def test_whoever_closes_the_sending_side_in_a_request_or_between_is_let_go(served: Any, begun: str) -> None:
    with opened(served) as raw:
        raw.sendall(READY + b"\r\n")
        assert answer(raw)[0] == 200
        raw.sendall(begun.encode())
        began = time.monotonic()
        raw.shutdown(socket.SHUT_WR)
        assert raw.recv(4096) == b""
    assert time.monotonic() - began < 10  # An idle connection has 75 s.
