"""A device joins, renews and comes back, over real HTTPS: what it believes, what it keeps, and what survives kill -9 at every write."""

import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from hub.service.enrol.enrolment_api import Office
from node.agent.enrol import enrolment_flow
from node.agent.enrol.certificate_renewal import Renewing
from node.cli.commands import command
from node.core.trust.clock import SignedClock
from node.enrol.enrolment_files import Enrolment
from node.enrol.identity import Identity
from node.settings import load
from node.storage.store import NodeStore
from schemas.bundle import TrustBundle
from schemas.enrolment import Enrolled, EnrolmentRequest, Token
from schemas.errors import Code, Refused, Unreachable
from tests.brokers import free_port
from tests.offices import Registry


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "fleet").running() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def refused(do: Callable[[], object]) -> Code:
    with pytest.raises(Refused) as told:
        do()
    return told.value.code


def kept_files(data: Path) -> set[str]:
    return {path.name for path in data.rglob("*") if path.is_file()} - {"lock"}


# Joining


def test_a_device_gets_all_that_it_needs_and_only_it_can_read_it(registry: Registry, data: Path) -> None:
    token = registry.token(cohort="nyc", labels={"site": "plant-7"})

    member = enrolment_flow.enrol(data, hub=registry.url, token=token)

    assert (member.answer.node, member.answer.fleet, member.answer.cohort) == ("gate-17", "main", "nyc")
    assert member.certified.public_key == Identity.load_or_create(data / "device.pem").public_key
    assert kept_files(data) == {"device.pem", "kept", "ca.crt", "root.json", "node.crt", "settings.toml"}
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (data, *data.rglob("*")) if path.name != "lock"} == {0}
    row = registry.enrolments.node("gate-17")
    assert row is not None
    assert row.standing.public_key == member.identity.public_key


def test_the_hub_chooses_the_name_whatever_the_device_asks_for(registry: Registry, data: Path) -> None:
    token = registry.token("gate-17")

    assert refused(lambda: enrolment_flow.enrol(data, hub=registry.url, token=token, site_id="hub")) == Code.NAME_INVALID
    assert "kept" not in kept_files(data)
    assert enrolment_flow.enrol(data, hub=registry.url, token=token, site_id="gate-17").answer.node == "gate-17"


def test_a_hub_with_another_authority_never_hears_the_secret(registry: Registry, data: Path, tmp_path: Path) -> None:
    token = registry.token()
    heard: list[EnrolmentRequest] = []
    with Registry(tmp_path / "other").running() as impostor:
        assert impostor.endpoint is not None
        impostor.endpoint._office.enrol = heard.append  # type: ignore[method-assign, assignment, return-value]

        assert refused(lambda: enrolment_flow.enrol(data, hub=impostor.url, token=token)) == Code.ENROLMENT_PIN

    assert heard == []
    assert "kept" not in kept_files(data)


def test_who_hands_on_the_right_authority_without_its_key_never_hears_the_secret(registry: Registry, data: Path, tmp_path: Path) -> None:
    """In the middle: shows the fleet's own root certificate, which is public, over TLS of an authority of his own."""
    token, heard = registry.token(), list[EnrolmentRequest]()
    with Registry(tmp_path / "other").running() as impostor:
        assert impostor.endpoint is not None
        office = impostor.endpoint._office
        office.certificate = registry.office.certificate  # type: ignore[method-assign]
        office.enrol = heard.append  # type: ignore[method-assign, assignment, return-value]

        assert refused(lambda: enrolment_flow.enrol(data, hub=impostor.url, token=token)) == Code.CERTIFICATE_INVALID

    assert heard == []


def test_an_endpoint_for_another_name_is_not_the_hub(tmp_path: Path, data: Path) -> None:
    with Registry(tmp_path / "fleet").running("other.example") as registry:
        assert refused(lambda: enrolment_flow.enrol(data, hub=registry.url, token=registry.token())) == Code.CERTIFICATE_INVALID


