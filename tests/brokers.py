"""Real brokers on loopback for tests: mosquitto with the very files of broker-config/, and the one embedded in the hub. No mocks."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal, Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleetcast.mqtt_connection import TlsFiles
from hub.service.broker.rumqttd import EmbeddedBroker
from schemas import topics

CONFIG = Path(__file__).parents[1] / "broker-config"
FLEET = "main"
PORTS = range(10_000, 32_700, 100)  # where each block of ports begins
Kind = Literal["mosquitto", "embedded"]
KINDS: tuple[Kind, ...] = ("mosquitto", "embedded")
CONSUMER = topics.CONSUMER


def mainly(kind: Kind) -> pytest.MarkDecorator:
    """Run a test of which the broker decides little over this kind in `make test`, and over the other in `make test-slow`."""
    return pytest.mark.parametrize(
        "broker", [pytest.param(one, marks=() if one == kind else pytest.mark.slow) for one in KINDS], indirect=True
    )


class Broker(Protocol):
    """What a test may do to a broker; `user` is the certificate's CN where there are certificates."""

    kind: Kind

    def start(self) -> None:
        """Start it with nothing in its memory, and wait until it answers."""

    def stop(self) -> None:
        """End it in order."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def restart(self) -> None:
        """Kill it and start it again: it has forgotten everything."""

    def url(self, user: str = "hub") -> str:
        """Where this user connects."""

    def tls(self, user: str = "hub") -> TlsFiles | None:
        """This user's certificate; None where the broker knows none."""


@dataclass(slots=True)
class Authority:
    """A certificate authority in a folder, for one test."""

    directory: Path
    name: str = "fleetcast test CA"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        builder = self._builder(self.name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        made = builder.sign(self._key, hashes.SHA256())
        self.ca_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        nobody = x509.CertificateRevocationListBuilder().issuer_name(made.subject).last_update(made.not_valid_before_utc)
        crl = nobody.next_update(made.not_valid_after_utc).sign(self._key, hashes.SHA256())
        (self.directory / "revoked.crl").write_bytes(crl.public_bytes(serialization.Encoding.PEM))

    @property
    def ca_path(self) -> Path:
        """The authority's own certificate."""
        return self.directory / "ca.crt"

    def issue(self, name: str, *, server: bool = False, hours: tuple[float, float] = (-1, 1), host: str = "localhost") -> TlsFiles:
        """A certificate with this CN, made once, valid from and until so many hours from now."""
        stem = "".join(letter if letter.isalnum() or letter == "-" else f"_{ord(letter):x}" for letter in name)  # a CN may hold a slash
        certificate, key_path = self.directory / f"{stem}.crt", self.directory / f"{stem}.key"
        if not certificate.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            builder = self._builder(name, key.public_key(), hours)
            if server:
                address = [x509.IPAddress(IPv4Address("127.0.0.1"))] if host == "localhost" else []
                names = x509.SubjectAlternativeName([*address, x509.DNSName(host)])
                builder = builder.add_extension(names, critical=False)
            key_path.write_bytes(
                key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            )
            certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return TlsFiles(ca=str(self.ca_path), certificate=str(certificate), key=str(key_path))

    def _builder(self, name: str, key: ec.EllipticCurvePublicKey, hours: tuple[float, float] = (-1, 1)) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(hours=hours[0]))
            .not_valid_after(now + timedelta(hours=hours[1]))
        )


class Mosquitto:
    """Debian's mosquitto, mutual TLS, access lists: as in production, but for its ports."""

    kind: Kind = "mosquitto"

    def __init__(self, directory: Path, fleet: str = FLEET, *, ready: bool = False) -> None:
        """`ready`: certificates and lists are in the folder already."""
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            _missing("mosquitto is not installed: `apt-get install mosquitto` (Debian), then run again")
        self._program = str(program)
        self._directory = directory
        self._port, self._consumer_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if not ready:
            self._authority = Authority(directory / "tls")
            self._authority.issue("server", server=True)
            (directory / "acl").write_text(topics.access_list(fleet))
            (directory / "acl-consumers").write_text(topics.consumer_access_list(fleet))
        text = (CONFIG / "mosquitto.conf").read_text()
        for found, wanted in (("listener 8883\n", self._port), ("listener 8884\n", self._consumer_port)):
            assert text.count(found) == 1, f"mosquitto.conf must say {found!r} once"
            text = text.replace(found, f"listener {wanted} 127.0.0.1\n")
        (directory / "mosquitto.conf").write_text(text + f"\nuser {pwd.getpwuid(os.getuid()).pw_name}\n")

    @property
    def port(self) -> int:
        """Of the hub's and the nodes' listener."""
        return self._port

    def configure(self, line: str) -> None:
        """One more line of configuration, from the next start on."""
        with (self._directory / "mosquitto.conf").open("a") as file:
            file.write(f"{line}\n")

    def write(self, name: str, text: str) -> None:
        """Put another file in the place of one beside its configuration; it reads it when it starts."""
        (self._directory / name).write_text(text)

    def start(self) -> None:
        with (self._directory / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", "mosquitto.conf"], cwd=self._directory, stdout=log, stderr=log)
        for port in (self._port, self._consumer_port):
            deadline = time.monotonic() + 100
            while not answers(port):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"mosquitto did not start:\n{(self._directory / 'mosquitto.log').read_text()}")
                time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(100)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(100)

    def restart(self) -> None:
        self.kill()
        self.start()

    def url(self, user: str = "hub") -> str:
        return f"mqtts://127.0.0.1:{self._consumer_port if user == CONSUMER else self._port}"

    def tls(self, user: str = "hub") -> TlsFiles:
        return self._authority.issue(user)


class Embedded:
    """The hub's own broker, as the hub runs it."""

    kind: Kind = "embedded"

    def __init__(self, directory: Path) -> None:
        self._broker = EmbeddedBroker(free_port(), directory)

    def start(self) -> None:
        self._broker.start()
        self._broker.wait_ready(seconds=100)

    def stop(self) -> None:
        self._broker.stop()

    def kill(self) -> None:
        if self._broker.pid is not None:
            os.kill(self._broker.pid, 9)
            self._broker.stop()

    def restart(self) -> None:
        self.kill()
        self.start()

    def url(self, user: str = "hub") -> str:
        return self._broker.url

    def tls(self, user: str = "hub") -> TlsFiles | None:
        return None


@contextlib.contextmanager
def running(kind: Kind, directory: Path) -> Iterator[Broker]:
    """A broker for the duration of a test."""
    broker: Broker = Mosquitto(directory) if kind == "mosquitto" else Embedded(directory)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment, and that no other process of tests on this machine will be given."""
    for port in _own_ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail(f"all ports between {PORTS.start} and {PORTS.stop} are taken")


def _blocks() -> Iterator[int]:
    """Blocks of ports, below those that the kernel gives away itself, each port once: what was given a moment ago may not be bound yet.

    A block is this process's own for as long as it holds the block's first port bound: other runs on this machine, of this checkout or of
    another, find it taken and go on to the next one.
    """
    for first in PORTS:
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        yield from range(first + 1, first + PORTS.step)


_claims: list[socket.socket] = []
_own_ports = _blocks()


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(what)  # a run that counts must not pass by skipping
    pytest.skip(what)
