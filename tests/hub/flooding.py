"""A node that floods: real MQTT 5 packets over a plain socket, as fast as the broker takes them, with an end of its own."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from schemas import codec
from schemas.mqtt import TlsFiles
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import Profile, Slot, State
from tests.brokers import Broker

STATE_BYTES = 15_000


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
    """One connection that sends; `stop` or the end of what it has to send ends it."""

    def __init__(self, url: str, tls: TlsFiles | None, name: str) -> None:
        at = urlsplit(url)
        self.socket = socket.create_connection((at.hostname or "", at.port or 1883), timeout=60)
        if tls is not None:
            context = ssl.create_default_context(cafile=tls.ca)
            context.check_hostname = False
            context.load_cert_chain(tls.certificate, tls.key)
            self.socket = context.wrap_socket(self.socket)
        client = name.encode()
        variable = b"\x00\x04MQTT\x05\x02\x00\x00\x00" + len(client).to_bytes(2, "big") + client
        self.socket.sendall(b"\x10" + _length(len(variable)) + variable)
        assert self.socket.recv(4096)[:1] == b"\x20", "no CONNACK"
        self.sent = 0
        self._halt = threading.Event()
        self._threads: list[threading.Thread] = []

    def repeat(self, packets: list[bytes], *, count: int, rate: float) -> None:
        """The same packets again and again, so many a second."""
        began = time.monotonic()
        while self.sent < count and not self._halt.is_set():
            due = min(count, int((time.monotonic() - began) * rate) + 1) - self.sent
            if due <= 0:
                time.sleep(0.002)
                continue
            self.socket.sendall(packets[self.sent % len(packets)])
            self.sent += 1

    def send_all(self, topic: str, payloads: list[bytes], *, window: int = 1000) -> None:
        """At QoS 1, at most `window` ahead of the broker's PUBACKs."""
        taken = [0]

        def read() -> None:
            rest = b""
            while taken[0] < len(payloads) and (data := self.socket.recv(65536)):
                rest += data
                while len(rest) >= 2 and len(rest) >= 2 + rest[1]:
                    taken[0] += rest[0] == 0x40
                    rest = rest[2 + rest[1] :]

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        for number, payload in enumerate(payloads):
            while self.sent - taken[0] >= window and not self._halt.is_set():
                time.sleep(0.001)
            self.socket.sendall(publish_packet(topic, payload, mid=number % 65535 + 1))
            self.sent += 1
        reader.join(60)

    def in_background(self, packets: list[bytes], *, count: int, rate: float) -> None:
        """`repeat`, meanwhile."""

        def run() -> None:
            with contextlib.suppress(OSError):
                self.repeat(packets, count=count, rate=rate)

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def in_background_all(self, topic: str, payloads: list[bytes]) -> None:
        """`send_all`, meanwhile."""

        def run() -> None:
            with contextlib.suppress(OSError):
                self.send_all(topic, payloads)

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def stop(self) -> None:
        """Send no more."""
        self._halt.set()
        for thread in self._threads:
            thread.join(60)
        self.socket.close()


@contextlib.contextmanager
def flood(broker: Broker, name: str) -> Iterator[Flood]:
    """Connected as this node for as long as the block runs."""
    found = Flood(broker.url(name), broker.tls(name), name)
    try:
        yield found
    finally:
        found.stop()


def _length(number: int) -> bytes:
    found = bytearray()
    while True:
        number, digit = divmod(number, 128)
        found.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(found)
