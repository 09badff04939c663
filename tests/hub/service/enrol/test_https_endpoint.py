"""The HTTPS endpoint, running, under strangers: too much, too slow, too often, nonsense; and a hub's own bug stays its own."""

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import structlog

from hub.service.enrol import https_endpoint as endpoint_module
from node.enrol.identity import Identity
from schemas import codec
from schemas.enrolment import (
    AUTHORITY_PATH,
    ENROL_PATH,
    RENEW_PATH,
    RENEWAL_CONTEXT,
    TIME_PATH,
    AuthorityCertificate,
    EnrolmentRefused,
    EnrolmentRequest,
    Hello,
    Renewal,
    SealedRenewal,
    SignedStatement,
)
from schemas.errors import Code, Unreachable
from tests.offices import Registry

ANOTHER_DOCUMENT = codec.encode(AuthorityCertificate(certificate=b"0", root=bytes(32)))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "fleet").running() as running:
        yield running


def stranger(registry: Registry) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", registry.port), timeout=60))


def ended(connection: ssl.SSLSocket) -> bool:
    """Whether the other side has ended it, by FIN or by RST."""
    try:
        return connection.recv(4096) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def test_anybody_may_have_the_authoritys_certificate(registry: Registry) -> None:
    status, body = registry.ask("GET", AUTHORITY_PATH)

    assert status == 200
    assert codec.decode(AuthorityCertificate, body).certificate == registry.authority.root


@pytest.mark.parametrize("path", [TIME_PATH, ENROL_PATH, RENEW_PATH])
@pytest.mark.parametrize("body", [b"", b"\x00", b"\xc1" * 100, b"GET / HTTP/1.1\r\n\r\n", ANOTHER_DOCUMENT])
def test_nonsense_is_refused_in_words_and_never_with_a_traceback(registry: Registry, path: str, body: bytes) -> None:
    status, answer = registry.ask("POST", path, body)

    assert status == 400
    assert codec.decode(EnrolmentRefused, answer).code.startswith("schema.")
    assert b"Traceback" not in answer


def test_a_body_that_is_too_large_is_refused_before_it_is_read(registry: Registry) -> None:
    with stranger(registry) as connection:
        with suppress(ConnectionError, ssl.SSLError):  # it may be refused before all is sent
            connection.sendall(f"POST {ENROL_PATH} HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000000\r\n\r\n".encode())
            connection.sendall(bytes(200_000))
        answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 413")


def test_a_request_that_drips_is_ended_and_others_are_served_meanwhile(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "REQUEST_SECONDS_MAX", 3.0)
    headers, body = stranger(registry), stranger(registry)
    headers.sendall(b"POST ")
    body.sendall(f"POST {ENROL_PATH} HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nx".encode())

    assert registry.ask("GET", AUTHORITY_PATH)[0] == 200
    assert body.recv(4096).startswith(b"HTTP/1.1 408")
    assert ended(headers)


def test_the_oldest_connection_goes_when_there_are_too_many(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "CONNECTIONS_MAX", 3)
    dripping = [stranger(registry) for _ in range(4)]

    assert registry.ask("GET", AUTHORITY_PATH)[0] == 200
    assert ended(dripping[0])
    for one in dripping:
        one.close()


SILENT = """
import resource, socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
held = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def silent_connections(port: int, count: int) -> Iterator[None]:
    """Connections that never begin their handshake, of another process."""
    with subprocess.Popen(
        [sys.executable, "-c", SILENT, str(port), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(60)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_silent_connections_before_tls_are_bounded_and_others_are_served(registry: Registry) -> None:
    assert registry.endpoint is not None
    before = descriptors()
    with silent_connections(registry.port, 1100):
        served = [registry.ask("GET", AUTHORITY_PATH)[0] for _ in range(3)]

        assert served == [200] * 3
        assert descriptors() - before <= endpoint_module.ADDRESS_CONNECTIONS_MAX + 10
        _, refusal = registry.endpoint.refused.get(timeout=60)
        assert (refusal.code, registry.endpoint.refused.empty()) == (Code.ENROLMENT_CROWDED, True)


def test_a_connection_that_never_begins_its_handshake_is_ended(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(endpoint_module, "HANDSHAKE_SECONDS_MAX", 1.0)
    with Registry(tmp_path / "hasty").running() as hasty, socket.create_connection(("127.0.0.1", hasty.port), timeout=60) as silent:
        assert silent.recv(1) == b""


STARVED = """
import asyncio, os, resource, socket, sys
from hub.service.enrol.bounded_listener import Listener