def test_a_token_that_is_unknown_expired_or_used_by_another_lets_nobody_in(registry: Registry, tmp_path: Path) -> None:
    used, expired = registry.token("gate-1"), registry.token("gate-2", seconds=-1)
    unknown = Token(used.pin, bytes(32))
    enrolment_flow.enrol(tmp_path / "first", hub=registry.url, token=used)

    for number, token in enumerate((used, expired, unknown)):
        data = tmp_path / f"thief-{number}"
        assert refused(lambda data=data, token=token: enrolment_flow.enrol(data, hub=registry.url, token=token)) == Code.ENROLMENT_TOKEN
        assert kept_files(data) == {"device.pem"}
    assert [one.place.node for one in registry.enrolments.nodes()] == ["gate-1"]


def test_an_answer_that_was_lost_is_given_again_to_the_same_key(registry: Registry, data: Path) -> None:
    token = registry.token()
    first = enrolment_flow.enrol(data, hub=registry.url, token=token)
    shutil.rmtree(data / "enrolment")

    again = enrolment_flow.enrol(data, hub=registry.url, token=token)

    assert again.answer.certificate == first.answer.certificate
    assert len(registry.enrolments.certificates(kinds=("node",))) == 1


def test_a_hub_that_names_another_trust_root_than_the_operator_pinned_is_refused(registry: Registry, data: Path, tmp_path: Path) -> None:
    """Its authority is the right one: who has stolen the issuing key still cannot bring publishers of his own."""
    token, other = registry.token(), Registry(tmp_path / "other")
    assert registry.endpoint is not None
    registry.endpoint._office._repository = other.office._repository

    assert refused(lambda: enrolment_flow.enrol(data, hub=registry.url, token=token)) == Code.ENROLMENT_PIN
    assert "kept" not in kept_files(data)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ({"node": "gate-18"}, Code.CERTIFICATE_INVALID),
        ({"certificate": b"0\x03\x02\x01\x01"}, Code.CERTIFICATE_INVALID),
        ({"root": b'{"signatures":[],"signed":{"_type":"root","version":1}}'}, Code.ENROLMENT_PIN),
        ({"trust": b"no bundle"}, Code.SCHEMA_MALFORMED),
        ({"broker": "https://broker"}, Code.SETTINGS_INVALID),
    ],
)
def test_an_answer_of_which_anything_does_not_hold_leaves_nothing_behind(
    registry: Registry, data: Path, monkeypatch: pytest.MonkeyPatch, what: dict[str, Any], code: Code
) -> None:
    honest = Office.enrol
    monkeypatch.setattr(Office, "enrol", lambda self, request: honest(self, request).model_copy(update=what))

    found = refused(lambda: enrolment_flow.enrol(data, hub=registry.url, token=registry.token()))

    assert found == code
    assert kept_files(data) == {"device.pem"}


def test_a_certificate_from_a_device_that_plays_issuer_is_refused(registry: Registry, tmp_path: Path) -> None:
    """A node has a certificate of the same authority: it must not be able to vouch for others."""
    member = enrolment_flow.enrol(tmp_path / "honest", hub=registry.url, token=registry.token("gate-1"))
    forged = member.answer.model_copy(update={"issuer": member.answer.certificate})

    assert refused(lambda: enrolment_flow.certified(forged)) == Code.CERTIFICATE_INVALID


def test_a_hub_that_is_away_is_unreachable_and_the_same_token_works_later(tmp_path: Path, data: Path) -> None:
    registry = Registry(tmp_path / "fleet")
    token = registry.token()
    with pytest.raises(Unreachable):
        enrolment_flow.enrol(data, hub=f"https://127.0.0.1:{free_port()}", token=token)

    with registry.running():
        assert enrolment_flow.enrol(data, hub=registry.url, token=token).answer.node == "gate-17"


# kill -9


