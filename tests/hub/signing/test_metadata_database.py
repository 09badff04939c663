"""Signed metadata in a database that several hubs share: no version is signed twice, whoever believes to lead."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.database.connection import Database
from hub.database.leadership import Deposed, Leadership, leader_of
from hub.database.place import MARKER
from hub.database.store import Store
from hub.signing.metadata_database import MOVED, move_to_database
from hub.signing.metadata_files import MetadataFolder
from hub.signing.parsed_metadata import parsed
from hub.signing.tuf_repository import Repository
from schemas.errors import Code, Refused
from schemas.rollout import rollout_path
from tests.databases import needs_postgresql, postgresql_url
from tests.hub.leading import folder_of, keep_keys
from tests.trust_fleet import DAY, NOW, Fleet, manifest

pytestmark = needs_postgresql


@pytest.fixture
def url(tmp_path: Path) -> str:
    return postgresql_url(tmp_path / "hub")


@pytest.fixture
def fleet(tmp_path: Path, url: str) -> Fleet:
    """A fleet that has signed some things in its folder, which are then moved."""
    made = Fleet.make(tmp_path / "a" / "trust", models=("delay", "other"))
    made.release("1.0.0")
    made.roll("1.0.0")
    made.deploy("1.0.0")
    made.refresh()
    move_to_database(tmp_path / "a" / "trust", url)
    made.repository = Repository(folder_of(tmp_path / "a", url))
    return made


def opened(tmp_path: Path, url: str, name: str) -> tuple[Leadership, Repository]:
    """A candidate on a machine of its own."""
    leadership = Leadership(Database(url), holder=name)
    return leadership, Repository(folder_of(tmp_path / name, url), fence=leadership.fence)


def test_all_that_a_folder_holds_is_moved_and_goes_on_in_the_database(tmp_path: Path, fleet: Fleet, url: str) -> None:
    fleet.release("1.1.0")
    bundle = fleet.refresh()
    other = Repository(folder_of(tmp_path / "b", url))

    assert other.releases("delay") == ["1.0.0", "1.1.0"]
    assert other.manifest("delay", "1.1.0") == manifest("1.1.0")
    assert other.trust_bundle() == bundle
    assert other.rollout("delay") == fleet.repository.rollout("delay")
    assert other.deployments("delay") == fleet.repository.deployments("delay")
    assert other.root() == (tmp_path / "a" / "trust" / MOVED / "metadata" / "1.root.json").read_bytes()


def test_models_keys_and_settings_change_in_the_database_as_in_a_folder(tmp_path: Path, fleet: Fleet, url: str) -> None:
    before = fleet.repository.generation()
    fleet.repository.set_device_settings({"gw-1": b"settings"}, rollouts=fleet.keys["rollouts"])
    assert fleet.repository.generation() == before  # nothing is vouched for anew
    fleet.repository.renew_releases("delay", team=fleet.keys["team"], now=NOW)
    fleet.repository.undelegate("other", targets=fleet.keys["targets"], now=NOW)
    fleet.repository.remove_release("delay", "1.0.0", team=fleet.keys["team"], now=NOW)
    fleet.refresh(after=DAY)

    other = Repository(folder_of(tmp_path / "b", url))
    assert list(other.nodes_with_settings()) == ["gw-1"]
    assert (other.models(), other.removed()) == (["delay"], [("delay", "1.0.0")])
    assert other.generation() > before
    other.remove_device_settings("gw-1")
    assert fleet.repository.device_settings("gw-1") is None


def test_what_stands_changes_for_the_model_that_was_signed_for_alone(tmp_path: Path, fleet: Fleet, url: str) -> None:
    other = Repository(folder_of(tmp_path / "b", url))
    before, generation = other.standing(), other.generation()
    assert (other.standing(), other.generation(thorough=True)) == (before, generation)  # a look changes nothing
    fleet.deploy("1.0.0")

    assert other.generation() > generation
    after = other.standing()
    assert after["other"] == before["other"]
    assert after["delay"].deployments != before["delay"].deployments
    fleet.roll("1.0.0", serial=2)
    fleet.refresh(after=DAY)
    assert other.standing()["delay"].rollout != after["delay"].rollout
    assert len(fleet.repository._folder.matching(rollout_path("*/*"))) == 1  # what the earlier role listed is gone


def test_move_is_refused_where_the_database_is_of_another_fleet(tmp_path: Path, fleet: Fleet, url: str) -> None:
    other = Fleet.make(tmp_path / "other" / "trust")

    with pytest.raises(Refused) as caught:
        move_to_database(tmp_path / "other" / "trust", url)
    assert caught.value.code == Code.SETTINGS_INVALID
    other.release("2.0.0")  # nothing was moved


def test_two_copies_of_a_folder_are_moved_once(tmp_path: Path, url: str) -> None:
    first = Fleet.make(tmp_path / "a" / "trust")
    copy = tmp_path / "b"
    subprocess.run(["cp", "-r", tmp_path / "a", copy], check=True)

    assert move_to_database(tmp_path / "a" / "trust", url)
    assert move_to_database(copy / "trust", url)
    assert not move_to_database(copy / "trust", url)
    assert (copy / "trust" / MARKER).exists()
    with pytest.raises(FileNotFoundError):
        MetadataFolder(copy / "trust").newest_bytes("root")
    assert Repository(folder_of(copy, url)).root() == Repository(folder_of(tmp_path / "a", url)).root() == first_root(tmp_path)
    assert first


def first_root(tmp_path: Path) -> bytes:
    return (tmp_path / "a" / "trust" / MOVED / "metadata" / "1.root.json").read_bytes()


def test_a_folder_without_its_database_names_the_setting(tmp_path: Path, fleet: Fleet) -> None:
    (tmp_path / "a" / "fleet.toml").write_text("")

    with pytest.raises(Refused, match="database_url"):
        Repository(tmp_path / "a" / "trust")


def test_writers_at_once_sign_no_version_twice(tmp_path: Path, fleet: Fleet, url: str) -> None:
    def renew(name: str) -> None:
        repository = Repository(folder_of(tmp_path / name, url))
        for _ in range(10):
            repository.renew_targets(targets=fleet.keys["targets"], now=NOW)

    threads = [threading.Thread(target=renew, args=(f"m{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    fleet.refresh()
    assert parsed(fleet.repository.trust_roles().targets).signed.version == 31


def test_a_leader_of_an_earlier_term_signs_nothing_whatever_it_believes(tmp_path: Path, fleet: Fleet, url: str) -> None:
    first, earlier = opened(tmp_path, url, "first")
    second, later = opened(tmp_path, url, "second")
    keys = {"snapshot": fleet.keys["snapshot"], "timestamp": fleet.keys["timestamp"]}
    assert first.try_to_lead()
    assert not second.try_to_lead()
    earlier.refresh(**keys, now=NOW + DAY)
    session = first._session
    assert session is not None
    session.invalidate()  # as a server that ends it, and the process has not noticed yet
    second_leads(second)
    before = later.trust_bundle()

    for sign in (
        lambda: earlier.refresh(**keys, now=NOW + 2 * DAY),
        lambda: earlier.set_deployments("delay", b"statement", rollouts=fleet.keys["rollouts"]),
        lambda: earlier.set_rollout("delay", b"rollout", rollouts=fleet.keys["rollouts"], now=NOW),
        lambda: earlier.set_device_settings({"gw-1": b"settings"}, rollouts=fleet.keys["rollouts"]),
        lambda: earlier.renew_rollouts(rollouts=fleet.keys["rollouts"], now=NOW + 30 * DAY),
    ):
        with pytest.raises(Deposed):
            sign()
    assert later.trust_bundle() == before
    assert later.refresh(**keys, now=NOW + 2 * DAY)
    found = leader_of(Database(url))
    assert found is not None
    assert (found.term, found.holder) == (2, "second")
    second.resign()


def second_leads(leadership: Leadership) -> None:
    deadline = time.monotonic() + 20
    while not leadership.try_to_lead():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_candidate_with_a_wrong_clock_does_not_lead(url: str) -> None:
    Store(url).create()
    late = Leadership(Database(url), holder="late", wall=lambda: time.time() - 3600)
    right = Leadership(Database(url), holder="right")

    assert not late.try_to_lead()
    assert late.is_clock_wrong
    assert -3610 < late.clock_differs < -3590
    assert right.try_to_lead()
    right.resign()


class Machine:
    """A real process that leads or waits to."""

    def __init__(self, name: str, url: str, directory: Path) -> None:
        arguments = [sys.executable, "-m", "tests.hub.leading", name, url, str(directory)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.signed: list[int] = []

    def read(self, until: str) -> str:
        """Return the first line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "signed":
                self.signed.append(int(rest))
            if word == until:
                return rest
        raise AssertionError(f"it ended before {until!r}")