async def main():
    ended = []
    listener = Listener(
        socket.AF_INET, socket.SOCK_STREAM, 0, connections_max=lambda: 100, address_max=lambda: 100, ended=ended.append
    )
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(lambda reader, writer: None, sock=listener, backlog=100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    taken = []
    while True:
        try:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            break
    print(listener.getsockname()[1], flush=True)
    while len(ended) < 3:
        await asyncio.sleep(0.01)
    for one in taken:
        os.close(one)
    print("saw", len(ended), flush=True)
    while not listener.open_connections:
        await asyncio.sleep(0.01)
    print("served", flush=True)

asyncio.run(main())
"""


def test_without_descriptors_connections_are_ended_and_no_log_is_written() -> None:
    with subprocess.Popen([sys.executable, "-c", STARVED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        port = int(process.stdout.readline())
        for _ in range(3):
            with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=60) as unlucky:
                assert unlucky.recv(1) == b""
        assert process.stdout.readline() == "saw 3\n"
        with socket.create_connection(("127.0.0.1", port), timeout=60):
            assert process.stdout.readline() == "served\n"
        process.kill()
        assert process.stderr.read() == ""


def test_a_token_that_keeps_failing_has_to_wait(registry: Registry) -> None:
    body = codec.encode(EnrolmentRequest(secret=bytes(32), request=b"no request"))

    said = [registry.ask("POST", ENROL_PATH, body)[0] for _ in range(22)]

    assert said == [403] * 20 + [429] * 2


def test_bad_tokens_of_one_device_keep_nobody_behind_its_address_out(registry: Registry, tmp_path: Path) -> None:
    device, token = Identity.load_or_create(tmp_path / "device.pem"), registry.token("gate-18")
    for number in range(30):
        registry.ask("POST", ENROL_PATH, codec.encode(EnrolmentRequest(secret=number.to_bytes(32), request=device.request())))
        registry.ask("POST", RENEW_PATH, codec.encode(SealedRenewal(body=b"nonsense", signature=bytes(70))))

    good = codec.encode(EnrolmentRequest(secret=token.secret, request=device.request()))
    assert registry.ask("GET", AUTHORITY_PATH)[0] == 200
    assert registry.ask("POST", TIME_PATH, codec.encode(Hello(nonce=bytes(32))))[0] == 200
    assert registry.ask("POST", ENROL_PATH, good)[0] == 200
    statement = codec.decode(SignedStatement, registry.ask("POST", TIME_PATH, codec.encode(Hello(nonce=bytes(32))))[1])
    renewal = codec.encode(
        Renewal(node="gate-18", request=device.request(), statement=statement.body, statement_signature=statement.signature)
    )
    sealed = SealedRenewal(body=renewal, signature=device.sign(RENEWAL_CONTEXT + renewal))
    assert registry.ask("POST", RENEW_PATH, codec.encode(sealed))[0] == 200


def test_what_is_not_there_is_not_found(registry: Registry) -> None:
    assert [registry.ask("GET", path)[0] for path in ("/", "/admin", ENROL_PATH)] == [404, 404, 405]


def test_a_bug_of_ours_and_a_database_that_is_away_mean_later_and_say_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret inside")

    def away(*_: object) -> None:
        raise Unreachable("database sqlite:////secret/path: locked")

    hello = codec.encode(Hello(nonce=bytes(32)))
    assert registry.endpoint is not None
    office = registry.endpoint._office
    monkeypatch.setattr(type(office), "certificate", broken)
    first = registry.ask("GET", AUTHORITY_PATH)
    monkeypatch.setattr(type(office), "certificate", away)
    second = registry.ask("GET", AUTHORITY_PATH)

    assert (first, second) == ((500, b""), (503, b""))
    assert registry.ask("POST", TIME_PATH, hello)[0] == 200


def test_what_was_refused_is_told_to_the_hubs_loop_with_its_code(registry: Registry) -> None:
    registry.ask("POST", ENROL_PATH, codec.encode(EnrolmentRequest(secret=bytes(32), request=b"no request")))

    assert registry.endpoint is not None
    address, refusal = registry.endpoint.refused.get(timeout=60)
    assert (address, refusal.code) == ("127.0.0.1", Code.ENROLMENT_REQUEST)
