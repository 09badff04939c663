"""Enrols devices: answers what the HTTPS endpoint has received. Knows no HTTP; decisions are hub/core/enrol/enrolment.py's.

Any thread may call it: what must not happen twice is one conditional statement in the database.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from hub.core.enrol import enrolment as rules
from hub.database.enrolments import CertificateRow, Enrolments, Place
from hub.signing.certificate_authority import Authority, requested_key
from hub.signing.device_signatures import is_signed
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.enrolment import (
    RENEWAL_CONTEXT,
    AuthorityCertificate,
    Enrolled,
    EnrolmentRequest,
    Hello,
    Renewal,
    SealedRenewal,
    SignedStatement,
    Statement,
)
from schemas.errors import Code, Refused, Unreachable
from schemas.names import sha256

log = structlog.get_logger()


class Office:
    """Answer the requests of devices that enrol in one fleet."""

    def __init__(
        self,
        *,
        authority: Authority,
        enrolments: Enrolments,
        repository: Repository,
        broker_url: str,
        certificate_days: float,
        way_back_days: float,
        wall: Callable[[], float],
        is_guess: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin. `is_guess`: whether the wall's time is one that no device should be given, and that no certificate should begin at."""
        self._is_guess = is_guess
        self._authority, self._enrolments, self._repository, self._wall = authority, enrolments, repository, wall
        self._broker_url, self._certificate_days, self._way_back_days = broker_url, certificate_days, way_back_days
        self._trust: tuple[int, bytes] | None = None  # encoded at which generation of the repository

    def certificate(self) -> AuthorityCertificate:
        """Return the root's certificate and the first trust root's digest, for a device to compare with its pin."""
        return AuthorityCertificate(certificate=self._authority.root, root=sha256(self._repository.root()))

    def time(self, hello: Hello) -> SignedStatement:
        """Sign the time, for this nonce.

        Raises:
            Unreachable: the hub does not know it yet.
        """
        self._check_clock()
        body = codec.encode(Statement(fleet=self._authority.fleet, nonce=hello.nonce, at=int(self._wall())))
        return SignedStatement(body=body, signature=self._authority.sign(body), issuer=self._authority.issuer)

    def enrol(self, request: EnrolmentRequest) -> Enrolled:
        """Issue a first certificate for a token: once, and again to the same key should the answer have been lost.

        Raises:
            Refused: the token or the request is not good.
            Unreachable: the database does not answer, or the hub does not know the time yet.
        """
        self._check_clock()
        key, digest = requested_key(request.request), sha256(request.secret)
        while True:
            token = self._enrolments.token(digest)
            kind = rules.admit(token.facts if token else None, key, now=int(self._wall()))
            assert token is not None  # noqa: S101  # `admit` refuses an unknown one
            if kind == "again":
                return self._again(token.place, token.facts.serial or "")
            row = self._issue(token.place.node, key)
            if self._enrolments.redeem(digest, token.place, key, row):
                log.info("enrolment.granted", node=token.place.node, serial=row.serial)
                return self._enrolled(token.place, row.certificate)
            # Another device used it in this moment; the next look says which, and cannot find it unused again.

    def renew(self, sealed: SealedRenewal) -> Enrolled:
        """Issue the next certificate for a device that signs with the key that we know it by, expired or not.

        Raises:
            Refused: no such node, another's signature, revoked, or away for too long.
            Unreachable: the database does not answer, another renewal of the node was faster, or the hub does not know the time yet.
        """
        self._check_clock()
        renewal = codec.decode(Renewal, sealed.body)
        if not self._authority.signed(renewal.statement, renewal.statement_signature):
            raise Refused(Code.ENROLMENT_REQUEST, "a renewal with a statement of time that this hub has not signed")
        now = int(self._wall())
        rules.check_statement(codec.decode(Statement, renewal.statement), fleet=self._authority.fleet, now=now)
        requested = requested_key(renewal.request)
        row = self._enrolments.node(renewal.node)
        keys = rules.signing_keys(row.standing if row else None, renewal, requested)
        assert row is not None  # noqa: S101  # `signing_keys` refuses an unknown node
        if not any(is_signed(RENEWAL_CONTEXT + sealed.body, sealed.signature, key) for key in keys):
            raise Refused(Code.ENROLMENT_REQUEST, f"a renewal of node {renewal.node!r} that is not signed by its key")
        granted = rules.may_renew(row.standing, requested, now=now, way_back_days=self._way_back_days)
        if granted.kind == "again":
            return self._again(row.place, row.serial)
        issued = self._issue(renewal.node, granted.key)
        if not self._enrolments.renew(row.standing, granted.key, issued):
            raise Unreachable(f"node {renewal.node!r} was renewed or revoked in this moment: ask again")
        log.info("enrolment.renewed", node=renewal.node, serial=issued.serial, new_key=granted.key != row.standing.public_key)
        return self._enrolled(row.place, issued.certificate)

    def _check_clock(self) -> None:
        """Have devices ask again while the hub can only guess the time: they would take it for theirs, and get expired certificates."""
        if self._is_guess():
            raise Unreachable(
                "the clock of the hub's machine makes no sense yet: see the alert clock.stepped, and ask again in ten minutes"
            )

    def _issue(self, node: str, key: bytes) -> CertificateRow:
        made = self._authority.node(node, key, now=datetime.fromtimestamp(self._wall(), UTC), days=self._certificate_days)
        return CertificateRow.of(serial=made.serial, name=made.name, kind=made.kind, not_after=made.not_after, certificate=made.certificate)

    def _again(self, place: Place, serial: str) -> Enrolled:
        row, certificate = self._enrolments.node(place.node), self._enrolments.certificate(serial)
        if row is None or certificate is None or row.standing.revoked_at is not None:
            raise Refused(Code.ENROLMENT_REVOKED, f"node {place.node!r} was revoked: it needs a new token")
        return self._enrolled(place, certificate)

    def _enrolled(self, place: Place, certificate: bytes) -> Enrolled:
        return Enrolled(
            fleet=self._authority.fleet,
            node=place.node,
            certificate=certificate,
            issuer=self._authority.issuer,
            authority=self._authority.root,
            broker=self._broker_url,
            cohort=place.cohort or None,
            labels=dict(place.labels) or None,
            root=self._repository.root(),
            trust=self._trust_bundle(),
        )

    def _trust_bundle(self) -> bytes:
        generation = self._repository.generation()
        if self._trust is None or self._trust[0] != generation:
            self._trust = (generation, codec.encode(self._repository.trust_bundle()))
        return self._trust[1]
