"""Talk to the hub's HTTPS endpoint: bounded, with deadlines, believed for its authority's sake and not for its address's.

The TLS library checks the chain and the host's name, but not the time, which this device may not know: that is judged by what the hub's
issuer signs for a nonce of ours, on the same connection, before anything else is sent on it.
"""

import http.client
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from urllib.parse import urlsplit

from node.enrol.certificates import check_pin, ends_of, signed_time
from schemas import codec
from schemas.document import Document
from schemas.enrolment import (
    AUTHORITY_PATH,
    ENROL_PATH,
    RENEW_PATH,
    TIME_PATH,
    AuthorityCertificate,
    Enrolled,
    EnrolmentRefused,
    EnrolmentRequest,
    Hello,
    SealedRenewal,
    SignedStatement,
    Statement,
)
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import KIB

D = TypeVar("D", bound=Document)

ANSWER_SECONDS = 30.0  # without a byte; over 20 kbit/s with 2 s of delay a handshake takes 10
EXCHANGE_SECONDS_MAX = 600.0  # A connection's whole time: 1 MiB over 20 kbit/s, and no hub that drips holds us for ever
READ_BYTES = 16 * KIB
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for
_LATER = {408, 425, 429}
MSGPACK = "application/msgpack"


class Session:
    """Hold a connection to a hub that the authority vouches for; `statement` is its word on the time."""

    def __init__(self, connection: http.client.HTTPSConnection, *, authority: bytes) -> None:
        self._connection = connection
        nonce = secrets.token_bytes(32)
        self.signed = _ask(connection, "POST", TIME_PATH, Hello(nonce=nonce), SignedStatement)
        self.statement: Statement = signed_time(self.signed, authority=authority, nonce=nonce)

    def enrol(self, request: EnrolmentRequest) -> Enrolled:
        """Return a first certificate. Not verified.

        Raises:
            Refused: the hub says no.
            Unreachable: it does not say.
        """
        return _ask(self._connection, "POST", ENROL_PATH, request, Enrolled)

    def renew(self, sealed: SealedRenewal) -> Enrolled:
        """Return a next certificate. Not verified.

        Raises:
            Refused: the hub says no.
            Unreachable: it does not say.
        """
        return _ask(self._connection, "POST", RENEW_PATH, sealed, Enrolled)


def authority_of(url: str, *, pin: bytes) -> AuthorityCertificate:
    """Return the authority and the trust root that the pin names, fetched over a connection that nobody vouches for.

    Raises:
        Refused: they are others than the pin says.
        Unreachable: nothing answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with _connected(url, context) as connection:
        found = _ask(connection, "GET", AUTHORITY_PATH, None, AuthorityCertificate)
    check_pin(found, pin)
    return found


@contextmanager
def session(url: str, *, authority: bytes) -> Iterator[Session]:
    """Return a connection to the hub at this URL, once it has proved itself by `authority`, a certificate in DER.

    Raises:
        Refused: CERTIFICATE_INVALID when the authority does not vouch for who answers, or its certificate has expired.
        Unreachable: nothing answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority)
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    with _connected(url, context) as connection:
        presented = connection.sock.getpeercert(binary_form=True) or b""
        opened = Session(connection, authority=authority)
        if ends_of(presented) <= opened.statement.at:
            raise Refused(Code.CERTIFICATE_INVALID, f"hub {url}: its certificate has expired by its own authority's clock")
        yield opened


def check_url(url: str) -> str:
    """Return the URL, if it can be a hub's.

    Raises:
        Refused: it cannot.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme == "https" and parts.hostname and parts.path in {"", "/"} and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise Refused(Code.SETTINGS_INVALID, f"hub {url!r} must look like https://hub.example:8443")
    return url


@contextmanager
def _connected(url: str, context: ssl.SSLContext) -> Iterator[http.client.HTTPSConnection]:
    parts = urlsplit(check_url(url))
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=ANSWER_SECONDS, context=context)
    deadline = threading.Timer(EXCHANGE_SECONDS_MAX, _cut, [connection])
    deadline.daemon = True
    deadline.start()
    try:
        connection.connect()
        yield connection
    except ssl.SSLCertVerificationError as error:
        raise Refused(Code.CERTIFICATE_INVALID, f"hub {url}: the fleet's authority does not vouch for it: {error.verify_message}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"hub {url}: {error or type(error).__name__}") from None
    finally:
        deadline.cancel()
        connection.close()


def _cut(connection: http.client.HTTPSConnection) -> None:
    sock = connection.sock
    if isinstance(sock, socket.socket):
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _ask(connection: http.client.HTTPSConnection, method: str, path: str, body: Document | None, kind: type[D]) -> D:
    headers = {"content-type": MSGPACK} if body is not None else {}
    connection.request(method, path, codec.encode(body) if body is not None else None, headers)
    response = connection.getresponse()
    if response.status == 200:
        return codec.decode(kind, _read(response, kind.bytes_max))
    where = f"hub {connection.host}:{connection.port}"
    if 400 <= response.status < 500 and response.status not in _LATER and response.headers.get_content_type() == MSGPACK:
        refused = codec.decode(EnrolmentRefused, _read(response, EnrolmentRefused.bytes_max))
        # A code of a newer hub that we do not know yet is a refusal all the same.
        code = Code(refused.code) if refused.code in set(Code) else Code.ENROLMENT_REQUEST
        raise Refused(code, refused.reason)
    raise Unreachable(f"{where} answered {response.status}{' (too many tries: later)' if response.status == 429 else ''}")


def _read(response: http.client.HTTPResponse, bytes_max: int) -> bytes:
    found = bytearray()
    while part := response.read(READ_BYTES):
        found += part
        if len(found) > bytes_max:
            raise Refused(Code.SCHEMA_TOO_LARGE, f"the hub's answer is longer than {bytes_max} bytes")
    return bytes(found)
