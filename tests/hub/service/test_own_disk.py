"""What a hub says of its own disk: at once where nothing can be kept, and again when it can."""

import contextlib
import errno
from pathlib import Path

import pytest

from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.own_disk import TROUBLE_SECONDS, OwnDisk
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused
from tests.databases import only_sqlite, url_of
from tests.small_disk import small_disk


class Scene:
    """A real store, and what was published; `now` is the monotonic clock."""

    def __init__(self, folder: Path) -> None:
        self.store, self.now = Store(url_of(folder / "hub.sqlite")), 0.0
        self.store.create()
        self.published: list[Alert] = []
        self.notes = Notes(self.store, publish=self.published.append, clock=lambda: 1.0)
        self.disk = OwnDisk(self.notes, publish=self.published.append, wall=lambda: 1.0, monotonic=lambda: self.now)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_full_disk_is_an_alert_at_once_and_an_event_when_there_is_room(scene: Scene) -> None:
    for _ in range(100):
        assert scene.disk.failed(OSError(errno.ENOSPC, "No space left on device", "/fleet/blocks/x"))

    assert [(one.code, "/fleet/blocks/x" in one.text, "make room" in one.text) for one in scene.published] == [("disk.full", True, True)]
    assert not scene.store.events()

    scene.disk.worked()
    scene.disk.worked()
    assert [one.kind for one in scene.store.events()].count("disk.full") == 1
    assert [one.code for one in scene.published] == ["disk.full", "disk.full"]


@only_sqlite
def test_an_alert_raised_while_the_disk_is_full_is_kept_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=2 * 1024 * 1024) as disk:
        if not disk.is_mount():
            pytest.skip("may not mount here")
        scene = Scene(disk)
        (disk / "ballast").write_bytes(bytes(1024 * 1024))
        with contextlib.suppress(Refused):
            for _ in range(10_000):
                scene.store.add_event("x", "y" * 4096, {})
        alert = Alert(kind="refused", at=1, code="x", text="z" * 4096)
        for _ in range(2):
            with pytest.raises(Refused, match="make room"):
                scene.notes.alert(alert)
        scene.disk.worked()
        assert scene.published == []

        (disk / "ballast").unlink()
        scene.disk.worked()
        scene.disk.worked()
        assert scene.published == [one.alert for one in scene.store.alerts()] == [alert, alert]
        scene.store.close()


def test_damaged_metadata_is_one_alert_however_often_it_is_met(scene: Scene) -> None:
    damaged = Refused(Code.METADATA_DAMAGED, "/fleet/trust/metadata/7.targets.json is damaged; restore it from a backup")
    for _ in range(100):
        scene.disk.work_refused(damaged)
    assert [one.code for one in scene.published] == ["metadata.damaged"]

    scene.now += TROUBLE_SECONDS
    scene.disk.work_refused(damaged)
    assert len(scene.published) == 2


def test_a_damaged_database_ends_the_hub_and_other_errors_are_bugs(scene: Scene) -> None:
    with pytest.raises(Refused):
        scene.disk.refused(Refused(Code.DATABASE_DAMAGED, "hub.sqlite"))
    with pytest.raises(Refused):
        scene.disk.work_refused(Refused(Code.DISK_FULL, "hub.sqlite"))
    assert not scene.disk.failed(OSError(errno.ENOENT, "No such file"))
