"""The endpoint of a hub that was off for so long that it does not know whether its clock is right: nobody is given a guess for the time."""

import secrets
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hub.core.publish.believed_time import START_SECONDS_HELD
from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.enrol.enrolment_api import Office
from hub.service.enrol.enrolment_service import Enrolling
from hub.service.steady_clock import SteadyClock
from hub.settings import HubSettings
from hub.signing.certificate_authority import load_certificate
from hub.signing.tuf_repository import Repository
from node.enrol.identity import Identity
from schemas import codec
from schemas.enrolment import TIME_PATH, EnrolmentRequest, Hello, SealedRenewal, SignedStatement, Statement
from schemas.errors import Unreachable
from tests.databases import url_of
from tests.offices import FLEET, Registry, new_key

YEAR = 365 * 86_400.0


def test_a_hub_that_was_off_for_a_year_gives_no_time_until_it_follows_its_clock(tmp_path: Path) -> None:
    registry, elapsed = Registry(tmp_path / "fleet"), [0.0]
    clock = SteadyClock(time.time() - YEAR, elapsed=lambda: elapsed[0])
    store = Store(url_of(registry.directory / "hub.sqlite"))
    settings = HubSettings(fleet=FLEET, enrolment_listen="127.0.0.1:0", enrolment_url="https://127.0.0.1")
    enrolling = Enrolling(
        registry.directory,
        settings,
        authority=registry.authority,
        store=store,
        notes=Notes(store, publish=lambda alert: None, clock=time.time),
        broker_url="mqtts://127.0.0.1:1",
        revoked=lambda node: None,
        wall=clock,
        monotonic=time.monotonic,
    )
    hello = codec.encode(Hello(nonce=secrets.token_bytes(32)))
    enrolling.start()
    try:
        registry.port = enrolling.port or 0
        enrolling.tick()
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            registry.ask("POST", TIME_PATH, hello)  # The endpoint's own certificate is of that time, too.
        alert = clock.alert()
        assert alert is not None
        assert "365 days ahead of its newest signature" in alert.text
        assert "for 10 minutes; until then no device can enrol or renew" in alert.text

        elapsed[0] = START_SECONDS_HELD
        enrolling.tick()

        assert clock.alert() is None
        assert load_certificate(registry.directory / "tls" / "enrolment.crt").not_valid_after_utc > datetime.now(UTC)
        status, body = registry.ask("POST", TIME_PATH, hello)
        assert status == 200
        signed = codec.decode(Statement, codec.decode(SignedStatement, body).body)
        assert abs(signed.at - time.time()) < 60
    finally:
        enrolling.stop()
        store.close()


def test_an_office_that_has_only_a_guess_of_the_time_has_devices_ask_again(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "fleet")
    office = Office(
        authority=registry.authority,
        enrolments=registry.enrolments,
        repository=Repository(registry.directory / "trust"),
        broker_url=registry.broker,
        certificate_days=90,
        way_back_days=400,
        wall=registry.wall,
        is_guess=lambda: True,
    )

    for ask in (
        lambda: office.time(Hello(nonce=bytes(32))),
        lambda: office.enrol(EnrolmentRequest(secret=registry.token().secret, request=Identity(new_key()).request())),
        lambda: office.renew(SealedRenewal(body=b"0", signature=b"0")),
    ):
        with pytest.raises(Unreachable, match=r"clock.stepped"):
            ask()
