"""The device's key and its receipts, verified as the hub verifies them."""

import multiprocessing
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hub.signing.device_signatures import verify_receipt
from node.enrol.identity import Identity
from schemas import codec
from schemas.errors import Code, Refused
from schemas.receipt import Receipt, SealedReceipt

RECEIPT = Receipt(node="ewr-1", sequence=7, at=1_780_000_000, outcome="refused", code="trust.rollback", reason="older")


def test_sealed_receipt_is_verified_after_a_restart(tmp_path: Path) -> None:
    first = Identity.load_or_create(tmp_path / "keys" / "device.pem")
    again = Identity.load_or_create(tmp_path / "keys" / "device.pem")
    sealed = codec.decode(SealedReceipt, codec.encode(again.seal(RECEIPT)))

    assert verify_receipt(sealed, first.public_key) == RECEIPT
    assert stat.S_IMODE((tmp_path / "keys" / "device.pem").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["device.pem"]


def der(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def test_receipt_that_its_node_did_not_sign_is_refused(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "device.pem")
    other = Identity.load_or_create(tmp_path / "other.pem")
    sealed = identity.seal(RECEIPT)
    altered = codec.encode(RECEIPT.model_copy(update={"outcome": "serving"}))
    attempts = [
        (sealed, other.public_key),
        (sealed.model_copy(update={"body": altered}), identity.public_key),
        (sealed.model_copy(update={"signature": b"\x00"}), identity.public_key),
        (sealed.model_copy(update={"signature": sealed.signature[:-1]}), identity.public_key),
        (sealed, b""),
        (sealed, b"\x30\x03garbage"),
        (sealed, identity.public_key[:-1]),
        (sealed, der(ed25519.Ed25519PrivateKey.generate())),
        (sealed, der(ec.generate_private_key(ec.SECP384R1()))),
    ]
    for attempt, key in attempts:
        with pytest.raises(Refused) as caught:
            verify_receipt(attempt, key)

        assert caught.value.code == Code.RECEIPT_SIGNATURE


def test_signed_body_that_is_no_receipt_is_refused(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "device.pem")
    body = b"\x81\xa1a\x01"
    signature = identity._key.sign(body, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(Refused) as caught:
        verify_receipt(SealedReceipt(body=body, signature=signature), identity.public_key)

    assert caught.value.code == Code.SCHEMA_UNSUPPORTED


@pytest.mark.parametrize("data", [b"", bytes(200), b"-----BEGIN PRIVATE KEY-----\n"])
def test_damaged_device_key_is_refused_and_not_replaced(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "device.pem"
    path.write_bytes(data)
    with pytest.raises(Refused, match="damaged") as caught:
        Identity.load_or_create(path)

    assert caught.value.code == Code.KEY_UNREADABLE
    assert path.read_bytes() == data


def test_device_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.pem"
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())):
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        with pytest.raises(Refused, match="P-256") as caught:
            Identity.load_or_create(path)

        assert caught.value.code == Code.KEY_UNREADABLE


def _make(path: Path, barrier: Any, answers: Any) -> None:
    barrier.wait(100)
    answers.put(Identity.load_or_create(path).public_key)


def test_two_processes_that_make_the_key_at_once_end_with_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.SimpleQueue()
    children = [context.Process(target=_make, args=(tmp_path / "device.pem", barrier, answers)) for _ in range(4)]
    for child in children:
        child.start()
    found = {answers.get() for _ in children}
    for child in children:
        child.join(100)

    assert found == {Identity.load_or_create(tmp_path / "device.pem").public_key}
    assert [path.name for path in tmp_path.iterdir()] == ["device.pem"]