@pytest.fixture
def machines(tmp_path: Path, fleet: Fleet, url: str) -> Iterator[list[Machine]]:
    made = []
    for name in ("first", "second"):
        folder_of(tmp_path / name, url)
        keep_keys(fleet, tmp_path / name / "keys")
        made.append(Machine(name, url, tmp_path / name))
        made[-1].read("ready")
        if name == "first":
            made[-1].read("leads")
            made[-1].read("signed")
    yield made
    for one in made:
        one.process.kill()
        one.process.wait(20)


@pytest.mark.postgres
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_another_takes_over_within_ten_seconds_and_the_first_signs_no_more(machines: list[Machine], how: signal.Signals) -> None:
    first, second = machines
    os.kill(first.process.pid, how)
    began = time.monotonic()
    second.read("leads")
    second.read("signed")
    assert time.monotonic() - began < 10
    if how is signal.SIGSTOP:
        os.kill(first.process.pid, signal.SIGCONT)
        first.read("deposed")
    else:
        first.process.wait(20)
        assert first.process.stdout is not None
        first.signed += [int(line.split()[1]) for line in first.process.stdout if line.startswith("signed") and line.endswith("\n")]
    second.read("signed")

    assert not set(first.signed) & set(second.signed)
    assert second.signed == list(range(second.signed[0], second.signed[0] + len(second.signed)))