def killed_at(number: int, do: Callable[[], object]) -> bool:
    """Run in a child process that gets SIGKILL at its `number`th fsync; False when it came to its end before."""
    child = os.fork()
    if child == 0:
        left = [number]
        real = os.fsync

        def counting(descriptor: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)

        os.fsync = counting
        try:
            do()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def enrol_by_command(registry: Registry, token: Token, folder: Path) -> Any:
    arguments = ["enroll", "--hub", registry.url, "--token", str(token), "--settings", str(folder / "node.toml"), "--json"]
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_kill_9_between_any_two_writes_and_the_same_command_goes_on(registry: Registry, tmp_path: Path) -> None:
    number, killed = 0, True
    while killed:
        number += 1
        folder, token = tmp_path / f"device-{number}", registry.token(f"gate-{number}")
        folder.mkdir()

        killed = killed_at(number, lambda folder=folder, token=token: enrol_by_command(registry, token, folder))

        assert enrol_by_command(registry, token, folder).exit_code == 0
        settings = load(folder / "node.toml")
        assert settings.id == f"gate-{number}"
        assert not list(folder.rglob("enrolment/.*"))
        member = enrolment_flow.settle(settings.data)
        assert member is not None
        row = registry.enrolments.node(settings.id)
        assert row is not None
        assert row.standing.public_key == member.identity.public_key
        assert len([one for one in registry.enrolments.certificates(kinds=("node",)) if one.name == settings.id]) == 1
    assert number > 12  # writes: the key, the answer, four files, two copies of the trust, the settings; most sync a folder too


def test_kill_9_between_any_two_writes_of_a_renewal_with_a_new_key(registry: Registry, tmp_path: Path) -> None:
    number, killed = 0, True
    while killed:
        number += 1
        data = tmp_path / f"device-{number}"
        enrolment_flow.enrol(data, hub=registry.url, token=registry.token(f"gate-{number}"))

        def renew(data: Path = data) -> None:
            member = enrolment_flow.settle(data)
            assert member is not None
            enrolment_flow.keep(data, enrolment_flow.renew(data, member, hub=registry.url, new_key=True))

        killed = killed_at(number, renew)

        renew()  # the device starts again; it may hold the old key, both, or the new one
        member, row = enrolment_flow.settle(data), registry.enrolments.node(f"gate-{number}")
        assert member is not None
        assert row is not None
        assert row.standing.public_key == member.identity.public_key == member.certified.public_key
    assert number > 7  # the next key, the answer, the key's new name, the certificate: most sync a folder too


# Settings


