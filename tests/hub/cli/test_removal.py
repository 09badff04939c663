"""`releases remove` and `models remove` by the real command: what is freed, what stays readable, and what is refused."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from hub.cli.errors import Exit
from hub.publish.block_store import BlockStore
from hub.publish.release_blocks import Payloads
from hub.service.rollouts.release_lookup import Releases
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.block_request import Range, Want
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from tests.hub.cli.fleets import Made, make
from tests.hub.cli.test_breaking import serves
from tests.hub.cli.test_rollout import Hub

PARTS, PART_BYTES = 6, 40_000


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path, "m", "other")


def files_release(made: Made, version: str, seeds: list[int], *, name: str = "m") -> Manifest:
    """Publish bytes that do not compress: releases with a seed in common have its blocks in common."""
    path = made.folder / f"{name}-{version}.bin"
    path.write_bytes(b"".join(np.random.default_rng(seed).bytes(PART_BYTES) for seed in seeds))
    done = made.publish(version, "--block-bytes", str(PART_BYTES), model=path.name, name=name)
    assert done.returncode == 0, done.stderr
    return manifest(made, name, version)


def manifest(made: Made, name: str, version: str) -> Manifest:
    return codec.decode(Manifest, repository(made).manifest(name, version))


def repository(made: Made) -> Repository:
    return Repository(made.fleet / "trust")


def store(made: Made) -> BlockStore:
    return BlockStore(made.fleet / "blocks")


def disk_bytes(made: Made) -> int:
    return sum(path.stat().st_size for path in (made.fleet / "blocks").rglob("*") if path.is_file())


def remove(made: Made, *words: str) -> "subprocess.CompletedProcess[str]":
    return made.run(*words, "--yes", "--json")


def test_removing_a_release_frees_exactly_its_own_blocks(made: Made) -> None:
    """2.0.0 shares two parts with 1.0.0 and one with another model's release."""
    first = files_release(made, "1.0.0", [1, 2, 3])
    elsewhere = files_release(made, "1.0.0", [4], name="other")
    second = files_release(made, "2.0.0", [1, 2, 4, 5, 6])
    needed = Payloads.of(first, store(made)).all | Payloads.of(elsewhere, store(made)).all
    own = Payloads.of(second, store(made)).all - needed
    before, expected = disk_bytes(made), sum(store(made).size(digest) for digest in own)
    listed = {row["version"]: row for row in json.loads(made.run("releases", "m", "--json").stdout)}

    done = remove(made, "releases", "remove", "m@2.0.0")

    assert done.returncode == 0, done.stderr
    assert expected >= 2 * PART_BYTES
    assert json.loads(done.stdout)["freed_bytes"] == expected == listed["2.0.0"]["frees"]
    assert before - disk_bytes(made) == expected
    assert all(store(made).intact(digest) for digest in needed & set(store(made).digests()))
    assert set(store(made).digests()) & own == set()
    assert repository(made).releases("m") == ["1.0.0"]


def test_a_release_of_many_blocks_is_freed_with_its_block_lists(made: Made) -> None:
    before = disk_bytes(made)
    path = made.folder / "many.bin"
    path.write_bytes(np.random.default_rng(7).bytes(1024 * 1500))
    assert made.publish("1.0.0", "--block-bytes", "1024", model=path.name).returncode == 0
    assert manifest(made, "m", "1.0.0").variants[0].files[0].index

    done = remove(made, "releases", "remove", "m@1.0.0")

    assert done.returncode == 0, done.stderr
    assert disk_bytes(made) == before
    assert list(store(made).digests()) == []


def test_a_removed_version_cannot_come_back_and_is_still_readable(made: Made) -> None:
    manifest = files_release(made, "1.0.0", [1])
    files_release(made, "1.1.0", [2])
    digest = sha256(codec.encode(manifest))

    assert remove(made, "releases", "remove", "m@1.0.0").returncode == 0
    again = made.publish("1.0.0", model="m-1.0.0.bin")

    assert again.returncode == Exit.CONFLICT
    assert "was withdrawn" in again.stderr
    releases = Releases(repository(made), store(made))
    assert releases.find(digest)[1] == manifest  # by which its windows and drift are read
    assert json.loads(made.run("releases", "m", "--json").stdout)[0]["version"] == "1.1.0"


def test_a_removal_that_was_cut_off_is_ended_by_the_next_one(made: Made) -> None:
    """The process was killed between the signature and the last block."""
    manifest = files_release(made, "1.0.0", [1, 2])
    team = load_signer(made.fleet / "keys" / "team.pem", b"test")
    repository(made).remove_release("m", "1.0.0", team=team, now=datetime.now(UTC))
    first = next(iter(Payloads.of(manifest, store(made)).files & set(store(made).digests())))
    store(made).remove(first)

    done = remove(made, "releases", "remove", "m@1.0.0")

    assert done.returncode == 0, done.stderr
    assert list(store(made).digests()) == []


