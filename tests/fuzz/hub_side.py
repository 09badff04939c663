"""Decoders of what a hub is sent at its enrolment endpoint, of what its operators' files hold, and of what a hub answers to devices."""

import asyncio
import functools
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from hub.cli.check import read_profiles
from hub.publish.foreign_models import check_gguf
from hub.publish.golden_prompts import read_prompts
from hub.publish.onnx_model import external_data
from hub.publish.reference_accuracy import read_counts
from hub.publish.reference_data import read_reference
from hub.publish.release_file import read_release
from hub.service.enrol.https_endpoint import Endpoint
from hub.settings import load
from hub.signing.certificate_authority import requested_key
from node.enrol import certificates
from schemas import codec
from schemas.enrolment import (
    AUTHORITY_PATH,
    ENROL_PATH,
    RENEW_PATH,
    RENEWAL_CONTEXT,
    STATEMENT_CONTEXT,
    TIME_PATH,
    AuthorityCertificate,
    Enrolled,
    EnrolmentRefused,
    EnrolmentRequest,
    Hello,
    Renewal,
    SealedRenewal,
    SignedStatement,
    Statement,
)
from schemas.errors import FleetcastError, Refused
from schemas.manifest import Tensor
from tests.fuzz.files import TOML_TOKENS, file_with
from tests.fuzz.models import external_onnx_file, golden_files, onnx_file, tensor_files
from tests.fuzz.mutations import Msgpack, Raw, Text
from tests.fuzz.target import Target
from tests.offices import Registry, new_key

PATHS = (AUTHORITY_PATH, TIME_PATH, ENROL_PATH, RENEW_PATH, "/")
STATUSES = {200, 400, 403, 404, 405, 408, 413, 429, 503}


@functools.cache
def _registry() -> Registry:
    return Registry(Path(tempfile.mkdtemp(prefix="fuzz-office-")) / "hub")


@functools.cache
def _client() -> httpx.AsyncClient:
    seconds = itertools.count(step=100_000)  # Nobody is kept waiting for what another input did.
    folder = _registry().directory
    endpoint = Endpoint(_registry().office, listen="127.0.0.1:0", certificate=folder, key=folder, monotonic=lambda: float(next(seconds)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=endpoint._application()), base_url="http://hub")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _enrolment(data: bytes) -> None:
    """The first byte chooses the path."""
    path = PATHS[data[0] % len(PATHS)] if data else PATHS[0]
    method = "GET" if path == AUTHORITY_PATH else "POST"
    answer = _loop().run_until_complete(_client().request(method, path, content=data[1:]))
    assert answer.status_code in STATUSES, answer.status_code
    if answer.status_code in {400, 403} and answer.content:
        codec.decode(EnrolmentRefused, answer.content)


def _csr(key: Any, name: str = "gate-17") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


@functools.cache
def _device() -> Any:
    return new_key()


def _enrolment_seeds() -> list[bytes]:
    office, key = _registry().office, _device()
    token = _registry().token()
    enrolled = office.enrol(EnrolmentRequest(secret=token.secret, request=_csr(key)))
    stated = office.time(Hello(nonce=bytes(32)))
    renewal = Renewal(node=enrolled.node, statement=stated.body, statement_signature=stated.signature, request=_csr(key))
    body = codec.encode(renewal)
    from cryptography.hazmat.primitives.asymmetric import ec

    sealed = SealedRenewal(body=body, signature=key.sign(RENEWAL_CONTEXT + body, ec.ECDSA(hashes.SHA256())))
    asked = EnrolmentRequest(secret=_registry().token("gate-18").secret, request=_csr(new_key()))
    return [b"\0", b"\1" + codec.encode(Hello(nonce=bytes(32))), b"\2" + codec.encode(asked), b"\3" + codec.encode(sealed)]


def _certificate_request(data: bytes) -> None:
    requested_key(data)


def _csr_seeds() -> list[bytes]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    keys = (_device(), ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048))
    ed = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(ed25519.Ed25519PrivateKey.generate(), None)
    return [*(_csr(key) for key in keys), ed.public_bytes(serialization.Encoding.DER)]


# What a device is answered, before and after it has seen the authority


def _answers(data: bytes) -> None:
    """The first byte chooses the answer."""
    registry, body = _registry(), data[1:]
    match data[0] % 4 if data else 0:
        case 0:
            certificates.check_pin(codec.decode(AuthorityCertificate, body), registry.pin)
        case 1:
            certificates.certified(codec.decode(Enrolled, body), at=int(registry.wall()))
        case 2:
            signed = codec.decode(SignedStatement, body)
            certificates.signed_time(signed, authority=registry.authority.root, nonce=bytes(32))
        case _:
            certificates.ends_of(body)
            certificates.pem_of(body)