def test_run_needs_no_more_than_enroll_wrote_and_the_devices_own_file_wins(registry: Registry, tmp_path: Path) -> None:
    registry.broker = "mqtts://broker.example:8883"
    assert registry.endpoint is not None
    registry.endpoint._office._broker_url = registry.broker
    folder = tmp_path / "device"
    folder.mkdir()
    (folder / "node.toml").write_text('cohort = "mine"\nport = 0\n[labels]\nroom = "2"\n')

    done = enrol_by_command(registry, registry.token(cohort="nyc", labels={"site": "plant-7"}), folder)
    settings = load(folder / "node.toml")

    assert done.exit_code == 0
    assert (settings.id, settings.fleet, settings.broker, settings.hub) == ("gate-17", "main", registry.broker, registry.url)
    assert (settings.cohort, settings.labels) == ("mine", {"site": "plant-7", "room": "2"})
    assert all(Path(path).is_file() for path in (settings.root, settings.tls_ca, settings.tls_certificate, settings.tls_key))
    with (folder / "node.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write('broker = "mqtt://10.0.0.9:1883"\n' + text)
    assert (load(folder / "node.toml").broker, load(folder / "node.toml").tls_ca) == ("mqtt://10.0.0.9:1883", "")


def test_what_is_no_token_or_no_url_is_told_and_the_secret_is_not_repeated(registry: Registry, tmp_path: Path) -> None:
    half = str(registry.token())[:-3]

    assert refused(lambda: Token.parse(half)) == Code.ENROLMENT_TOKEN
    with pytest.raises(Refused) as told:
        Token.parse(half)
    assert half[50:] not in str(told.value)
    for url in ("http://hub:8443", "https://", "https://hub/path", "https://hub:99999", "hub:8443"):
        done = CliRunner().invoke(command, ["enroll", "--hub", url, "--token", half, "--settings", str(tmp_path / "node.toml")])
        assert isinstance(done.exception, Refused)
        assert done.exception.code == Code.SETTINGS_INVALID


# Renewal


class Machine:
    """A device's clocks and its renewing, by hand."""

    def __init__(self, registry: Registry, data: Path, **settings: Any) -> None:
        folder = data.parent / f"{data.name}-settings"
        folder.mkdir(exist_ok=True)
        (folder / "node.toml").write_text(f'data = "{data}"\n')
        self.settings = load(folder / "node.toml").model_copy(update=settings)
        self.registry, self.wall_shift, self.monotonic = registry, 0.0, 1e6
        self.store, self.clock = NodeStore(data / "node.sqlite"), SignedClock()
        self.moved: list[str] = []
        self.trusted: list[TrustBundle] = []
        self.renewing = Renewing(
            self.settings,
            store=self.store,
            clock=self.clock,
            wall=self.wall,
            monotonic=lambda: self.monotonic,
            rng=Random(1),
            moved=self.moved.append,
            take_trust=self.trusted.append,
        )

    def wall(self) -> float:
        return self.registry.wall() + self.wall_shift

    def turn(self, *, online: bool = True) -> None:
        """A tick, and one more when what it began is finished."""
        self.renewing.tick(online=online)
        for thread in threading.enumerate():
            if thread.name == "renewal":
                thread.join(100)
        self.renewing.tick(online=online)

    @property
    def ends(self) -> int:
        member = enrolment_flow.settle(self.settings.data)
        assert member is not None
        return member.certified.ends

    @property
    def now(self) -> float:
        return self.clock.now(wall=self.wall(), monotonic=self.monotonic)


@pytest.fixture
def machine(registry: Registry, data: Path) -> Machine:
    enrolment_flow.enrol(data, hub=registry.url, token=registry.token())
    return Machine(registry, data)


def days(number: float) -> float:
    return timedelta(days=number).total_seconds()


def test_a_running_node_renews_at_half_of_its_certificates_life_and_not_before(registry: Registry, machine: Machine) -> None:
    first = machine.ends
    registry.wall.shift = days(35)
    machine.turn()
    before_half = machine.ends
    registry.wall.shift = days(45.1)
    machine.turn()

    assert before_half == first
    assert machine.ends == pytest.approx(first + days(45.1), abs=120)
    assert len(machine.trusted) == 1
    assert (machine.settings.data / "enrolment" / "node.crt").read_bytes().count(b"BEGIN CERTIFICATE") == 2


def test_after_months_offline_an_expired_certificate_is_renewed_by_the_devices_key(registry: Registry, machine: Machine) -> None:
    registry.wall.shift = days(330)
    with registry.running():  # with a certificate of today
        machine.settings = machine.settings.model_copy(update={"hub": registry.url})
        machine.renewing._settings = machine.settings
        machine.turn(online=False)

        assert machine.ends > registry.wall() + days(80)


def test_after_more_than_the_way_back_only_a_token_helps(registry: Registry, machine: Machine) -> None:
    first = machine.ends
    registry.wall.shift = days(90 + 401)
    with registry.running():
        machine.renewing._settings = machine.settings.model_copy(update={"hub": registry.url})
        machine.turn()

    assert machine.ends == first
    assert registry.endpoint is not None
    assert registry.endpoint.refused.get_nowait()[1].code == Code.ENROLMENT_REQUEST


@pytest.mark.parametrize("wrong", [-days(20_000), -days(3), days(800)], ids=["1972", "three days behind", "two years ahead"])
def test_a_clock_that_is_wrong_is_put_right_by_what_the_hubs_issuer_signs(registry: Registry, machine: Machine, wrong: float) -> None:
    machine.store.raise_fact("clock_floor", int(registry.wall()))
    machine.wall_shift = wrong

    machine.turn()

    assert machine.now == pytest.approx(registry.wall(), abs=120)
    assert machine.store.fact("clock_floor") == pytest.approx(registry.wall(), abs=120)


def test_a_revoked_node_is_refused_serves_on_and_asks_again_after_a_day(registry: Registry, machine: Machine) -> None:
    first = machine.ends
    registry.enrolments.revoke("gate-17")
    registry.wall.shift = days(46)

    machine.turn()
    machine.turn()
    machine.monotonic += days(1.6)
    machine.turn()

    assert registry.endpoint is not None
    codes = []
    while not registry.endpoint.refused.empty():
        codes.append(registry.endpoint.refused.get_nowait()[1].code)
    assert codes == [Code.ENROLMENT_REVOKED] * 2
    assert machine.ends == first


def test_a_new_key_is_known_to_the_hub_before_the_device_signs_with_it(registry: Registry, data: Path) -> None:
    old = enrolment_flow.enrol(data, hub=registry.url, token=registry.token()).identity.public_key
    machine = Machine(registry, data, new_key_on_renewal=True)
    registry.wall.shift = days(46)

    machine.turn()

    row = registry.enrolments.node("gate-17")
    assert row is not None
    assert row.standing.public_key == machine.renewing.identity.public_key != old
    assert row.standing.earlier_key == old
    assert {path.name for path in data.glob("*.pem")} == {"device.pem"}


def test_a_renewal_that_names_another_root_or_fleet_is_refused(
    registry: Registry, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hub that was broken into may send a node to another broker, but not to another publisher."""
    other = Registry(tmp_path / "other").office
    honest = Office.renew
    theirs = other._repository.root()
    bundle = other._trust_bundle()
    monkeypatch.setattr(Office, "renew", lambda self, sealed: honest(self, sealed).model_copy(update={"root": theirs, "trust": bundle}))
    before = machine.settings.root.read_bytes()
    registry.wall.shift = days(46)

    machine.turn()

    assert machine.settings.root.read_bytes() == before
    assert machine.trusted == []


def test_a_broker_that_moved_is_followed_unless_the_site_has_its_own(
    registry: Registry, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Office.renew
    moved = "mqtts://elsewhere.example:8883"
    monkeypatch.setattr(Office, "renew", lambda self, sealed: honest(self, sealed).model_copy(update={"broker": moved}))
    registry.wall.shift = days(46)

    machine.turn()

    assert machine.moved == [moved]
    assert load(machine.settings.data.parent / "data-settings" / "node.toml").broker == moved


def test_a_signature_of_another_key_renews_nothing(registry: Registry, data: Path, tmp_path: Path) -> None:
    member = enrolment_flow.enrol(data, hub=registry.url, token=registry.token("gate-1"))
    thief = Identity.load_or_create(tmp_path / "thief.pem")
    forged = enrolment_flow.Membership(thief, member.kept, member.answer, member.certified)

    assert refused(lambda: enrolment_flow.renew(tmp_path / "nothing", forged, hub=registry.url, new_key=False)) == Code.ENROLMENT_REQUEST


def test_an_enrolment_that_is_damaged_is_told_and_not_taken_for_none(registry: Registry, data: Path) -> None:
    enrolment_flow.enrol(data, hub=registry.url, token=registry.token())
    kept = data / "enrolment" / "kept"
    kept.write_bytes(kept.read_bytes()[:-1])

    assert refused(lambda: enrolment_flow.settle(data)) == Code.SETTINGS_INVALID
    assert refused(lambda: Enrolment(data).kept()) == Code.SETTINGS_INVALID


def test_what_the_hub_sends_fits_its_bound(registry: Registry, data: Path) -> None:
    member = enrolment_flow.enrol(data, hub=registry.url, token=registry.token())

    assert len(member.kept.enrolled) < Enrolled.bytes_max / 100
