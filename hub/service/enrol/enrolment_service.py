"""Runs the hub's part in enrolment: the roll that receipts are checked against, the HTTPS endpoint if there is one, certificates that age.

Operators make tokens and revoke nodes in processes of their own; the roll follows the database. Where settings name no endpoint, or the
fleet has no authority, the roll is all there is.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fleetcast import durable
from hub.core.enrol.enrolment import Roll
from hub.core.publish.metadata_expiry import severity_of
from hub.database.device_lives import DeviceLives
from hub.database.enrolments import CertificateRow, Enrolments
from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.enrol.enrolment_api import Office
from hub.service.enrol.https_endpoint import Endpoint
from hub.service.steady_clock import SteadyClock
from hub.settings import HubSettings
from hub.signing.certificate_authority import Authority, Issued, load_certificate
from hub.signing.certificate_issuer import write_list
from hub.signing.keys import create_tls_key, load_p256
from hub.signing.metadata_files import write
from hub.signing.tuf_repository import Repository
from schemas.analytics_messages import Alert
from schemas.errors import Refused

log = structlog.get_logger()

ENDPOINT_DAYS = 30.0  # the life of the endpoint's own certificate, which the hub renews by itself
LOOK_SECONDS = 3600.0  # between two looks at the age of certificates
TOPIC = "enrolment"  # the topic that a refusal names
WATCHED = ("ca.crt", "issuer.crt", "tls/hub.crt", "broker/tls/server.crt")  # that people renew


class Enrolling:
    """Run the enrolment of one hub: its roll of nodes, and its endpoint."""

    def __init__(
        self,
        directory: Path,
        settings: HubSettings,
        *,
        authority: Authority | None,
        store: Store,
        notes: Notes,
        broker_url: str,
        revoked: Callable[[str], None],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.roll = Roll(required=settings.enrolment == "required")
        self._directory, self._settings, self._notes = directory, settings, notes
        self._wall, self._monotonic, self._revoked = wall, monotonic, revoked
        self._enrolments, self._lives = Enrolments(store.database), DeviceLives(store.database)
        self._revision = self._life_revision = 0
        self._looked_at = float("-inf")
        self._warned: dict[str, str] = {}
        self._authority, self._listed = authority, False
        self._was_guess = self._is_guess()
        self._endpoint: Endpoint | None = None
        if authority is not None and settings.enrolment_listen:
            office = Office(
                authority=authority,
                enrolments=self._enrolments,
                repository=Repository(directory / "trust"),
                broker_url=settings.node_broker_url or broker_url,
                certificate_days=settings.certificate_days,
                way_back_days=settings.way_back_days,
                wall=wall,
                is_guess=self._is_guess,
            )
            certificate, key = directory / "tls" / "enrolment.crt", directory / "tls" / "enrolment.key"
            self._endpoint = Endpoint(office, listen=settings.enrolment_listen, certificate=certificate, key=key, monotonic=monotonic)
        self._has_read = False  # nodes that were revoked before we began are no news
        self.follow()
        self._has_read = True

    @property
    def port(self) -> int | None:
        """Return where the endpoint listens; None where there is none."""
        return self._endpoint.port if self._endpoint is not None else None

    def start(self) -> None:
        """Listen, where settings say so.

        Raises:
            Refused: the port is taken, or there is no certificate to be had.
        """
        if self._endpoint is not None:
            self._renew_own(always=True)  # names may have changed since
            self._endpoint.start()

    def stop(self) -> None:
        """Listen no more."""
        if self._endpoint is not None:
            self._endpoint.stop()

    def tick(self) -> None:
        """Take in what operators changed, report what was refused, renew what ages."""
        self.follow()
        if self._was_guess and not self._is_guess():
            self._was_guess, self._looked_at = False, float("-inf")  # What was issued by a guess may have expired.
        if self._authority is not None and not self._listed:
            self._listed = True  # tried once a change, whatever comes of it
            # A device that took another's place has put out the one before: the broker's list is to know.
            now = datetime.fromtimestamp(self._wall(), UTC)
            self._on_disk(lambda authority: write_list(self._directory, authority, self._enrolments, now=now))
        while self._endpoint is not None and not self._endpoint.refused.empty():
            _, refusal = self._endpoint.refused.get_nowait()
            self._notes.refusal(refusal, TOPIC)
        if self._monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self._monotonic()
            self._revision = 0  # all of it once in a while, should a writer have been overtaken
            self._on_disk(lambda authority: self._renew_own(always=False))
            self._warn_of_expiry()
            self._enrolments.prune()

    def _is_guess(self) -> bool:
        return isinstance(self._wall, SteadyClock) and self._wall.is_guess()

    def _on_disk(self, do: Callable[[Authority], object]) -> None:
        """Do what the disk or a folder may refuse (one that belongs to the broker's user): it must not cost the hub its turn."""
        if self._authority is None:
            return
        try:
            do(self._authority)
        except (OSError, Refused) as error:
            log.error("enrolment.write_failed", reason=str(error))

    def follow(self) -> None:
        """Take in what operators and devices changed."""
        self._revision, changed = self._enrolments.changed_since(self._revision)
        for standing in changed:
            was = self.roll.is_revoked(standing.node)
            if self.roll.take(standing):
                self._listed = False
                if self._has_read and standing.revoked_at is not None and not was:
                    log.info("enrolment.revoked", node=standing.node)
                    self._revoked(standing.node)
        self._life_revision, lives = self._lives.changed_since(self._life_revision)
        for life in lives:
            if self.roll.take_life(life) and self._has_read:
                log.info("node.left", node=life.node, state=life.state)
                self._revoked(life.node)

    def _renew_own(self, *, always: bool) -> None:
        """Renew the hub's own certificates, which must not be what keeps a fleet from coming back."""
        if self._endpoint is None or self._authority is None:
            return
        authority, now, folder = self._authority, datetime.fromtimestamp(self._wall(), UTC), self._directory / "tls"
        names = (urlsplit(self._settings.enrolment_url).hostname or "localhost", *self._settings.enrolment_names)
        if always or _is_ageing(folder / "enrolment.crt", now):
            self._issue(folder / "enrolment", authority.chain_pem, lambda key: authority.server(names, key, now=now, days=ENDPOINT_DAYS))
            self._endpoint.reload()
        if self._settings.tls_certificate == str(folder / "hub.crt") and _is_ageing(folder / "hub.crt", now):
            self._issue(
                folder / "hub", authority.chain_pem, lambda key: authority.client("hub", key, now=now)
            )  # the connection reads it when it next opens

    def _issue(self, stem: Path, chain: Callable[[bytes], bytes], make: Callable[[bytes], Issued]) -> None:
        key = stem.with_suffix(".key")
        durable.make_folder(stem.parent, mode=0o700)
        if not key.exists():
            create_tls_key(key)
        public = load_p256(key).public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        made = make(public)
        self._enrolments.add_certificate(
            CertificateRow.of(serial=made.serial, name=made.name, kind=made.kind, not_after=made.not_after, certificate=made.certificate)
        )
        write(stem.with_suffix(".crt"), chain(made.certificate), mode=0o644)
        log.info("certificate.issued", name=made.name, kind=made.kind, expires=made.not_after.isoformat())

    def _warn_of_expiry(self) -> None:
        now = datetime.fromtimestamp(self._wall(), UTC)
        for name in WATCHED:
            try:
                found: x509.Certificate = load_certificate(self._directory / name)
            except Refused:
                continue  # not every fleet has every one
            begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
            severity = severity_of((ends - now) / (ends - begins))
            if self._warned.get(name, "ok") == severity:
                continue
            self._warned[name] = severity
            text = f"certificate {name} expires at {ends.isoformat()}: {severity}; fleetcast ca show says how to renew it"
            self._notes.alert(Alert(kind="key_expiring", at=int(now.timestamp()), code=severity, text=text))


def _is_ageing(certificate: Path, now: datetime) -> bool:
    if not certificate.exists():
        return True
    found = load_certificate(certificate)
    return found.not_valid_after_utc - now < (found.not_valid_after_utc - found.not_valid_before_utc) / 2
