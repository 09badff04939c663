"""`fleetcast keys`: what it shows, replaces and refuses; ceremonies by file; keys on a token, by SoftHSM."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Root, Targets

from hub.cli.errors import Exit
from hub.signing.key_places import signer_of, stem_of
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from tests.hub.cli.fleets import Done, Made, copied, digest_of, make, run

MODULES = [Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")]
ROOTS = ("root-1", "root-2", "root-3")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("made"), "m", "other")
    assert made.publish("1.0.0").returncode == made.publish("1.1.0").returncode == 0
    return made


@pytest.fixture
def made(pristine: Made, tmp_path: Path) -> Made:
    return copied(pristine, tmp_path)


def answer(done: Done, code: int = 0) -> Any:
    assert done.returncode == code, f"{done.args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if done.stdout else None


def refused(done: Done, code: str, exit_code: Exit = Exit.KEY) -> str:
    assert done.returncode == exit_code, f"{done.args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert code in done.stderr, done.stderr
    return done.stderr


def keyids(made: Made) -> dict[str, list[str]]:
    return {row["role"]: row["keys"] for row in answer(made.run("keys", "show", "--json"))}


def repository(made: Made) -> Repository:
    return Repository(made.fleet / "trust")


def other_secret(folder: Path, text: str) -> Path:
    path = folder / f"secret-{text}"
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


# show


def test_show_names_every_role_with_its_keys_and_where_they_lie(made: Made) -> None:
    rows = {row["role"]: row for row in answer(made.run("keys", "show", "--check", "--json"))}

    assert list(rows) == ["root", "targets", "snapshot", "timestamp", "rollouts", "model-m", "model-other"]
    assert (len(rows["root"]["keys"]), rows["root"]["threshold"]) == (3, 2)
    assert rows["root"]["lies_at"] == [f"keys/{name}.pem" for name in ROOTS]
    assert rows["timestamp"]["lies_at"] == ["online/timestamp.pem"]
    assert (
        rows["model-m"]["keys"] == rows["model-other"]["keys"] == [load_signer(made.fleet / "keys" / "team.pem", b"test").public_key.keyid]
    )
    assert {opened.partition(": ")[2] for row in rows.values() for opened in row["opens"]} == {"yes"}

    shutil.rmtree(made.fleet / "keys")  # As an operator should: they are offline.
    assert [row["lies_at"] for row in answer(made.run("keys", "show", "--json"))][:2] == [[], []]


# rotate


def test_roles_of_one_command_get_their_keys_in_one_root(made: Made) -> None:
    before = keyids(made)

    answer(made.run("keys", "rotate", "targets", "snapshot", "timestamp", "rollouts", "--actor", "alice", "--json"))

    after = keyids(made)
    assert {role for role in after if after[role] != before[role]} == {"targets", "snapshot", "timestamp", "rollouts"}
    assert Metadata[Root].from_bytes(repository(made).root(2)).signed.version == 2
    assert not list(made.fleet.glob("*/*.next*"))
    (event,) = [row for row in answer(made.run("history", "--json")) if row["kind"] == "key"]
    assert event["actor"] == "alice"
    assert before["timestamp"][0][:12] in event["what"]


def test_a_new_online_key_must_have_the_passphrase_that_the_hub_uses(made: Made) -> None:
    before, wrong = digest_of(made.fleet), other_secret(made.folder, "another")

    said = refused(made.run("keys", "rotate", "timestamp", "--key-passphrase-file", f"timestamp={wrong}"), "key.passphrase")

    assert "the hub opens its keys with one passphrase" in said
    assert digest_of(made.fleet) == before


def test_a_rotation_without_enough_root_keys_changes_nothing_and_says_whose_are_missing(made: Made) -> None:
    missing = load_signer(made.fleet / "keys" / "root-2.pem", b"test").public_key.keyid
    for name in ROOTS[1:]:
        (made.fleet / "keys" / f"{name}.pem").rename(made.folder / f"{name}.pem")
    before = keyids(made)

    said = refused(made.run("keys", "rotate", "snapshot"), "key.not_authorised")
    assert missing[:12] in said
    assert "--offer" in said
    assert keyids(made) == before

    answer(made.run("keys", "rotate", "snapshot", "--key", str(made.folder / "root-2.pem"), "--json"))
    assert keyids(made)["snapshot"] != before["snapshot"]


def test_a_rotation_that_was_killed_before_the_last_rename_is_finished_by_the_next_reader(made: Made) -> None:
    old = (made.fleet / "online" / "timestamp.pem").read_bytes()
    answer(made.run("keys", "rotate", "timestamp", "--json"))
    place = stem_of(made.fleet, "timestamp")
    place.with_suffix(".pem").rename(place.with_name("timestamp.next.pem"))
    place.with_suffix(".pem").write_bytes(old)

    named = repository(made).keyids("timestamp")
    assert signer_of(place, named, b"test").public_key.keyid == named[0]

    assert load_signer(place.with_suffix(".pem"), b"test").public_key.keyid == named[0]
    assert not list(made.fleet.glob("online/*.next*"))


def test_all_root_keys_are_replaced_where_they_lie_together(made: Made) -> None:
    before = keyids(made)["root"]

    answer(made.run("keys", "rotate", "root", "--json"))

    after = keyids(made)["root"]
    assert len(after) == 3
    assert not set(before) & set(after)
    assert {load_signer(made.fleet / "keys" / f"{name}.pem", b"test").public_key.keyid for name in ROOTS} == set(after)


# A team's key


def test_a_new_team_signs_only_the_releases_that_are_named(made: Made) -> None:
    assert made.publish("6.6.6").returncode == 0  # The thief's.

    assert made.run("keys", "rotate", "team").returncode == Exit.USAGE  # It has to be said which.
    done = answer(made.run("keys", "rotate", "team", "--keep", "m@1.0.0", "--keep", "m@1.1.0", "--json"))

    assert done["releases"] == ["m@1.0.0", "m@1.1.0"]
    assert repository(made).releases("m") == ["1.0.0", "1.1.0"]
    assert made.publish("6.6.6").returncode == Exit.CONFLICT
    assert made.publish("1.2.0").returncode == 0


def test_a_key_that_signs_for_two_models_is_replaced_for_both(made: Made) -> None:
    said = refused(made.run("keys", "rotate", "team", "--model", "m", "--keep-all"), "key.not_authorised")

    assert "other" in said


def test_nobody_publishes_after_a_teams_key_is_revoked_until_it_has_a_successor(made: Made) -> None:
    answer(made.run("keys", "revoke", "team", "--model", "m", "--json"))

    assert keyids(made)["model-m"] == []
    assert keyids(made)["model-other"] != []
    refused(made.publish("1.2.0"), "key.not_authorised")
    answer(made.run("keys", "rotate", "team", "--keep-all", "--json"))
    assert made.publish("1.2.0").returncode == 0


def test_the_oldest_version_is_signed_into_the_targets_role(made: Made) -> None:
    answer(made.run("keys", "minimum", "m@1.1.0", "--json"))

    assert repository(made).minimums() == {"m": "1.1.0"}
    assert "m 1.1.0" in made.run("keys", "show").stdout
    refused(made.run("rollout", "start", "m@1.0.0"), "release.too_old", Exit.REFUSED)


def test_an_oldest_version_that_no_release_has_is_noted(made: Made) -> None:
    assert "no release of m is as new as 9.0.0" in made.run("keys", "minimum", "m@9.0.0").stderr


# Ceremonies


class Holders:
    """Holders of root keys, each with a folder as a machine of their own."""

    def __init__(self, made: Made) -> None:
        self.made, self.offer = made, made.folder / "change.json"
        self.names = {}
        for key, name in zip(ROOTS, ("alice", "bob", "carol"), strict=True):
            home = made.folder / name
            home.mkdir()
            (made.fleet / "keys" / f"{key}.pem").rename(home / f"{name}.pem")
            shutil.copy(made.fleet / "root.json", home)
            self.names[name] = load_signer(home / f"{name}.pem", b"test").public_key.keyid

    def sign(self, name: str, *more: str) -> Done:
        """Sign a copy of the offer, without any fleet."""
        home = self.made.folder / name
        if not (home / "change.json").exists():
            shutil.copy(self.offer, home)
        said = ("keys", "ceremony", "--sign", str(home / "change.json"), "--key", str(home / f"{name}.pem"), "--yes", "--json")
        return run(*said, "--root", str(home / "root.json"), *more, fleet=home, FLEETCAST_PASSPHRASE_FILE=str(self.made.secret))

    def apply(self, *names: str) -> Done:
        copies = [word for name in names for word in ("--apply", str(self.made.folder / name / "change.json"))]
        return self.made.run("keys", "ceremony", *copies, "--json")


@pytest.fixture
def holders(made: Made) -> Holders:
    return Holders(made)


def dave(made: Made) -> str:
    done = run("keys", "make", str(made.folder / "dave"), "--passphrase-file", str(made.secret), "--json")
    return str(answer(done)["key"])


def test_holders_on_their_own_machines_replace_one_of_them(made: Made, holders: Holders) -> None:
    new = dave(made)
    said = answer(made.run("keys", "ceremony", "--offer", str(holders.offer), "--remove", holders.names["carol"][:8],
                           "--add", str(made.folder / "dave.pub"), "--actor", "olga", "--json"))  # fmt: skip
    assert said["changes"][1] == f"root: out {holders.names['carol'][:12]}, new {new[:12]}"

    first = answer(holders.sign("alice"))
    assert first["compare"] == said["compare"]
    before = digest_of(made.fleet)
    refused(holders.apply("alice"), "key.not_authorised")
    assert digest_of(made.fleet) == before
    answer(holders.sign("bob"))
    answer(holders.apply("alice", "bob"))

    assert set(keyids(made)["root"]) == {holders.names["alice"], holders.names["bob"], new}
    assert answer(holders.apply("alice", "bob"))["applied"] != True  # noqa: E712  # a second time it is a sentence
    assert {row["actor"] for row in answer(made.run("history", "--json")) if row["kind"] == "key"} >= {"olga"}

    # Carol can change nothing any more: her signature does not count towards the next root.
    answer(made.run("keys", "ceremony", "--offer", str(holders.offer), "--threshold", "1", "--json"))
    refused(holders.sign("carol"), "key.not_authorised")


def test_a_root_is_renewed_by_an_offer_without_changes(made: Made, holders: Holders) -> None:
    before = keyids(made)
    assert answer(made.run("keys", "ceremony", "--offer", str(holders.offer), "--json"))["changes"][1:] == []
    for name in ("alice", "bob"):
        answer(holders.sign(name))
    answer(holders.apply("alice", "bob"))

    assert keyids(made) == before
    assert Metadata[Root].from_bytes(repository(made).root(2)).signed.version == 2


def test_online_keys_are_replaced_by_an_offer_where_the_root_keys_are_away(made: Made, holders: Holders) -> None:
    before = keyids(made)
    answer(made.run("keys", "rotate", "snapshot", "timestamp", "--offer", str(holders.offer), "--json"))
    assert keyids(made) == before
    for name in ("alice", "carol"):
        answer(holders.sign(name))

    done = answer(holders.apply("alice", "carol"))

    assert done["new_keys_in_place"] == ["snapshot", "timestamp"]
    for role in ("snapshot", "timestamp"):
        assert load_signer(made.fleet / "online" / f"{role}.pem", b"test").public_key.keyid == keyids(made)[role][0] != before[role][0]


def test_a_team_whose_targets_key_is_away_takes_its_releases_over_after_the_offer(made: Made) -> None:
    assert made.publish("6.6.6").returncode == 0
    (made.fleet / "keys" / "targets.pem").rename(made.folder / "targets.pem")
    offer = str(made.folder / "team.json")
    answer(made.run("keys", "rotate", "team", "--offer", offer, "--json"))
    answer(made.run("keys", "ceremony", "--sign", offer, "--key", str(made.folder / "targets.pem"), "--yes", "--json"))
    assert answer(made.run("keys", "ceremony", "--apply", offer, "--json"))["new_keys_in_place"] == ["team"]

    answer(made.run("renew", "--keep", "m@1.1.0", "--json"))

    assert repository(made).releases("m") == ["1.1.0"]
    assert made.publish("1.2.0").returncode == 0


def test_offers_that_are_forged_stale_or_another_fleets_are_refused(made: Made, holders: Holders) -> None:
    answer(made.run("keys", "ceremony", "--offer", str(holders.offer), "--threshold", "3", "--json"))
    answer(holders.sign("alice"))
    text = (made.folder / "alice" / "change.json").read_text()

    # Somebody changes what was signed: the signature no longer fits.
    shutil.copy(holders.offer, made.folder / "bob")
    changed = json.loads(text)
    changed["root"]["signed"]["roles"]["root"]["threshold"] = 1
    (made.folder / "bob" / "change.json").write_text(json.dumps(changed))
    refused(holders.apply("alice", "bob"), "settings.invalid", Exit.REFUSED)

    # A root that nobody signed is put in the place of the present one, to show a holder another change than the true one.
    forged = json.loads(text)
    forged["roots"][-1]["signed"]["expires"] = "2040-01-01T00:00:00Z"
    (made.folder / "bob" / "change.json").write_text(json.dumps(forged))
    refused(holders.sign("bob"), "settings.invalid", Exit.REFUSED)

    # A whole other fleet: its roots are genuine, and do not follow from the holder's own.
    other = make(_folder(made, "elsewhere"), "m")
    answer(other.run("keys", "ceremony", "--offer", str(made.folder / "bob" / "change.json"), "--json"))
    refused(holders.sign("bob"), "trust.signature", Exit.REFUSED)

    # The root moves on, and the offer is for the version that is in force already.
    shutil.copy(holders.offer, made.folder / "bob")
    for name in ("bob", "carol"):
        answer(holders.sign(name))
    again = [word for name in ("bob", "carol") for word in ("--key", str(made.folder / name / f"{name}.pem"))]
    answer(made.run("keys", "rotate", "snapshot", *again, "--json"))
    refused(holders.apply("alice", "bob", "carol"), "trust.rollback", Exit.REFUSED)


def _folder(made: Made, name: str) -> Path:
    (made.folder / name).mkdir()
    return made.folder / name


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "x", "version": 1}', "[" * 5000, '{"roots": [{"signed": {}}]}'])
def test_files_that_are_no_offer_are_refused_with_a_sentence(made: Made, text: str) -> None:
    path = made.folder / "offer.json"
    path.write_text(text)

    refused(made.run("keys", "ceremony", "--apply", str(path)), "settings.invalid", Exit.REFUSED)


# Keys on a token


@pytest.fixture
def token(tmp_path: Path) -> dict[str, str]:
    """The environment of a SoftHSM token `fleet` with PIN 1234, whose key 2 is P-256."""
    module = next((path for path in MODULES if path.exists()), None)
    assert module is not None, "SoftHSM is not installed: `apt-get install softhsm2` (Debian), then run again"
    home = tmp_path / "softhsm"
    (home / "tokens").mkdir(parents=True)
    (home / "softhsm2.conf").write_text(f"directories.tokendir = {home / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (home / "key.pem").write_bytes(pem)
    environment = {"SOFTHSM2_CONF": str(home / "softhsm2.conf"), "PYKCS11LIB": str(module)}
    made: tuple[tuple[str, ...], ...] = (
        ("--init-token", "--free", "--label", "fleet", "--pin", "1234", "--so-pin", "5678"),
        ("--import", str(home / "key.pem"), "--token", "fleet", "--label", "key", "--id", "02", "--pin", "1234"),
    )
    for words in made:
        subprocess.run(["softhsm2-util", *words], check=True, capture_output=True, env={**os.environ, **environment})
    return environment


def test_the_targets_key_moves_to_a_token_and_signs_there(made: Made, token: dict[str, str]) -> None:
    pin = other_secret(made.folder, "1234")
    by_pin = ("--key-passphrase-file", f"targets={pin}")
    answer(made.run("keys", "rotate", "targets", "--new-key", "targets=hsm:2?label=fleet", *by_pin, "--json", **token))

    assert [path.name for path in made.fleet.glob("keys/targets*")] == ["targets.uri"]
    assert "PRIVATE" not in (made.fleet / "keys" / "targets.uri").read_text()
    (row,) = [row for row in answer(made.run("keys", "show", "--check", *by_pin, "--json", **token)) if row["role"] == "targets"]
    assert (row["lies_at"], row["opens"]) == (["keys/targets.uri"], ["targets.uri: yes"])
    answer(made.run("keys", "minimum", "m@1.0.0", *by_pin, "--json", **token))
    targets = Metadata[Targets].from_bytes(_newest_targets(made))
    Metadata[Root].from_bytes(repository(made).root(2)).signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)


def test_a_hub_signs_the_timestamp_with_a_key_on_a_token(made: Made, token: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pin = other_secret(made.folder, "1234")
    said = ("rotate", "timestamp", "--new-key", "timestamp=hsm:2?label=fleet", "--key-passphrase-file", f"timestamp={pin}")
    answer(made.run("keys", *said, "--json", **token))
    for name, value in token.items():
        monkeypatch.setenv(name, value)

    keys = {
        role: signer_of(stem_of(made.fleet, role), repository(made).keyids(role), secret)
        for role, secret in (("snapshot", b"test"), ("timestamp", b"1234"))
    }

    assert repository(made).refresh(snapshot=keys["snapshot"], timestamp=keys["timestamp"], now=datetime.now(UTC))
    assert keys["timestamp"].public_key.scheme == "ecdsa-sha2-nistp256"


def _newest_targets(made: Made) -> bytes:
    return max(made.fleet.glob("trust/metadata/*.targets.json"), key=lambda path: int(path.name.split(".")[0])).read_bytes()


def test_a_holders_key_on_a_token_signs_a_ceremony(made: Made, holders: Holders, token: dict[str, str]) -> None:
    pin = other_secret(made.folder, "1234")
    home = _folder(made, "erin")
    said = ("keys", "make", str(home / "erin"), "--uri", "hsm:2?label=fleet", "--passphrase-file", str(pin), "--json")
    key = answer(run(*said, **token))["key"]
    add = ("--add", str(home / "erin.pub"), "--threshold", "4")  # So that hers is needed.
    answer(made.run("keys", "ceremony", "--offer", str(holders.offer), *add, "--json"))
    shutil.copy(made.fleet / "root.json", home)

    answer(_signed_by(holders, home, pin, token))
    for name in holders.names:
        answer(holders.sign(name))
    answer(holders.apply("erin", *holders.names))

    assert key in keyids(made)["root"]


def _signed_by(holders: Holders, home: Path, pin: Path, token: dict[str, str]) -> Done:
    shutil.copy(holders.offer, home)
    said = ("keys", "ceremony", "--sign", str(home / "change.json"), "--key", str(home / "erin.uri"), "--root", str(home / "root.json"))
    return run(*said, "--yes", "--passphrase-file", str(pin), "--json", **token)


def test_what_a_token_lacks_is_said_in_a_sentence(made: Made, token: dict[str, str]) -> None:
    pin, wrong = other_secret(made.folder, "1234"), other_secret(made.folder, "9999")

    def make_key(uri: str, secret: Path, **environment: str) -> Done:
        said = ("keys", "make", str(made.folder / "k"), "--uri", uri, "--passphrase-file", str(secret))
        return run(*said, **{**token, **environment})

    refused(make_key("hsm:2?label=fleet", wrong), "key.passphrase")
    assert "PYKCS11LIB" in refused(make_key("hsm:2?label=fleet", pin, PYKCS11LIB=""), "key.unreadable")
    assert "no-such" in refused(make_key("hsm:2?label=no-such", pin), "key.unreadable")
    refused(make_key("hsm:7?label=fleet", pin), "key.unreadable")
    assert not list(made.folder.glob("k.*"))


@pytest.mark.parametrize(
    ("uri", "module", "package"),
    [
        ("hsm:2?label=fleet", "pkcs11", "fleetcast[hsm]"),
        ("gcpkms:projects/p", "google.cloud", "securesystemslib[gcpkms]"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(made: Made, uri: str, module: str, package: str) -> None:
    dave(made)
    program = f"import sys; sys.modules[{module!r}] = None; from hub.__main__ import main; main()"
    said = ["keys", "make", str(made.folder / "k"), "--uri", uri, "--public-key", str(made.folder / "dave.pub")]
    environment = {**os.environ, "PYKCS11LIB": "/nowhere.so", "FLEETCAST_PASSPHRASE_FILE": str(made.secret)}

    done = subprocess.run([sys.executable, "-c", program, *said], capture_output=True, text=True, check=False, env=environment)

    assert package in refused(done, "key.unreadable")


# A release's signature, for others


def verify(folder: Path, made: Made) -> Done:
    """OpenSSF Model Signing's own tool."""
    said = ["verify", "key", str(folder), "--signature", str(made.folder / "m.sig"), "--public_key", str(made.folder / "m.pub")]
    return subprocess.run([sys.executable, "-m", "model_signing", *said], capture_output=True, text=True, check=False)


@pytest.mark.skipif(find_spec("model_signing") is None, reason="model-signing not installed: 17 MB, and in no lock")
def test_openssf_model_signing_verifies_the_signature_of_a_release(made: Made) -> None:
    export = ("releases", "export-signature", "m@1.0.0", "--out", str(made.folder / "m.sig"))
    assert "p256" in refused(made.run(*export), "key.unreadable")  # The team's key is ed25519, which the tool does not know.
    key = made.folder / "openssf"
    answer(run("keys", "make", str(key), "--kind", "p256", "--passphrase-file", str(made.secret), "--json"))

    done = answer(made.run(*export, "--key", f"{key}.pem", "--json"))

    folder = _folder(made, "release")
    shutil.copy(made.folder / "good.onnx", folder / done["files"][0])
    verified = verify(folder, made)
    assert verified.returncode == 0, verified.stderr
    with (folder / done["files"][0]).open("ab") as file:
        file.write(b"one byte too many")
    assert verify(folder, made).returncode != 0
