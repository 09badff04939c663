"""Files of a release that change, vanish or cannot be read on the node's disk: never loaded, fetched again, and reported until then."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.trust.tuf_client import Release
from schemas.manifest import Limits
from tests.node.agent.activation import test_activation as activation
from tests.node.agent.activation.test_activation import affine, answers, ask, said, settle
from tests.node.agent.sites import Site

contents, publish = activation.contents, activation.publish
FOUND = "disk.damaged"


class Road:
    """Holds a courier back until the road is open."""

    def __init__(self, site: Site) -> None:
        self.open, self.asked = False, 0
        self._courier, self._held = site.slots._fetcher, []
        site.slots._fetcher = self

    def start(self, *what: Any, **more: Any) -> None:
        self.asked += 1
        self._held.append((what, more))
        self.flow()

    def flow(self) -> None:
        while self.open and self._held:
            what, more = self._held.pop()
            self._courier.start(*what, **more)

    def carry(self, model: str, carriage: Any) -> None:
        pass

    def cancel(self, model: str) -> None:
        self._held.clear()


@pytest.fixture
def started(tmp_path: Path, contents: dict[bytes, bytes]) -> Iterator[Callable[[], Site]]:
    sites: list[Site] = []

    def start() -> Site:
        for site in sites:
            site.server.stop()
            site.store.close()
        sites[:] = [Site(tmp_path / "node", contents)]
        sites[0].start()
        return sites[0]

    yield start
    sites[0].server.stop()


def file_of(site: Site, release: Release) -> Path:
    return site.folder / "artifacts" / release.digest.hex() / "fp32" / "model.onnx"


def change(file: Path) -> None:
    other = affine(7.0)
    assert len(other) == file.stat().st_size
    file.write_bytes(other)


def cut(file: Path) -> None:
    os.truncate(file, 10)


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def value(site: Site) -> float | None:
    response = ask(site)
    return float(response.json()["outputs"][0]["data"][0]) if response.status_code == 200 else None


def code(site: Site) -> str:
    return site.slots.report_of()[0].code


@pytest.mark.parametrize("damage", [change, cut, Path.unlink, make_a_folder, lambda file: shutil.rmtree(file.parent)])
def test_damaged_files_are_never_served_after_a_start_and_fetched_again(
    started: Callable[[], Site], publish: Callable[..., Release], damage: Callable[[Path], None]
) -> None:
    site, release = started(), publish("1.0.0", affine(2.0))
    settle(site, release)
    serving = value(site)
    damage(file_of(site, release))

    site = started()
    road = Road(site)
    site.turn_until(lambda: road.asked > 0)

    assert (code(site), release.digest in site.server.loaded(), answers(site)) == (FOUND, False, None)
    road.open = True
    road.flow()
    site.turn_until(lambda: answers(site) == "1.0.0")
    assert (value(site), site.slot().state, said(site, release)[-1], code(site)) == (serving, "active", "serving", "")
    assert "rolled_back" not in said(site, release)


def test_a_worker_that_ended_is_not_started_from_changed_files(started: Callable[[], Site], publish: Callable[..., Release]) -> None:
    site, release = started(), publish("1.0.0", affine(2.0))
    settle(site, release)
    serving, road = value(site), Road(site)
    change(file_of(site, release))

    os.kill(site.server.loaded()[release.digest] or 0, signal.SIGKILL)
    site.turn_until(lambda: road.asked > 0)

    assert (code(site), answers(site)) == (FOUND, None)
    road.open = True
    road.flow()
    site.turn_until(lambda: answers(site) == "1.0.0")
    assert (value(site), code(site)) == (serving, "")


def test_the_last_good_release_answers_while_damaged_files_are_fetched(
    started: Callable[[], Site], publish: Callable[..., Release]
) -> None:
    site, old, new = started(), publish("1.0.0", affine(2.0)), publish("2.0.0", affine(3.0))
    settle(site, old)
    settle(site, new)
    file_of(site, new).unlink()

    site = started()
    road = Road(site)
    site.turn_until(lambda: answers(site) == "1.0.0")

    assert (code(site), site.slot().serving.digest) == (FOUND, new.digest)  # type: ignore[union-attr]
    road.open = True
    road.flow()
    site.turn_until(lambda: answers(site) == "2.0.0" and set(site.server.loaded()) == {new.digest})
    assert "rolled_back" not in said(site, new)


def test_a_newer_release_takes_the_place_of_a_damaged_one(started: Callable[[], Site], publish: Callable[..., Release]) -> None:
    site, old, new = started(), publish("1.0.0", affine(2.0)), publish("2.0.0", affine(3.0))
    settle(site, old)
    file_of(site, old).unlink()
    site = started()
    road = Road(site)
    site.turn_until(lambda: road.asked > 0)

    site.wants(new)
    road.open = True
    road.flow()

    site.turn_until(lambda: answers(site) == "2.0.0")
    assert code(site) == ""


def manifest_of(site: Site, release: Release) -> Path:
    return site.folder / "artifacts" / release.digest.hex() / "manifest.msgpack"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, Path.unlink, make_a_folder])
@pytest.mark.parametrize("is_proven", [True, False], ids=["active", "on probation"])
def test_a_damaged_manifest_is_written_again_when_the_hub_says_it_again(
    started: Callable[[], Site], publish: Callable[..., Release], damage: Callable[[Path], None], is_proven: bool
) -> None:
    site = started()
    release = publish("1.0.0", affine(2.0), limits=Limits(probation_seconds=0 if is_proven else 3600))
    site.wants(release)
    site.turn_until(lambda: answers(site) == "1.0.0" and site.slot().proven is is_proven)
    whole = manifest_of(site, release).read_bytes()
    damage(manifest_of(site, release))

    site = started()
    site.turn_until(lambda: code(site) == FOUND)
    assert answers(site) is None

    site.slots.announced([release])
    site.turn_until(lambda: answers(site) == "1.0.0")
    assert (manifest_of(site, release).read_bytes(), code(site)) == (whole, "")
    assert "rolled_back" not in said(site, release)


def test_a_release_that_was_damaged_before_its_test_is_fetched_again_and_nothing_is_reported(
    started: Callable[[], Site], publish: Callable[..., Release]
) -> None:
    site, release = started(), publish("1.0.0", affine(2.0))
    courier, prepared = site.slots._fetcher, []

    def damaged_first(*what: Any) -> None:
        if not prepared:
            change(file_of(site, release))
        prepared.append(what)
        prepare(*what)

    prepare = site.slots._prepare
    site.slots._prepare = damaged_first  # type: ignore[method-assign]
    site.wants(release)
    site.turn_until(lambda: answers(site) == "1.0.0")

    assert site.slots._fetcher is courier
    assert [move.event for move in site.store.moves("m")][:5] == ["wanted", "fetched", "begun", "damaged", "fetched"]
    assert set(said(site, release)) <= {"serving"}
