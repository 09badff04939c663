"""A key that was replaced on one machine: a leader on another that cannot sign says what to copy, and lets one lead that can."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from securesystemslib.signer import Key
from sqlalchemy import text

from hub.database.connection import Database
from hub.database.leadership import Deposed, Leadership, leader_of
from hub.database.members import Member, Members
from hub.database.troubles import Troubles
from hub.service.delivery.online_keys import LoadKey, StandbyKeys
from hub.service.roles import processes
from hub.service.roles.standby import lead
from hub.signing.key_changes import Change, KeyChanges
from hub.signing.key_places import signer_of, stem_of
from hub.signing.tuf_repository import Repository
from schemas.errors import Code, Refused
from tests.brokers import FLEET, Broker
from tests.databases import needs_postgresql
from tests.hub.apart import ONLINE, SECRET, SharedFleet, made
from tests.hub.hubs import until

pytestmark = [needs_postgresql, pytest.mark.postgres]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    monkeypatch.setattr(processes, "GIVE_UP_SECONDS", 2.0)
    monkeypatch.setattr("hub.service.delivery.online_keys.AGAIN_SECONDS", 0.5)
    yield
    structlog.reset_defaults()


@pytest.fixture
def shared(tmp_path: Path, mosquitto: Broker) -> SharedFleet:
    return SharedFleet.make(tmp_path / "fleet", mosquitto)


def loader(directory: Path) -> LoadKey:
    return lambda role, keyids: signer_of(stem_of(directory, role), keyids, SECRET)


def rotate_here(fleet: SharedFleet) -> Key:
    """Give `rollouts` another key, which lies in this fleet's folder alone."""
    (fleet.directory / "online" / "rollouts.pem").unlink()
    key = made(fleet.directory, "rollouts").public_key
    changes = KeyChanges(fleet.directory / "trust", FLEET)
    offer = changes.draft(Change(rollouts=key), now=datetime.now(UTC))
    offer.sign(fleet.targets)
    changes.take_over(offer, now=datetime.now(UTC))
    return key


class StandingBy:
    """A process in a thread that stands by, in a folder."""

    def __init__(self, fleet: SharedFleet, directory: Path, name: str) -> None:
        signers = dict(zip(ONLINE, fleet.online, strict=True))
        self.keys = StandbyKeys(Repository(directory / "trust"), signers, loader(directory), monotonic=time.monotonic)
        self.leadership: Leadership | None = None
        self.stop = threading.Event()
        settings = fleet.settings(fleet.broker, roles=("controller",), name=name)
        self.thread = threading.Thread(target=self._run, args=(fleet.url, directory, settings))

    def _run(self, *arguments: object) -> None:
        self.leadership = lead(*arguments, self.stop, keys=self.keys)  # type: ignore[arg-type]

    @property
    def leads(self) -> bool:
        return self.leadership is not None


@contextmanager
def standing_by(fleet: SharedFleet, directory: Path, name: str) -> Iterator[StandingBy]:
    one = StandingBy(fleet, directory, name)
    one.thread.start()
    try:
        yield one
    finally:
        one.stop.set()
        one.thread.join(30)
        if one.leadership is not None:
            one.leadership.resign()


def named(fleet: SharedFleet, name: str) -> Member | None:
    return next((one for one in Members(fleet.store.database).all() if one.name == name), None)


def test_a_leader_without_the_new_key_lets_the_machine_lead_that_has_it(shared: SharedFleet, tmp_path: Path) -> None:
    other = shared.copy(tmp_path / "other")
    leading = shared.running("controller", directory=other, load_key=loader(other), name="ctl-b")
    leading.__enter__()
    with standing_by(shared, shared.directory, "ctl-a") as able:
        until("its name", lambda: named(shared, "ctl-a"))
        rotate_here(shared)
        until("the other to lead", lambda: able.leads)
        with pytest.raises(Deposed, match="has not the keys of rollouts, and ctl-a has"):
            leading.__exit__(None, None, None)
        found = [one for one in shared.store.alerts_of("refused") if one.code == Code.KEY_NOT_AUTHORISED]
        assert "copy online/rollouts.pem" in found[0].text
        assert str(other) in found[0].text

        # The machine that lacks it stands by, says so, and does not lead while another could; then it takes the files up.
        with standing_by(shared, other, "ctl-b") as lacking:
            until("its trouble", lambda: [one for one in Troubles(shared.store.database).all() if one.process == "ctl-b"])
            shutil.copy(shared.directory / "online" / "rollouts.pem", other / "online")
            until("no trouble", lambda: not Troubles(shared.store.database).all())
            assert not lacking.leads


