"""A fleet with a certificate authority, and its HTTPS endpoint running in this process on loopback. Real, but for the clock where asked."""

import contextlib
import http.client
import secrets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from hub.database.enrolments import Enrolments, Place
from hub.database.store import Store
from hub.service.enrol.enrolment_api import Office
from hub.service.enrol.https_endpoint import Endpoint
from hub.signing import certificate_authority as x
from hub.signing.certificate_authority import Authority
from hub.signing.keys import create_tls_key, load_p256
from hub.signing.tuf_repository import Repository
from schemas.enrolment import Token, pin_of
from schemas.names import sha256
from tests.databases import url_of

FLEET = "main"
BROKER = "mqtts://127.0.0.1:8883"


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(slots=True)
class Wall:
    """A clock that a test may move; it stands still otherwise, unless it was never moved."""

    shift: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.shift


@dataclass(slots=True)
class Registry:
    """A fleet's folder, its authority and what it wrote down; `port` is of its endpoint while that runs."""

    directory: Path
    fleet: str = FLEET
    wall: Wall = field(default_factory=Wall)
    certificate_days: float = 90.0
    way_back_days: float = 400.0
    broker: str = BROKER
    port: int = 0
    endpoint: Endpoint | None = None
    root_key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    issuer_key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        x.create(self.directory, fleet=self.fleet, root=self.root_key, issuer=self.issuer_key, now=self.now)
        Store(url_of(self.directory / "hub.sqlite")).create()
        signers = [CryptoSigner.generate_ed25519() for _ in range(5)]
        Repository.create(
            self.directory / "trust",
            root_signers=signers[:1],
            threshold=1,
            targets=signers[1],
            snapshot=signers[2],
            timestamp=signers[3],
            rollouts=signers[4],
            team=CryptoSigner.generate_ed25519().public_key,
            models=["delay"],
            now=datetime.now(UTC),
        )

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)

    @property
    def authority(self) -> Authority:
        return Authority(self.directory, self.issuer_key, fleet=self.fleet)

    @property
    def pin(self) -> bytes:
        certificate = x.load_certificate(self.directory / "ca.crt")
        return pin_of(x.public_der(certificate), sha256(Repository(self.directory / "trust").root()))

    @property
    def enrolments(self) -> Enrolments:
        return Enrolments(Store(url_of(self.directory / "hub.sqlite"), clock=self.wall).database)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def office(self) -> Office:
        return Office(
            authority=self.authority,
            enrolments=self.enrolments,
            repository=Repository(self.directory / "trust"),
            broker_url=self.broker,
            certificate_days=self.certificate_days,
            way_back_days=self.way_back_days,
            wall=self.wall,
        )

    def token(self, node: str = "gate-17", *, seconds: int = 3600, cohort: str = "", labels: dict[str, str] | None = None) -> Token:
        token = Token(self.pin, secrets.token_bytes(32))
        place = Place(node, cohort, labels or {})
        self.enrolments.add_tokens([(token.digest, place)], expires_at=int(self.wall()) + seconds)
        return token

    @contextlib.contextmanager
    def running(self, *names: str) -> Iterator["Registry"]:
        """The endpoint, with a certificate for these names or for 127.0.0.1."""
        certificate, key = self.directory / "tls" / "enrolment.crt", self.directory / "tls" / "enrolment.key"
        if not key.exists():
            key.parent.mkdir(exist_ok=True)
            create_tls_key(key)
        made = self.authority.server(names or ("127.0.0.1",), spki(load_p256(key)), now=self.now)
        certificate.write_bytes(self.authority.chain_pem(made.certificate))
        self.endpoint = Endpoint(self.office, listen="127.0.0.1:0", certificate=certificate, key=key, monotonic=time.monotonic)
        self.endpoint.start()
        self.port = self.endpoint.port
        try:
            yield self
        finally:
            self.endpoint.stop()

    def connection(self, *, timeout: float = 60.0) -> http.client.HTTPSConnection:
        """What a stranger opens."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=self.directory / "ca.crt")
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=timeout)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request, and what came of it."""
        connection = self.connection()
        connection.request(method, path, body)
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found
