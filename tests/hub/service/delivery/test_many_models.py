"""Announcing costs what changed: of many models, a change of one has the hub read, encode and publish what is of this one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.delivery.announce import LOOK_SECONDS, Announcer, Signers
from hub.signing.kept_copies import KeptCopies
from schemas import codec
from schemas.bundle import ModelBundle
from schemas.errors import Unreachable
from schemas.topics import Topics
from tests.databases import url_of
from tests.trust_fleet import Fleet


class Hub:
    """An announcer over a real repository; `said` is what it gave to the broker since the last look."""

    def __init__(self, folder: Path, models: int) -> None:
        self.names = [f"m{number:02}" for number in range(models)]
        self.fleet = Fleet.make(folder / "trust", models=self.names)
        for name in self.names:
            self.fleet.release("1.0.0", model=name)
            self.fleet.deploy("1.0.0", model=name)
            self.fleet.roll("1.0.0", model=name)
        self.topics, self.said, self.takes, self.clock = Topics("test"), dict[str, bytes](), 10**6, 0.0
        self.held: dict[str, list[bytes]] = {}
        store = Store(url_of(folder / "hub.sqlite"), clock=self.wall)
        store.create()
        keys = self.fleet.keys
        self.announcer = Announcer(
            repository=self.fleet.repository,
            link=self,  # type: ignore[arg-type]
            notes=Notes(store, publish=lambda alert: None, clock=self.wall),
            signers=Signers(keys["snapshot"], keys["timestamp"], keys["rollouts"]),
            wall=self.wall,
            monotonic=self.monotonic,
            held=lambda: self.held,
        )

    def wall(self) -> float:
        return self.fleet.now.timestamp()

    def monotonic(self) -> float:
        self.clock += 0.0001
        return self.clock

    def retain(self, topic: str, payload: bytes) -> None:
        if len(self.said) >= self.takes:
            raise Unreachable("the broker takes no more")
        self.said[topic.removeprefix(self.topics.prefix)] = payload

    def look(self) -> set[str]:
        self.said.clear()
        self.clock += 1.0
        self.announcer.tick(online=True)
        return set(self.said)

    def versions(self, name: str) -> list[str]:
        return [one.version for one in codec.decode(ModelBundle, self.said[f"model/{name}"]).manifests]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of the repository that are read from now on."""
    found, read = list[Path](), KeptCopies.read

    def counting(self: KeptCopies, path: Path) -> bytes:
        found.append(path)
        return read(self, path)

    monkeypatch.setattr(KeptCopies, "read", counting)
    return found


def costs(hub: Hub, reads: list[Path], change: Callable[[], object]) -> tuple[set[str], int, set[str]]:
    """What was said after a change, how many files were read for it, and of which models files of their own were."""
    change()
    reads.clear()
    said = hub.look()
    return said, len(reads), {name for name in hub.names if any(name in str(path) for path in reads)}


def test_a_change_of_one_model_reads_no_file_of_another(tmp_path: Path, reads: list[Path]) -> None:
    def measured(count: int) -> tuple[int, int]:
        hub = Hub(tmp_path / str(count), count)
        assert {f"model/{name}" for name in hub.names} < hub.look()

        def step() -> None:
            hub.fleet.deploy("1.0.0", serial=2, model="m01")
            hub.fleet.roll("1.0.0", serial=2, model="m01")

        said, stepped, whose = costs(hub, reads, step)
        assert (said, whose) == ({"deploy/m01", "trust"}, {"m01"})
        said, released, whose = costs(hub, reads, lambda: hub.fleet.release("1.1.0", model="m02"))
        assert (said, whose) == ({"model/m02", "trust/roles", "trust/time", "trust"}, {"m02"})
        assert hub.versions("m02") == ["1.0.0", "1.1.0"]
        return stepped, released

    assert measured(4) == measured(16), "with four times the models as many files are read"


def test_what_nodes_hold_is_announced_of_their_model_alone(tmp_path: Path, reads: list[Path]) -> None:
    hub = Hub(tmp_path, 3)
    for version in ("1.1.0", "1.2.0", "1.3.0"):
        hub.fleet.release(version, model="m01")
    hub.look()
    assert hub.versions("m01") == ["1.0.0", "1.2.0", "1.3.0"]  # What is deployed, and the newest two.
    digest = hub.fleet.repository.listed()["m01", "1.1.0"]

    hub.clock += LOOK_SECONDS
    said, _, whose = costs(hub, reads, lambda: hub.held.update(m01=[digest]))
    assert (said, whose) == ({"model/m01"}, {"m01"})
    assert hub.versions("m01") == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]


def test_a_damaged_model_keeps_no_other_from_being_announced(tmp_path: Path) -> None:
    hub = Hub(tmp_path, 3)
    hub.look()
    hub.fleet.release("1.1.0", model="m00")
    hub.fleet.release("1.1.0", model="m01")
    manifest = next(path for path in (tmp_path / "trust" / "documents").rglob("1.1.0") if "m00" in str(path))
    copy = tmp_path / "trust" / "copies" / manifest.relative_to(tmp_path / "trust")
    whole = [path.read_bytes() for path in (manifest, copy)]
    manifest.unlink()
    copy.unlink()

    assert hub.look() == {"model/m01", "trust/roles", "trust/time", "trust"}
    manifest.write_bytes(whole[0])
    copy.write_bytes(whole[1])
    hub.clock += LOOK_SECONDS
    assert hub.look() == {"model/m00"}


def test_what_a_turn_does_not_get_published_is_published_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path, 12)
    monkeypatch.setattr(hub, "monotonic", lambda: setattr(hub, "clock", hub.clock + 0.07) or hub.clock)
    hub.announcer._monotonic = hub.monotonic
    turns = [hub.look() for _ in range(20)]

    assert all(len(turn) <= 4 for turn in turns)
    assert sum(map(len, turns)) == len(set().union(*turns)) == 4 + 2 * 12
    assert turns[0] == {"trust/roles", "trust/time", "model/m00"} or len(turns[0]) == 3


def test_a_file_that_is_written_within_the_same_moment_is_noticed(tmp_path: Path) -> None:
    repository = Hub(tmp_path, 1).fleet
    seen = set()
    for serial in range(2, 12):
        repository.deploy("1.0.0", serial=serial, model="m00")
        seen.add(repository.repository.generation())
    assert len(seen) == 10

    path = tmp_path / "trust" / "documents" / "deployments" / "m00"
    long_ago = path.stat().st_mtime_ns - 10**10
    for folder in (path.parent, tmp_path / "trust" / "metadata"):
        os.utime(folder, ns=(long_ago, long_ago))
    quiet = repository.repository.generation()
    os.utime(path, ns=(long_ago, long_ago))
    assert repository.repository.generation() == quiet
    assert repository.repository.generation(thorough=True) != quiet
