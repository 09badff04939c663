"""A data folder that is away is not made again: it could not be put back, and nobody would see that it is gone."""

from pathlib import Path

import pytest

from node.agent.activation.manifests import Manifests
from node.storage.artifacts import Artifacts
from schemas.errors import Code, Refused
from schemas.manifest import Block, File, Manifest, Variant
from schemas.names import sha256
from tests.node.agent.sites import PROFILE, verified

FILE = File(path="deep/data.bin", bytes=4, digest=sha256(b"data"), blocks=(Block(sha256(b"data"), 4),))
RELEASE = verified(
    Manifest(model="m", version="1.0.0", created=1, inputs=(), outputs=(), variants=(Variant(name="v", runtime="files", files=(FILE,)),))
)


@pytest.mark.parametrize("what", ["allocate", "write", "keep", "point"])
def test_what_needs_a_data_folder_that_is_away_waits_and_makes_none(tmp_path: Path, what: str) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    artifacts = Artifacts(data / "artifacts")
    manifests = Manifests(artifacts, PROFILE)
    relative = artifacts.relative(RELEASE.digest, "v", FILE)
    artifacts.allocate(relative, 4)
    doing = {
        "allocate": lambda: artifacts.allocate(relative, 4),
        "write": lambda: artifacts.write([(relative, 0, b"data")]),
        "keep": lambda: manifests.keep(RELEASE),
        "point": lambda: artifacts.point("m", RELEASE.digest, "v"),
    }[what]

    data.rename(away)
    with pytest.raises(Refused, match="is gone: mount its disk") as refused:
        doing()
    assert refused.value.code is Code.DISK_FULL
    assert not data.exists()
    away.rename(data)
    doing()


def test_an_artifacts_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "data" / "artifacts")
    artifacts.directory.rmdir()

    artifacts.allocate(artifacts.relative(RELEASE.digest, "v", FILE), 4)

    assert artifacts.releases() == [RELEASE.digest]


def test_a_folder_in_the_place_of_a_link_makes_way_for_it(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    (tmp_path / "current" / "m").mkdir(parents=True)
    (tmp_path / "current" / "m" / "model.onnx").write_bytes(b"a copy that followed the link")

    artifacts.point("m", bytes(32), "fp32")

    assert artifacts.pointed() == {"m": bytes(32)}
