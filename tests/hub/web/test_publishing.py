"""Publishing over the API: what was signed elsewhere is checked, stored whole, and visible only then."""

import base64
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile, Targets

from fleetcast import durable
from hub.client.hub_client import HubClient
from hub.client.place import place_of
from hub.operations import remote_publishing
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.publications import Publications
from hub.publish.block_store import BlockStore
from hub.publish.release_blocks import Payloads
from hub.publish.release_file import ReleaseFile, read_release
from hub.signing.keys import load_signer
from schemas import codec
from schemas.errors import Code, Refused
from schemas.manifest import Manifest, target_path
from tests.hub.cli.fleets import Made, copied, ridge
from tests.hub.web.fleets import Asked, opened

RAW = {"content-type": "application/octet-stream"}


@dataclass(frozen=True)
class Signed:
    """A release that was built and signed on another machine."""

    document: bytes
    role: bytes
    payloads: dict[bytes, bytes]
    team: CryptoSigner

    def signed_again(self, signer: CryptoSigner | None = None, **changes: object) -> bytes:
        """The role with changes, signed by the team, or by somebody else."""
        role = Metadata[Targets].from_bytes(self.role)
        for name, value in changes.items():
            setattr(role.signed, name, value)
        role.signatures.clear()
        role.sign(signer or self.team)
        return role.to_bytes()