def test_what_a_rollout_names_is_not_removed_unless_forced(made: Made) -> None:
    for version, seed in (("1.0.0", 1), ("1.1.0", 2), ("1.2.0", 3)):
        files_release(made, version, [seed])
    with Hub(made):
        assert made.run("rollout", "start", "m@1.1.0").returncode == 0
        refused = remove(made, "releases", "remove", "m@1.1.0")
        model = remove(made, "models", "remove", "m")
        listed = {row["version"]: row for row in json.loads(made.run("releases", "m", "--json").stdout)}
        free = remove(made, "releases", "remove", "m@1.0.0")
        forced = remove(made, "releases", "remove", "m@1.1.0", "--force")

    assert (refused.returncode, model.returncode) == (Exit.REFUSED, Exit.REFUSED)
    assert "m@1.1.0 is needed: the model's rollout, which is running, is of this release" in refused.stderr
    assert "[release.needed]" in refused.stderr
    assert "model m has a rollout of 1.1.0 (running)" in model.stderr
    assert {version: row["needed_as"] for version, row in listed.items()} == {"1.0.0": None, "1.1.0": "release", "1.2.0": None}
    assert {version: row["removable"] for version, row in listed.items()} == {"1.0.0": True, "1.1.0": False, "1.2.0": True}
    assert (free.returncode, forced.returncode) == (0, 0)


def test_without_a_terminal_removing_has_to_be_confirmed(made: Made) -> None:
    files_release(made, "1.0.0", [1])

    release = made.run("releases", "remove", "m@1.0.0")
    model = made.run("models", "remove", "m")

    assert (release.returncode, model.returncode) == (Exit.REFUSED, Exit.REFUSED)
    assert "add --yes" in release.stderr
    assert repository(made).releases("m") == ["1.0.0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("releases", "remove", "m@9.9.9"), "there is no release m@9.9.9"),
        (("releases", "remove", "nothing@1.0.0"), "there is no model 'nothing'"),
        (("models", "remove", "nothing"), "there is no model 'nothing'"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(made: Made, words: tuple[str, ...], said: str) -> None:
    done = remove(made, *words)

    assert done.returncode == Exit.REFUSED
    assert said in done.stderr


def test_removing_a_model_frees_its_blocks_and_no_others(made: Made) -> None:
    files_release(made, "1.0.0", [1, 2])
    files_release(made, "1.1.0", [2, 3])
    other = files_release(made, "1.0.0", [3, 4], name="other")

    done = remove(made, "models", "remove", "m")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["releases"] == 2
    assert set(store(made).digests()) == Payloads.of(other, store(made)).all & set(store(made).digests())
    assert [row["model"] for row in json.loads(made.run("models", "--json").stdout)] == ["other"]
    assert {row["model"] for row in json.loads(made.run("releases", "--json").stdout)} == {"other"}


def test_a_removed_model_can_be_made_anew_without_its_old_releases(made: Made) -> None:
    files_release(made, "1.0.0", [1])
    assert remove(made, "models", "remove", "m").returncode == 0

    old = made.publish("1.0.0", model="m-1.0.0.bin")
    files_release(made, "2.0.0", [5])

    assert old.returncode == Exit.CONFLICT
    assert repository(made).releases("m") == ["2.0.0"]


def test_while_a_release_is_being_published_none_is_removed(made: Made) -> None:
    files_release(made, "1.0.0", [1])
    with store(made).adding():
        done = remove(made, "releases", "remove", "m@1.0.0")

    assert done.returncode == Exit.CONFLICT
    assert "a release is being published now" in done.stderr
    assert repository(made).releases("m") == ["1.0.0"]


def test_a_lost_block_list_of_another_release_keeps_everything(made: Made) -> None:
    """What that release needs cannot be known, so nothing is removed."""
    path = made.folder / "many.bin"
    path.write_bytes(np.random.default_rng(7).bytes(1024 * 1500))
    assert made.publish("1.0.0", "--block-bytes", "1024", model=path.name).returncode == 0
    files_release(made, "2.0.0", [1])
    index = manifest(made, "m", "1.0.0").variants[0].files[0].index[0]
    store(made).path(index.digest).unlink()
    before = set(store(made).digests())

    done = remove(made, "releases", "remove", "m@2.0.0")

    assert done.returncode == Exit.REFUSED
    assert set(store(made).digests()) == before
    assert repository(made).releases("m") == ["1.0.0", "2.0.0"]


def test_plan_counts_on_nothing_of_a_removed_release_whose_list_is_gone(made: Made) -> None:
    path = made.folder / "many.bin"
    path.write_bytes(np.random.default_rng(7).bytes(1024 * 1500))
    assert made.publish("1.0.0", "--block-bytes", "1024", model=path.name).returncode == 0
    files_release(made, "1.1.0", [1])
    serves(made, "n1", "1.0.0")
    assert remove(made, "releases", "remove", "m@1.0.0").returncode == 0

    done = made.run("plan", "m@1.1.0", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes_planned"] >= PART_BYTES


def test_removed_blocks_are_not_served(made: Made) -> None:
    removed = sha256(codec.encode(files_release(made, "1.0.0", [1])))
    releases = Releases(repository(made), store(made))
    want = Want(release=removed, variant="default", ranges=(Range(0, 1),), encodings=("raw",))
    assert releases.wanted(want)

    assert remove(made, "releases", "remove", "m@1.0.0").returncode == 0

    with pytest.raises(Refused, match="was removed") as caught:
        releases.wanted(want)
    assert caught.value.code is Code.RELEASE_UNKNOWN
