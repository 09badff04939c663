"""A device whose clock is wrong, and a broker's certificate: judged by the time that the device trusts, on mosquitto."""

import queue
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetcast.mqtt_connection import BrokerUrl, Connected, Link, TlsFiles
from hub.signing.certificate_issuer import write_list
from hub.signing.keys import create_tls_key, load_p256
from schemas.errors import Refused, Unreachable
from schemas.topics import access_list, consumer_access_list
from tests.broker.client import Client
from tests.brokers import FLEET, Mosquitto, free_port
from tests.offices import Registry, spki

AHEAD = timedelta(days=2)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "fleet")


@pytest.fixture
def broker(registry: Registry) -> Iterator[Mosquitto]:
    """Its certificate begins in two days: what a device sees whose clock lags by two days."""
    folder = registry.directory / "broker"
    write_list(registry.directory, registry.authority, registry.enrolments, now=registry.now)
    (folder / "acl").write_text(access_list(FLEET))
    (folder / "acl-consumers").write_text(consumer_access_list(FLEET))
    (folder / "tls" / "ca.crt").write_bytes((registry.directory / "ca.crt").read_bytes())
    create_tls_key(folder / "tls" / "server.key")
    made = registry.authority.server(["127.0.0.1"], spki(load_p256(folder / "tls" / "server.key")), now=registry.now + AHEAD)
    (folder / "tls" / "server.crt").write_bytes(registry.authority.chain_pem(made.certificate))
    running = Mosquitto(folder, ready=True)
    running.start()
    yield running
    running.stop()


def client(registry: Registry, broker: Mosquitto, now: Callable[[], float] | None) -> Client:
    stem = registry.directory / "node-a"
    if not stem.with_suffix(".key").exists():
        create_tls_key(stem.with_suffix(".key"))
    made = registry.authority.node("node-a", spki(load_p256(stem.with_suffix(".key"))), now=registry.now, days=1)
    stem.with_suffix(".crt").write_bytes(registry.authority.chain_pem(made.certificate))
    inbox: queue.Queue[Any] = queue.Queue()
    files = TlsFiles(str(registry.directory / "ca.crt"), str(stem.with_suffix(".crt")), str(stem.with_suffix(".key")))
    return Client(Link(BrokerUrl.parse(broker.url()), client_id="node-a", inbox=inbox, session_expiry_seconds=0, tls=files, now=now), inbox)


def test_a_device_whose_clock_lags_behind_the_brokers_certificate_still_connects(registry: Registry, broker: Mosquitto) -> None:
    device = client(registry, broker, time.time)

    assert isinstance(device.open(), Connected)
    device.link.drop()


def test_one_that_believes_its_clock_does_not(registry: Registry, broker: Mosquitto) -> None:
    with pytest.raises(Unreachable, match="not yet valid"):
        client(registry, broker, None).link.open()


def test_a_brokers_certificate_that_has_expired_by_trusted_time_is_refused(registry: Registry, broker: Mosquitto) -> None:
    device = client(registry, broker, lambda: time.time() + timedelta(days=800).total_seconds())

    with pytest.raises(Unreachable, match="has expired"):
        device.link.open()


def test_a_certificate_that_was_renewed_is_shown_at_the_next_connection(registry: Registry, broker: Mosquitto) -> None:
    device = client(registry, broker, time.time)
    device.open()
    device.link.drop()
    stem = registry.directory / "node-a"
    good = stem.with_suffix(".crt").read_bytes()

    stem.with_suffix(".crt").write_bytes(b"cut short while it was written by hand")
    with pytest.raises(Unreachable):
        device.link.open()
    stem.with_suffix(".crt").write_bytes(good)

    assert isinstance(device.open(), Connected)
    device.link.drop()


def test_a_broker_that_moved_is_found_and_another_kind_of_connection_is_refused(registry: Registry, broker: Mosquitto) -> None:
    device = client(registry, broker, time.time)
    device.link.move(BrokerUrl("127.0.0.1", free_port(), tls=True))
    with pytest.raises(Unreachable):
        device.link.open()
    device.link.move(BrokerUrl.parse(broker.url()))

    assert isinstance(device.open(), Connected)
    with pytest.raises(Refused, match="other TLS settings"):
        device.link.move(BrokerUrl("127.0.0.1", 1883, tls=False))
    device.link.drop()
