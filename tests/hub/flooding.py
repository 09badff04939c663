"""A node that floods: real MQTT 5 packets from a process of its own, as fast as the broker takes them, with an end of its own."""

import contextlib
import multiprocessing
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetcast.mqtt_connection import TlsFiles
from schemas import codec
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import Profile, Slot, State
from schemas.topics import Topics
from tests.brokers import Broker

STATE_BYTES = 15_000
SECONDS_MAX = 100.0  # a flood ends by itself
WINDOW = 1000


def large_state(name: str, key: ec.EllipticCurvePrivateKey, *, session: int = 1) -> bytes:
    """A valid state of about 15 KB; each session's is news to the hub."""
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    labels = {f"l{number}-".ljust(60, "x"): "y" * 60 for number in range(32)}
    slots = tuple(
        Slot(model=f"m{number}-".ljust(60, "x"), state="idle", code="z" * 64, serving=bytes(32), target=bytes(32), last_good=bytes(32))
        for number in range(32)
    )
    profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels=labels)
    state = State(node=name, session=session, status="online", at=int(time.time()), public_key=public, profile=profile, slots=slots)
    found = codec.encode(state)
    assert len(found) > STATE_BYTES * 0.8
    return found


def many_states(name: str, key: ec.EllipticCurvePrivateKey, count: int = 500) -> list[bytes]:
    """Different ones, so that each that is taken in is written down."""
    return [large_state(name, key, session=session) for session in range(1, count + 1)]


def signed_receipts(name: str, key: ec.EllipticCurvePrivateKey, count: int) -> list[bytes]:
    """Valid receipts, each of its own sequence number."""
    found = []
    for sequence in range(1, count + 1):
        body = codec.encode(Receipt(node=name, sequence=sequence, at=1, outcome="refused", code="disk.full"))
        found.append(codec.encode(SealedReceipt(body=body, signature=key.sign(body, ec.ECDSA(hashes.SHA256())))))
    return found


def publish_packet(topic: str, payload: bytes, *, mid: int | None = None) -> bytes:
    """One PUBLISH, of QoS 1 where it has an id."""
    name = topic.encode()
    variable = len(name).to_bytes(2, "big") + name + (b"" if mid is None else mid.to_bytes(2, "big")) + b"\x00"
    return bytes([0x30 if mid is None else 0x32]) + _length(len(variable) + len(payload)) + variable + payload


class Flood:
    """One connection that sends, in the process that makes it."""

    def __init__(self, url: str, tls: TlsFiles | None, name: str) -> None:
        at = urlsplit(url)
        self._socket = socket.create_connection((at.hostname or "", at.port or 1883), timeout=60)
        if tls is not None:
            context = ssl.create_default_context(cafile=tls.ca)
            context.check_hostname = False
            context.load_cert_chain(tls.certificate, tls.key)
            self._socket = context.wrap_socket(self._socket)
        client = name.encode()
        variable = b"\x00\x04MQTT\x05\x02\x00\x3c\x00" + len(client).to_bytes(2, "big") + client
        self._socket.sendall(b"\x10" + _length(len(variable)) + variable)
        assert self._socket.recv(4096)[:1] == b"\x20", "no CONNACK"

    def send(self, packet: bytes) -> None:
        """One packet."""
        self._socket.sendall(packet)

    def subscribe(self, topic_filter: str, *, qos: int) -> None:
        """Subscribe, and read nothing of what comes but the broker's answer."""
        name = topic_filter.encode()
        variable = b"\x00\x01\x00" + len(name).to_bytes(2, "big") + name + bytes([qos])
        self._socket.sendall(b"\x82" + _length(len(variable)) + variable)
        assert self._socket.recv(5)[:1] == b"\x90", "no SUBACK"

    def ping(self) -> None:
        """Return when the broker has handled what was sent before; what it has sent meanwhile is read and dropped."""
        self._socket.sendall(b"\xc0\x00")
        rest = b""
        while not rest.endswith(b"\xd0\x00"):
            data = self._socket.recv(65536)
            assert data, "the broker has ended the connection"
            rest = rest[-1:] + data

    def close(self) -> None:
        """Leave without a word."""
        self._socket.close()

    def repeat(self, packets: list[bytes], *, rate: float, seconds: float, sent: Any, count: int | None = None) -> None:
        """The same packets again and again, at most so many a second, and no more of them than `count`."""
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds and (count is None or sent.value < count):
            if sent.value >= (now - began) * rate:
                time.sleep(0.002)
                continue
            self._socket.sendall(packets[sent.value % len(packets)])
            sent.value += 1

    def send_all(self, topic: str, payloads: list[bytes], *, sent: Any) -> None:
        """At QoS 1, at most `WINDOW` ahead of the broker's PUBACKs."""
        taken = [0]

        def read() -> None:
            rest = b""
            while taken[0] < len(payloads) and (data := self._socket.recv(65536)):
                rest += data
                while len(rest) >= 2 and len(rest) >= 2 + rest[1]:
                    taken[0] += rest[0] == 0x40
                    rest = rest[2 + rest[1] :]

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        for number, payload in enumerate(payloads):
            while sent.value - taken[0] >= WINDOW:
                time.sleep(0.001)
            self._socket.sendall(publish_packet(topic, payload, mid=number % 65535 + 1))
            sent.value += 1
        reader.join(60)


def _states(url: str, tls: TlsFiles | None, topic: str, states: list[bytes], rate: float, sent: Any) -> None:
    Flood(url, tls, topic.split("/")[-2]).repeat([publish_packet(topic, one) for one in states], rate=rate, seconds=SECONDS_MAX, sent=sent)


def _receipts(url: str, tls: TlsFiles | None, topic: str, receipts: list[bytes], rate: float, sent: Any) -> None:
    Flood(url, tls, topic.split("/")[-2]).send_all(topic, receipts, sent=sent)


@contextlib.contextmanager
def _flood(run: Callable[..., None], broker: Broker, name: str, topic: str, payloads: list[bytes], rate: float) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    sent = context.Value("l", 0, lock=False)
    process = context.Process(target=run, args=(broker.url(name), broker.tls(name), topic, payloads, rate, sent), daemon=True)
    process.start()
    try:
        yield sent
    finally:
        process.kill()
        process.join(60)


def flood_of_states(broker: Broker, topics: Topics, name: str, *, rate: float) -> contextlib.AbstractContextManager[Any]:
    """States at QoS 0 for as long as the block runs, from another process; yields how many were sent."""
    states = many_states(name, ec.generate_private_key(ec.SECP256R1()))
    return _flood(_states, broker, name, topics.state(name), states, rate)


def flood_of_receipts(broker: Broker, topics: Topics, name: str, receipts: list[bytes]) -> contextlib.AbstractContextManager[Any]:
    """Receipts at QoS 1, as fast as the broker takes them, from another process; yields how many were sent."""
    return _flood(_receipts, broker, name, topics.receipt(name), receipts, 0.0)


def _length(number: int) -> bytes:
    found = bytearray()
    while True:
        number, digit = divmod(number, 128)
        found.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(found)
