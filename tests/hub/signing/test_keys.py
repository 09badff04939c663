"""Keys on disk: what opens them, what does not, and that nothing is overwritten or left behind."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from hub.signing import key_references
from hub.signing.keys import KEY_BYTES_MAX, create_key, load_signer, public_key
from schemas.errors import Code, Refused

PASSPHRASE = b"correct horse"


def pem(key: object, passphrase: bytes = PASSPHRASE) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)  # type: ignore[attr-defined, no-any-return]


def code_of(path: Path, passphrase: bytes) -> Code:
    with pytest.raises(Refused) as caught:
        load_signer(path, passphrase)

    assert str(path) in caught.value.reason
    return caught.value.code


def test_key_that_was_made_signs_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "team.pem"
    create_key(path, PASSPHRASE)
    signer = load_signer(path, PASSPHRASE)

    signer.public_key.verify_signature(signer.sign(b"manifest"), b"manifest")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["team.pem"]


def test_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "team.pem"
    create_key(path, PASSPHRASE)
    before = path.read_bytes()
    with pytest.raises(Refused, match="exists") as caught:
        create_key(path, b"another")

    assert caught.value.code == Code.KEY_UNREADABLE
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["team.pem"]


@pytest.mark.parametrize("passphrase", [b"", b"x" * 2000])
def test_key_without_a_usable_passphrase_is_not_made(tmp_path: Path, passphrase: bytes) -> None:
    with pytest.raises(Refused) as caught:
        create_key(tmp_path / "team.pem", passphrase)

    assert caught.value.code == Code.KEY_PASSPHRASE
    assert list(tmp_path.iterdir()) == []


def test_key_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file") as caught:
        create_key(tmp_path / "absent" / "team.pem", PASSPHRASE)

    assert caught.value.code == Code.KEY_UNREADABLE


@pytest.mark.parametrize("passphrase", [b"wrong", b"", b"\xff\x00", b"x" * 2000])
def test_wrong_passphrase_is_told_from_an_unreadable_key(tmp_path: Path, passphrase: bytes) -> None:
    create_key(tmp_path / "team.pem", PASSPHRASE)

    assert code_of(tmp_path / "team.pem", passphrase) == Code.KEY_PASSPHRASE


def test_unreadable_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "team.pem"
    create_key(path, PASSPHRASE)
    whole = path.read_bytes()
    for data in (b"", b"\x00" * 400, b"not a key", whole[: len(whole) // 2], whole + b"\n" * KEY_BYTES_MAX):
        path.write_bytes(data)

        assert code_of(path, PASSPHRASE) == Code.KEY_UNREADABLE
    assert code_of(tmp_path / "absent.pem", PASSPHRASE) == Code.KEY_UNREADABLE
    assert code_of(tmp_path, PASSPHRASE) == Code.KEY_UNREADABLE


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_keys_of_hardware_tokens_are_accepted(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    (tmp_path / "token.pem").write_bytes(pem(ec.generate_private_key(curve)))
    signer = load_signer(tmp_path / "token.pem", PASSPHRASE)

    signer.public_key.verify_signature(signer.sign(b"manifest"), b"manifest")


def test_keys_that_others_could_not_verify_are_refused(tmp_path: Path) -> None:
    for key in (ec.generate_private_key(ec.SECP521R1()), rsa.generate_private_key(65537, 2048)):
        (tmp_path / "odd.pem").write_bytes(pem(key))

        assert code_of(tmp_path / "odd.pem", PASSPHRASE) == Code.KEY_UNREADABLE


def test_plain_key_needs_no_passphrase(tmp_path: Path) -> None:
    (tmp_path / "plain.pem").write_bytes(pem(ed25519.Ed25519PrivateKey.generate(), b""))

    assert load_signer(tmp_path / "plain.pem", b"").public_key == load_signer(tmp_path / "plain.pem", b"unused").public_key


def test_public_key_reads_both_halves(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "private.pem").write_bytes(pem(key))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)

    assert public_key(tmp_path / "public.pem") == public_key(tmp_path / "private.pem", PASSPHRASE)


def test_public_key_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(Refused) as caught:
        public_key(tmp_path / "public.pem")

    assert caught.value.code == Code.KEY_UNREADABLE


def test_a_uri_with_a_public_key_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    pem = b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK1VwAyEAymeWRpkmdhe4i14Tx7lfti8BrKMfV3K1fJqDK+r+uU8=\n-----END PUBLIC KEY-----\n"

    with pytest.raises(Refused, match="expected a URI in the first line and a public key") as caught:
        key_references.parse(tmp_path / "team.uri", b"hsm:2?label=fleet\n" + pem)

    assert caught.value.code == Code.KEY_UNREADABLE
