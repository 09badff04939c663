"""What the fleet's authority issues, judged by OpenSSL's own verifier, and its tables under two devices at once."""

import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from hub.database.enrolments import CertificateRow, Place
from hub.signing.certificate_authority import ISSUER_DAYS, Authority, create, requested_key
from hub.signing.certificate_issuer import LIST_NAME, write_list
from schemas.errors import Code, Refused
from schemas.limits import CSR_BYTES_MAX
from tests.offices import Registry, new_key, spki


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "fleet")


def verified(registry: Registry, certificate: bytes, purpose: str, *more: str) -> str:
    """What `openssl verify` says of a certificate, with the root as the only trusted one."""
    folder = registry.directory
    (folder / "leaf.pem").write_bytes(x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", "-untrusted", "issuer.crt", *more, "leaf.pem"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "OK" if done.returncode == 0 else done.stderr + done.stdout


def row(registry: Registry, name: str, key: bytes) -> CertificateRow:
    made = registry.authority.node(name, key, now=registry.now, days=90)
    return CertificateRow.of(serial=made.serial, name=made.name, kind=made.kind, not_after=made.not_after, certificate=made.certificate)


def test_a_nodes_certificate_is_good_for_a_client_and_not_for_a_server_nor_for_issuing(registry: Registry) -> None:
    made = registry.authority.node("gate-17", spki(new_key()), now=registry.now, days=90)

    assert verified(registry, made.certificate, "sslclient") == "OK"
    assert "unsuitable certificate purpose" in verified(registry, made.certificate, "sslserver")
    parsed = x509.load_der_x509_certificate(made.certificate)
    assert [one.value for one in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["gate-17"]
    assert parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_a_servers_certificate_names_its_hosts_and_addresses_and_is_no_clients(registry: Registry) -> None:
    made = registry.authority.server(["broker.example", "10.0.0.5"], spki(new_key()), now=registry.now)

    assert verified(registry, made.certificate, "sslserver", "-verify_hostname", "broker.example") == "OK"
    assert verified(registry, made.certificate, "sslserver", "-verify_ip", "10.0.0.5") == "OK"
    assert "hostname mismatch" in verified(registry, made.certificate, "sslserver", "-verify_hostname", "other.example").lower()
    assert "unsuitable certificate purpose" in verified(registry, made.certificate, "sslclient")


def test_nothing_outlives_the_issuer_and_an_expired_issuer_issues_nothing(registry: Registry) -> None:
    late = registry.now + timedelta(days=ISSUER_DAYS - 10)

    made = registry.authority.node("gate-17", spki(new_key()), now=late, days=90)

    assert made.not_after == registry.authority.expires
    with pytest.raises(Refused, match="renew-issuer"):
        registry.authority.node("gate-17", spki(new_key()), now=registry.authority.expires, days=1)


def test_a_revoked_certificate_is_on_the_list_and_openssl_heeds_it(registry: Registry) -> None:
    key, other = spki(new_key()), spki(new_key())
    enrolments = registry.enrolments
    for name, one in (("gate-17", key), ("gate-18", other)):
        enrolments.redeem(registry.token(name).digest, Place(name, "", {}), one, row(registry, name, one))
    (kept,) = [enrolments.certificate(one.serial) for one in enrolments.nodes() if one.place.node == "gate-17"]
    (stays,) = [enrolments.certificate(one.serial) for one in enrolments.nodes() if one.place.node == "gate-18"]

    assert write_list(registry.directory, registry.authority, enrolments, now=registry.now)
    assert not write_list(registry.directory, registry.authority, enrolments, now=registry.now)
    first = x509.load_pem_x509_crl((registry.directory / LIST_NAME).read_bytes())
    assert enrolments.revoke("gate-17") == 1
    assert write_list(registry.directory, registry.authority, enrolments, now=registry.now)
    second = x509.load_pem_x509_crl((registry.directory / LIST_NAME).read_bytes())

    said = ("-crl_check", "-CRLfile", str(LIST_NAME))
    assert kept is not None
    assert stays is not None
    assert "certificate revoked" in verified(registry, kept, "sslclient", *said)
    assert verified(registry, stays, "sslclient", *said) == "OK"
    # OpenSSL takes the newer of two lists by a date of whole seconds: one written in the same second must still be newer.
    assert second.last_update_utc > first.last_update_utc
    numbers = [one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for one in (first, second)]
    assert numbers == [1, 2]


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_of_a_request_only_the_key_counts() -> None:
    key = new_key()

    assert requested_key(request(key, "hub")) == spki(key)


def test_a_request_that_is_none_or_of_another_kind_or_not_signed_by_its_key_is_refused() -> None:
    good = request(new_key())
    swapped = bytearray(good)
    swapped[-1] ^= 1
    bad = {
        "not a certificate request": b"\x30\x03\x02\x01\x01",
        "at most": bytes(CSR_BYTES_MAX + 1),
        "RSAPublicKey": request(rsa.generate_private_key(65537, 2048)),
        "secp384r1": request(ec.generate_private_key(ec.SECP384R1())),
        "not signed with its own key": bytes(swapped),
    }

    for said, data in bad.items():
        with pytest.raises(Refused, match=said) as told:
            requested_key(data)
        assert told.value.code == Code.ENROLMENT_REQUEST


def test_the_issuing_key_must_be_the_issuers(registry: Registry) -> None:
    with pytest.raises(Refused, match="not that of"):
        Authority(registry.directory, new_key(), fleet="main")
    with pytest.raises(Refused, match="a fleet has one authority"):
        create(registry.directory, fleet="main", root=new_key(), issuer=new_key(), now=datetime.now(UTC))


def test_of_many_devices_with_one_token_exactly_one_is_enrolled(registry: Registry) -> None:
    token, keys = registry.token(), [spki(new_key()) for _ in range(8)]
    barrier, won = threading.Barrier(len(keys)), list[bytes]()

    def enrol(key: bytes) -> None:
        enrolments, mine = registry.enrolments, row(registry, "gate-17", key)
        barrier.wait()
        if enrolments.redeem(token.digest, Place("gate-17", "", {}), key, mine):
            won.append(key)

    threads = [threading.Thread(target=enrol, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = won
    found = registry.enrolments.node("gate-17")
    assert found is not None
    assert found.standing.public_key == winner
    assert len(registry.enrolments.certificates(kinds=("node",))) == 1


def test_a_device_in_anothers_place_puts_it_out(registry: Registry) -> None:
    enrolments, first, second = registry.enrolments, spki(new_key()), spki(new_key())
    place = Place("gate-17", "nyc", {"site": "plant-7"})
    enrolments.redeem(registry.token().digest, place, first, row(registry, "gate-17", first))
    before, _ = enrolments.changed_since(0)

    enrolments.redeem(registry.token().digest, place, second, row(registry, "gate-17", second))

    found = enrolments.node("gate-17")
    assert found is not None
    assert (found.standing.public_key, found.standing.earlier_key, found.place) == (second, None, place)
    assert len(enrolments.revoked()) == 1
    assert enrolments.changed_since(before)[0] > before


def test_a_renewal_of_what_was_revoked_meanwhile_changes_nothing(registry: Registry) -> None:
    enrolments, key = registry.enrolments, spki(new_key())
    enrolments.redeem(registry.token().digest, Place("gate-17", "", {}), key, row(registry, "gate-17", key))
    found = enrolments.node("gate-17")
    assert found is not None
    enrolments.revoke("gate-17")

    assert not enrolments.renew(found.standing, key, row(registry, "gate-17", key))
    assert len(enrolments.certificates(kinds=("node",))) == 1
