"""Files stay inside their folder; settings say what is wrong with them."""

from pathlib import Path

import pytest

from node.settings import load
from node.storage.artifacts import Artifacts
from schemas.errors import Code, Refused
from schemas.manifest import Block, File, Manifest, Requirements, Tensor, Variant
from schemas.names import sha256
from schemas.state import Profile
from schemas.variant_choice import choose

GOOD = 'id = "gw-1"\nfleet = "f"\nbroker = "mqtt://h:1883"\ndata = "data"\nroot = "root.json"\n'


def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")

    with pytest.raises(Refused) as refusal:
        artifacts.write([("../outside", 0, b"x")])

    assert refusal.value.code is Code.ARTIFACT_PATH


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    (tmp_path / "artifacts" / "link").symlink_to("/etc")

    with pytest.raises(Refused):
        artifacts.allocate("link/file", 1)


def test_blocks_are_read_back_only_as_they_were_recorded(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    artifacts.allocate("r/v/f", 8)
    artifacts.write([("r/v/f", 0, b"good"), ("r/v/f", 4, b"more")])

    assert artifacts.holds("r/v/f", 4, sha256(b"more"), 4) == b"more"
    assert artifacts.holds("r/v/f", 0, sha256(b"other"), 4) is None
    assert artifacts.holds("r/v/gone", 0, sha256(b"good"), 4) is None


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(GOOD)

    settings = load(tmp_path / "node.toml")

    assert (settings.data, settings.root) == (tmp_path / "data", tmp_path / "root.json")


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node.toml").write_text(GOOD)
    monkeypatch.setenv("FLEETCAST_NODE_PORT", "9999")

    assert load(tmp_path / "node.toml").port == 9999


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (GOOD + "colour = 1\n", "colour"),
        (GOOD.replace("gw-1", "hub"), "reserved"),
        (GOOD.replace("gw-1", "GW/1"), "id"),
        (GOOD.replace('fleet = "f"\n', ""), "fleet"),
        (GOOD + "window_bytes = 1\n", "window_bytes"),
        ("not toml at all", "node.toml"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "node.toml").write_text(text)

    with pytest.raises(Refused, match=word):
        load(tmp_path / "node.toml")


def variant(name: str, **needs: object) -> Variant:
    block = Block(sha256(b"x"), 1)
    file = File(path="m.onnx", bytes=1, digest=block.digest, blocks=(block,))
    return Variant(name=name, requirements=Requirements(**needs), files=(file,))  # type: ignore[arg-type]


def test_the_first_variant_that_fits_is_chosen_and_none_is_a_refusal_that_says_what_is_missing() -> None:
    tensor = Tensor(name="x", datatype="FP32", shape=(-1,))
    variants = (variant("big", memory_bytes_min=10**12), variant("arm", arch=("aarch64",)), variant("any"))
    manifest = Manifest(model="m", version="1.0.0", created=1, inputs=(tensor,), outputs=(tensor,), variants=variants)
    device = Profile(arch="x86_64", cores=2, memory_bytes=10**9)

    assert choose(manifest, device).name == "any"
    with pytest.raises(Refused, match="aarch64") as refusal:
        choose(manifest.model_copy(update={"variants": variants[:2]}), device)
    assert refusal.value.code is Code.RELEASE_NO_VARIANT
    assert "1000000000000" in str(refusal.value)


def test_a_variant_whose_runtime_cannot_be_loaded_is_passed_over_and_the_refusal_says_why() -> None:
    tensor = Tensor(name="x", datatype="FP32", shape=(-1,))
    variants = (variant("large").model_copy(update={"runtime": "llama"}), variant("small"))
    manifest = Manifest(model="m", version="1.0.0", created=1, inputs=(tensor,), outputs=(tensor,), variants=variants)
    device = Profile(arch="x86_64", cores=2, memory_bytes=10**9, runtimes=("files", "onnx"))
    unloadable = {"llama": "the shared library libgomp.so.1 is not installed"}

    assert choose(manifest, device, unloadable=unloadable).name == "small"
    with pytest.raises(Refused, match=r"large needs the runtime llama, which is installed and cannot be loaded: .*libgomp\.so\.1"):
        choose(manifest.model_copy(update={"variants": variants[:1]}), device, unloadable=unloadable)