def test_of_two_that_both_lack_a_key_one_leads_and_stays_and_signs_when_it_comes(shared: SharedFleet, tmp_path: Path) -> None:
    folders = [shared.copy(tmp_path / name) for name in ("b", "c")]
    leading = shared.running("controller", directory=folders[0], load_key=loader(folders[0]), name="b")
    with leading as service, standing_by(shared, folders[1], "c") as other:
        until("its name", lambda: named(shared, "c"))
        key = rotate_here(shared)
        until("both to lack it", lambda: {one.process for one in Troubles(shared.store.database).all()} == {"b", "c"})
        with pytest.raises(Refused, match=r"may not sign rollouts.*copy online/rollouts.pem from the machine"):
            Repository(folders[0] / "trust").set_rollout("delay", b"x", rollouts=shared.online[2], now=datetime.now(UTC))
        kept = time.monotonic() + processes.GIVE_UP_SECONDS + 2 * processes.BEAT_SECONDS
        until("time for several passes", lambda: time.monotonic() > kept)
        leader = leader_of(shared.store.database)
        assert leader is not None
        assert (leader.term, other.leads) == (1, False)

        shutil.copy(shared.directory / "online" / "rollouts.pem", folders[0] / "online")
        controlling = service._controlling
        assert controlling is not None
        until("the key to be taken up", lambda: not controlling.lacks_keys)
        assert controlling.announcer._signers.rollouts.public_key.keyid == key.keyid
        until("only the other to lack it", lambda: {one.process for one in Troubles(shared.store.database).all()} == {"c"})


def test_processes_that_were_killed_leave_the_list_after_a_day_or_when_replaced(shared: SharedFleet) -> None:
    members, host = Members(shared.store.database), "elsewhere"

    def beat(name: str, roles: str, folder: str, *, ago: float) -> Member:
        found = Member(name, roles, "1/1", host, 1, "0", 0, listens=False, term=0, folder=folder)
        members.beat(found)
        with shared.store.database.write() as db:
            db.execute(text("UPDATE members SET beat_at = beat_at - :ago WHERE name = :name"), {"ago": ago, "name": name})
        return found

    beat("long-dead", "web", "/a", ago=90_000)
    beat("standby-1", "standby", "/a", ago=60)
    beat("standby-2", "standby", "/b", ago=60)
    beat("blocks-a", "blocks", "/a", ago=60)
    mine = beat("standby-3", "standby", "/a", ago=0)
    assert "long-dead" not in {one.name for one in members.all()}
    members.forget_former(mine)
    members.prune()
    assert {one.name for one in members.all()} == {"standby-2", "standby-3", "blocks-a"}
    with shared.store.database.read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM members").scalar() == 3


def test_a_name_that_another_machine_has_is_not_taken_from_it(shared: SharedFleet) -> None:
    taken = Member("ctl-a", "standby", "1/1", "elsewhere", 1, "0", 0, listens=False, term=0, folder="/a")
    Members(shared.store.database).beat(taken)
    leader = Leadership(Database(shared.url), holder="another")
    assert leader.try_to_lead()
    with standing_by(shared, shared.directory, "ctl-a"):
        until("both", lambda: sum(one.roles == "standby" for one in Members(shared.store.database).all()) == 2)
        rows = {one.name: one.host for one in Members(shared.store.database).all()}
    leader.resign()
    assert rows.pop("ctl-a") == "elsewhere"
    assert next(iter(rows)).startswith("standby-")