def _answer_seeds() -> list[bytes]:
    office = _registry().office
    token = _registry().token("gate-19")
    enrolled = office.enrol(EnrolmentRequest(secret=token.secret, request=_csr(_device())))
    stated = office.time(Hello(nonce=bytes(32)))
    body = codec.encode(Statement(fleet="main", nonce=bytes(32), at=int(_registry().wall())))
    again = SignedStatement(body=body, signature=_registry().authority.sign(STATEMENT_CONTEXT + body), issuer=stated.issuer)
    documents = [office.certificate(), enrolled, stated]
    found = [bytes([number]) + codec.encode(one) for number, one in enumerate(documents)]
    return [*found, b"\2" + codec.encode(again), b"\3" + enrolled.certificate, b"\3" + enrolled.authority]


# Files of operators and publishers


def _settings(data: bytes) -> None:
    load(file_with("fleet.toml", data).parent)


def _release(data: bytes) -> None:
    file_with("model.onnx", onnx_file())
    read_release(file_with("release.toml", data), {})


def _profiles(data: bytes) -> None:
    read_profiles(file_with("profiles.toml", data))


PROMPT, ANSWER = Tensor(name="prompt", datatype="BYTES", shape=(-1,)), Tensor(name="text", datatype="BYTES", shape=(-1,))


def _prompts(data: bytes) -> None:
    for name in ("prompts.toml", "prompts.json"):
        try:
            read_prompts(file_with(name, data), (PROMPT,), (ANSWER,))
        except Refused:
            continue


def _counts(data: bytes) -> None:
    found = read_counts(file_with("counts.csv", data))
    assert all(0 <= one <= 2**53 for row in found for one in row)


def _reference(data: bytes) -> None:
    read_reference(file_with("reference.csv", data))


def _npz(data: bytes) -> None:
    read_reference(file_with("reference.npz", data))


def _npz_seeds() -> list[bytes]:
    return list(golden_files())


def _onnx(data: bytes) -> None:
    external_data(file_with("model.onnx", data))


def _gguf(data: bytes) -> None:
    check_gguf(file_with("model.gguf", data))


FLEET_TOML = b"""fleet = "main"
enrolment = "open"
enrolment_listen = "127.0.0.1:8443"
cohort_nodes_min = 20

[[webhooks]]
url = "https://example.test/hook"
secret_file = "secret"
"""
RELEASE_TOML = b"""model = "model.onnx"
name = "delay"
version = "1.0.0"

[privacy]
epsilon = 1.0

[[variant]]
name = "fp32"
"""
PROFILES_TOML = b'[pi4]\narch = "aarch64"\ncores = 4\nmemory_bytes = 1073741824\nslowdown = 8.0\n'
PROMPTS_TOML = b'text_agreement_min = 0.5\n[[prompts]]\nprompt = "hi"\nanswer = "hello"\n'
PROMPTS_JSON = json.dumps({"prompts": [{"prompt": "hi", "answer": "hello"}]}).encode()
CSV_TOKENS = (
    ",",
    "\n",
    "\r\n",
    '"',
    "right",
    "wrong",
    "0",
    "00000000000000000000",
    "9",
    "1e5",
    "-",
    "nan",
    "true",
    "2026-01-01",
    "\0",
    "é",
    ";",
)
CSV = b"right,wrong\n3,1\n4,0\n"
TABLE = b"a,b,when\n" + b"".join(b"%d,%d.5,2026-01-%02d\n" % (row, row % 5, 1 + row % 28) for row in range(70))
KNOWN = (Refused,)
TARGETS = (
    Target("enrolment_endpoint", _enrolment, _enrolment_seeds, Msgpack(prefix=1), ()),
    Target("certificate_requests", _certificate_request, _csr_seeds, Raw()),
    Target("enrolment_answers", _answers, _answer_seeds, Msgpack(prefix=1), (FleetcastError,)),
    Target("hub_settings", _settings, lambda: [FLEET_TOML], Text(TOML_TOKENS)),
    Target("release_files", _release, lambda: [RELEASE_TOML], Text((*TOML_TOKENS, "golden", "reference", "accuracy", "build", "int8"))),
    Target("device_profiles", _profiles, lambda: [PROFILES_TOML], Text(TOML_TOKENS)),
    Target("golden_prompts", _prompts, lambda: [PROMPTS_TOML, PROMPTS_JSON], Text((*TOML_TOKENS, "prompts", "answer"))),
    Target("counts_tables", _counts, lambda: [CSV], Text(CSV_TOKENS)),
    Target("reference_tables", _reference, lambda: [TABLE], Text(CSV_TOKENS)),
    Target("reference_arrays", _npz, _npz_seeds, Raw()),
    Target("onnx_models", _onnx, lambda: [onnx_file(), external_onnx_file()], Raw()),
    Target("gguf_models", _gguf, tensor_files, Raw()),
)