@pytest.fixture(scope="module")
def signed(unused: Asked, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Version 2.0.0, signed on the state that the fleets of these tests begin with."""
    folder = tmp_path_factory.mktemp("elsewhere") / "made"
    made = copied(unused.made, folder)
    (folder / "next.onnx").write_bytes(ridge(2.0))
    made.publish_as("2.0.0", folder / "next.onnx")
    fleet = opened(made)
    document, role = fleet.repository.manifest("m", "2.0.0"), fleet.repository.newest_role("model-m")
    assert role is not None
    blocks = BlockStore(made.fleet / "blocks")
    payloads = {one: blocks.read(one) for one in Payloads.of(codec.decode(Manifest, document), blocks).all}
    fleet.store.close()
    team = load_signer(made.fleet / "keys" / "team.pem", b"test")
    assert isinstance(team, CryptoSigner)
    return Signed(document, role[1], payloads, team)


def begin(asked: Asked, signed: Signed, version: str = "2.0.0") -> dict[str, object]:
    wish = {"model": "m", "version": version, "manifest": base64.b64encode(signed.document).decode()}
    answer = asked.ask("POST", "/publications", "publisher", json=wish)
    assert answer.status_code == 201, answer.text
    found: dict[str, object] = answer.json()
    return found


def send_all(asked: Asked, signed: Signed) -> str:
    number = str(begin(asked, signed)["id"])
    for digest, data in signed.payloads.items():
        answer = asked.ask("PUT", f"/publications/{number}/payloads/{digest.hex()}", "publisher", content=data, headers=RAW)
        assert answer.status_code == 204, answer.text
    return number


def finish(asked: Asked, number: str, role: bytes, query: str = "") -> tuple[int, str, str]:
    answer = asked.ask("POST", f"/publications/{number}/release{query}", "publisher", content=role, headers=RAW)
    found = answer.json()
    return answer.status_code, found.get("code", ""), found.get("detail", found.get("state", ""))


def versions(asked: Asked) -> list[str]:
    return [row["version"] for row in asked.get("/models/m/releases")["items"]]


def test_a_release_that_was_signed_elsewhere_is_published_once_all_of_it_is_here(here: Asked, signed: Signed) -> None:
    begun = begin(here, signed)
    number, missing = str(begun["id"]), begun["missing"]
    assert isinstance(missing, dict)
    early = finish(here, number, signed.role)
    send_all(here, signed)
    ready = here.get(f"/publications/{number}", "publisher")
    done = finish(here, number, signed.role)
    again = finish(here, number, signed.role)

    assert set(missing) <= {digest.hex() for digest in signed.payloads}
    assert (early[0], "payloads of m@2.0.0 are missing" in early[2]) == (422, True)
    assert (ready["state"], ready["missing"]) == ("open", {})
    assert (done, again) == ((200, "", "done"), (200, "", "done"))
    assert versions(here) == ["1.0.0", "1.1.0", "2.0.0"]
    assert here.ask("GET", "/models/m/releases/2.0.0/manifest", "publisher").content == signed.document
    digest, data = next(iter(signed.payloads.items()))
    assert here.ask("GET", f"/payloads/{digest.hex()}", "publisher").content == data
    assert not list((here.fleet.directory / "uploads").iterdir())
    (change,) = here.get("/audit?limit=1")["items"]
    assert (change["actor"], change["what"], change["version"]) == ("token:publisher", "m@2.0.0 was published", "2.0.0")


def test_what_the_team_did_not_sign_is_refused_and_nothing_is_visible(here: Asked, signed: Signed) -> None:
    number = send_all(here, signed)
    role = Metadata[Targets].from_bytes(signed.role).signed
    path, far = target_path("m", "9.9.9"), datetime.now(UTC).replace(microsecond=0) + timedelta(days=3650)
    more = {**role.targets, path: TargetFile.from_data(path, b"x", ["sha256"])}
    fewer = {name: one for name, one in role.targets.items() if name != target_path("m", "1.0.0")}
    cases = {
        "another key": (signed.signed_again(CryptoSigner.generate_ed25519()), 403, Code.KEY_NOT_AUTHORISED),
        "no signature": (signed.role.replace(b'"signatures"', b'"signatures_"'), 422, Code.SCHEMA_MALFORMED),
        "one release more": (signed.signed_again(targets=more), 422, Code.REQUEST_INVALID),
        "one release fewer": (signed.signed_again(targets=fewer), 422, Code.REQUEST_INVALID),
        "a version skipped": (signed.signed_again(version=role.version + 1), 412, Code.REQUEST_STALE),
        "an earlier version": (signed.signed_again(version=role.version - 1), 412, Code.REQUEST_STALE),
        "for ten years": (signed.signed_again(expires=far), 422, Code.REQUEST_INVALID),
        "expired": (signed.signed_again(expires=datetime(2020, 1, 1, tzinfo=UTC)), 422, Code.REQUEST_INVALID),
        "withdrawn": (signed.signed_again(unrecognized_fields={"x-fleetcast-withdrawn": ["1.0.0"]}), 422, Code.REQUEST_INVALID),
        "no JSON": (b"{", 422, Code.SCHEMA_MALFORMED),
        "deep": (b"[" * 500_000, 422, Code.SCHEMA_MALFORMED),
        "another type": (here.fleet.repository.root(), 422, Code.SCHEMA_MALFORMED),
        "nothing": (b"", 422, Code.SCHEMA_MALFORMED),
    }
    found = {name: finish(here, number, role) for name, (role, _, _) in cases.items()}

    assert {name: one[:2] for name, one in found.items()} == {name: (status, str(code)) for name, (_, status, code) in cases.items()}
    assert (
        f"has version {role.version - 1} now, and what was sent was signed for version {role.version + 1}" in found["a version skipped"][2]
    )
    assert versions(here) == ["1.0.0", "1.1.0"]
    assert finish(here, number, signed.role)[0] == 200


def test_payloads_and_manifests_are_bounded_and_checked_as_they_come(here: Asked, signed: Signed) -> None:
    number = str(begin(here, signed)["id"])
    digest, data = max(signed.payloads.items(), key=lambda one: len(one[1]))

    def put(name: str, content: bytes, **headers: str) -> tuple[int, str]:
        answer = here.ask("PUT", f"/publications/{number}/payloads/{name}", "publisher", content=content, headers={**RAW, **headers})
        return answer.status_code, answer.json()["code"] if answer.content else ""

    wish = {"model": "m", "version": "2.0.0", "manifest": base64.b64encode(signed.document).decode()}
    begun = {
        name: here.ask("POST", "/publications", "publisher", json={**wish, **change}).json()["code"]
        for name, change in {
            "another model": {"model": "other"},
            "another version": {"version": "2.0.1"},
            "no base64": {"manifest": "%%"},
            "no manifest": {"manifest": "AAAA"},
            "too much": {"manifest": "A" * 100_000},
            "a path": {"version": "../../etc"},
        }.items()
    }

    assert put(digest.hex(), data[:-1] + b"?")[1] == Code.BLOCK_DIGEST
    assert put(digest.hex(), data[:-1])[1] == Code.BLOCK_DIGEST
    assert put("0" * 64, data) == (404, Code.REQUEST_UNKNOWN)
    assert put(digest.hex(), b"x" * 1_000_000) == (413, Code.SCHEMA_TOO_LARGE)
    assert put(digest.hex(), data, **{"content-type": "text/plain"}) == (415, Code.REQUEST_CONTENT_TYPE)
    assert put("..%2f..%2fhub.sqlite", data)[0] in {404, 422}
    assert put(digest.hex(), data) == (204, "")
    assert put(digest.hex(), data) == (204, "")
    assert begun == {
        "another model": Code.REQUEST_INVALID,
        "another version": Code.REQUEST_INVALID,
        "no base64": Code.REQUEST_INVALID,
        "no manifest": Code.SCHEMA_MALFORMED,
        "too much": Code.REQUEST_INVALID,
        "a path": Code.REQUEST_INVALID,
    }
    assert here.ask("DELETE", f"/publications/{number}", "publisher").status_code == 204
    assert here.ask("GET", f"/publications/{number}", "publisher").status_code == 404


def test_no_more_publications_are_open_than_are_allowed_and_idle_ones_make_room(
    here: Asked, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.operations.publications.OPEN_MAX", 1)
    begin(here, signed)
    manifest = codec.decode(Manifest, signed.document).model_copy(update={"version": "3.0.0"})
    other = Signed(codec.encode(manifest), signed.role, {}, signed.team)
    wish = {"model": "m", "version": "3.0.0", "manifest": base64.b64encode(other.document).decode()}
    crowded = here.ask("POST", "/publications", "publisher", json=wish)
    (left,) = (here.fleet.directory / "uploads").iterdir()
    os.utime(left, (1, 1))

    assert (crowded.status_code, crowded.json()["code"]) == (429, Code.REQUEST_CROWDED)
    assert begin(here, other, "3.0.0")["state"] == "open"
    assert not left.exists()


def test_a_disk_that_is_nearly_full_takes_no_payloads_and_keeps_what_was_sent(
    here: Asked, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = str(begin(here, signed)["id"])
    (first, data), *_ = signed.payloads.items()
    sent = here.ask("PUT", f"/publications/{number}/payloads/{first.hex()}", "publisher", content=data, headers=RAW)
    monkeypatch.setattr("hub.operations.publications.ROOM_BYTES", 2**60)
    full = here.ask("PUT", f"/publications/{number}/payloads/{first.hex()}", "publisher", content=data, headers=RAW)
    missing = here.get(f"/publications/{number}", "publisher")["missing"]

    assert (sent.status_code, full.status_code, full.json()["code"]) == (204, 507, Code.DISK_FULL)
    assert first.hex() not in missing


class Clock:
    """Ends the process at one of its durable writes, as a power cut does."""

    def __init__(self, cut_at: int) -> None:
        self.left = cut_at

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            os._exit(0)


def published_until_a_cut(made: Made, signed: Signed, cut_at: int) -> bool:
    """Publish in a process that ends at this durable write; return whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            clock, write, commit = Clock(cut_at), durable.write, os.replace

            def writes(*given: object, **named: object) -> None:
                clock()
                write(*given, **named)  # type: ignore[arg-type]

            def replaces(*given: object, **named: object) -> None:
                clock()
                commit(*given, **named)  # type: ignore[arg-type]

            durable.write, os.replace = writes, replaces  # type: ignore[assignment]
            publish_here(opened(made), signed)
        finally:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def publish_here(fleet: OpenedFleet, signed: Signed) -> None:
    publications = Publications(fleet.directory)
    found = publications.begin(fleet, "m", "2.0.0", signed.document)
    for digest in found.missing:
        publications.put(fleet, found.id, digest, signed.payloads[digest])
    publications.finish(fleet, found.id, signed.role, breaking=False)


def test_a_hub_killed_at_any_write_has_the_release_whole_or_not_at_all(unused: Asked, signed: Signed, tmp_path: Path) -> None:
    seen = set()
    for cut_at in range(0, 200, 3):
        folder = tmp_path / str(cut_at)
        made = copied(unused.made, folder)
        is_whole = published_until_a_cut(made, signed, cut_at)
        fleet = opened(made)
        known = fleet.repository.releases("m")
        seen.add(len(known))
        if "2.0.0" in known:
            blocks = BlockStore(made.fleet / "blocks")
            assert fleet.repository.manifest("m", "2.0.0") == signed.document
            assert {one for one in signed.payloads if not blocks.intact(one)} == set()
        publish_here(fleet, signed)  # It goes on where it was.
        assert fleet.repository.releases("m") == ["1.0.0", "1.1.0", "2.0.0"]
        fleet.store.close()
        shutil.rmtree(folder)
        if is_whole:
            break

    assert is_whole
    assert cut_at > 5
    assert seen == {2, 3}


@pytest.fixture
def client(running: Asked) -> Iterator[HubClient]:
    with HubClient(place_of(str(running.client.base_url), token=running.tokens["publisher"], environment={})) as found:
        yield found


def release_of(folder: Path, version: str, alpha: float) -> ReleaseFile:
    (folder / f"{alpha}.onnx").write_bytes(ridge(alpha))
    return read_release(None, {"name": "m", "version": version, "model": str(folder / f"{alpha}.onnx")})


def test_a_publisher_elsewhere_builds_against_what_the_hub_has_and_sends_only_what_is_new(
    running: Asked, client: HubClient, tmp_path: Path
) -> None:
    team = load_signer(running.made.fleet / "keys" / "team.pem", b"test")
    said = list[str]()

    def publish(version: str, alpha: float, signer: object = team) -> remote_publishing.Sent:
        return remote_publishing.publish(
            client,
            release_of(tmp_path, version, alpha),
            team=signer,  # type: ignore[arg-type]
            breaking=False,
            tell=lambda what, done, of: said.append(what),
        )

    with pytest.raises(Refused) as stranger:
        publish("3.0.0", 3.0, CryptoSigner.generate_ed25519())
    first, again = publish("3.0.0", 3.0), publish("3.0.0", 3.0)
    with pytest.raises(Refused) as other:
        publish("3.0.0", 4.0)
    started = running.ask("POST", "/rollouts", "operator", json={"model": "m", "version": "3.0.0", "supersede": True})

    parents = codec.decode(Manifest, running.fleet.repository.manifest("m", "1.1.0"))
    assert stranger.value.code == Code.KEY_NOT_AUTHORISED
    assert first.payloads > 0
    assert first.built.manifest.parent is not None
    assert parents.version == "1.1.0"
    assert (again.payloads, again.built.digest) == (0, first.built.digest)
    assert other.value.code == Code.RELEASE_CONFLICT
    assert started.status_code == 200, started.text
    assert "sending payloads" in said
