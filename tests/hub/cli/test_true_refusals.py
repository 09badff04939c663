"""Refusals name the cause that there is: a missing folder, labels that no node has, a device, a mistyped key."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from hub.cli.errors import Exit
from hub.database.rows import NodeRow
from hub.database.store import Store
from schemas import codec
from schemas.state import State
from tests.databases import url_of
from tests.hub.cli.fleets import Made, make
from tests.hub.cli.test_rollout import Hub
from tests.small_disk import small_disk


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("made"), "m")
    assert made.publish("1.0.0").returncode == 0
    with Hub(made):  # which signs what an export carries
        pass
    return made


def test_a_folder_that_is_not_there_is_no_full_disk(made: Made, tmp_path: Path) -> None:
    done = made.run("export", "m@1.0.0", str(tmp_path / "nosuch" / "x"))

    assert done.returncode == Exit.REFUSED, done.stderr
    assert f"there is no folder {tmp_path / 'nosuch'}" in done.stderr
    assert "disk.full" not in done.stderr


def test_a_real_full_disk_is_still_called_that(made: Made) -> None:
    with small_disk(made.folder / "disk", size_bytes=8192) as disk:
        with suppress(OSError):
            (disk / "filler").write_bytes(bytes(8192))

        done = made.run("export", "m@1.0.0", str(disk / "full.parcel"))

    assert done.returncode == Exit.DISK_FULL, done.stderr


def test_a_plan_says_whether_no_node_is_known_or_none_matches(made: Made) -> None:
    nobody = made.run("plan", "m@1.0.0", "--label", "ring=nosuch")
    state = State(node="n1", session=1, status="online", at=int(time.time()), slots=())
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.upsert_node(NodeRow("n1", 1, "online", int(time.time()), codec.encode(state), b"", "default"))
    store.close()
    other = made.run("plan", "m@1.0.0", "--label", "ring=nosuch")
    unfit = made.run("plan", "m@1.0.0")

    assert "No node has been heard from." in nobody.stdout
    assert "The one node that is known does not match ring=nosuch" in other.stdout
    assert "The release does not fit the one node" in unfit.stdout
    assert "No node has been heard from." not in other.stdout + unfit.stdout


def test_a_device_is_not_called_a_folder(made: Made) -> None:
    done = made.run("publish", "/dev/null", "--name", "m", "--version", "1.9.0")

    assert done.returncode == Exit.REFUSED, done.stderr
    assert "found a device, pipe or socket" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('modle = "good.onnx"\nname = "m"\nversion = "1.9.0"\n', ("found modle (did you mean model?)", "keys of the release")),
        ('model = "good.onnx"\nname = "m"\nversion = "1.9.0"\n[golden]\ndatum = "x"\n', ("found datum", "keys of golden")),
    ],
)
def test_a_mistyped_key_of_a_release_file_is_named(made: Made, text: str, words: tuple[str, ...]) -> None:
    file = made.folder / "release.toml"
    file.write_text(text)

    done = made.run("publish", str(file))

    assert done.returncode == Exit.REFUSED, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
