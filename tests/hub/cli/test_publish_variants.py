"""`publish` with builds and with a release file, `plan` and `export` of several builds: real models, real fleets, what scripts read."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hub.cli.errors import Exit
from hub.database.rows import NodeRow
from hub.database.store import Store
from hub.publish.block_store import BlockStore
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.manifest import Manifest, Requirements
from schemas.names import sha256
from schemas.state import Profile, Slot, State
from tests.databases import url_of
from tests.hub import digits
from tests.hub.cli.fleets import Done, Made, digest_of, make
from tests.hub.publish.test_foreign_models import gguf, prompts

DOCS = Path(__file__).parents[3] / "docs"
BOARDS = {"pi": ("aarch64", 4), "old": ("armv7l", 1), "gateway": ("x86_64", 4)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fleet, the classifier of digits in `digits.onnx`, rows that it has not seen in `held.npz`."""
    fleet = make(tmp_path_factory.mktemp("made"), "digits", "chat")
    (fleet.folder / "digits.onnx").write_bytes(digits.classifier())
    (fleet.folder / "next.onnx").write_bytes(digits.classifier(seed=1))
    digits.held_out(fleet.folder / "held.npz")
    digits.seen(fleet.folder / "seen.npz")
    return fleet


def publish(made: Made, version: str, *more: str, model: str = "digits.onnx") -> Done:
    return made.publish(version, "--held-out", str(made.folder / "held.npz"), "--truth", "digit", *more, model=model, name="digits")


def manifest_of(made: Made, version: str, model: str = "digits") -> Manifest:
    return codec.decode(Manifest, Repository(made.fleet / "trust").manifest(model, version))


@pytest.fixture(scope="module")
def several(made: Made) -> Made:
    """With 1.0.0 in three builds, each for another board, and three nodes that have it."""
    (made.folder / "release.toml").write_text(
        """
name = "digits"
version = "1.0.0"
model = "digits.onnx"
[variants]
held_out = "held.npz"
truth = "digit"
[[variant]]
name = "int8"
[variant.requirements]
arch = ["armv7l"]
[[variant]]
name = "int8-weights"
[variant.requirements]
arch = ["aarch64"]
[[variant]]
name = "fp32"
"""
    )
    done = made.run("publish", str(made.folder / "release.toml"), "--json")
    assert done.returncode == 0, done.stderr
    return made


def nodes(made: Made, version: str) -> None:
    """One node a board, each serving its build of this version."""
    digest = Repository(made.fleet / "trust").manifest("digits", version)
    served = {"pi": "int8-weights", "old": "int8", "gateway": "fp32"}
    store = Store(url_of(made.fleet / "hub.sqlite"))
    for name, (arch, cores) in BOARDS.items():
        profile = Profile(arch=arch, cores=cores, memory_bytes=10**9, labels={"site": "s"})
        slot = Slot(model="digits", state="active", serving=sha256(digest), variant=served[name])
        state = State(node=name, session=1, status="online", at=0, software="x", profile=profile, slots=(slot,), findings=())
        store.upsert_node(NodeRow(name, 1, "online", int(time.time()), codec.encode(state), b"", "all"))
    store.close()


def test_builds_are_printed_with_size_score_and_latency_for_scripts(made: Made) -> None:
    done = publish(made, "0.1.0", "--variants", "int8,fp16,fp32")
    assert done.returncode == 0, done.stderr

    told = json.loads(done.stdout)
    manifest = manifest_of(made, "0.1.0")
    assert [one["variant"] for one in told["variants"]] == ["int8", "fp16", "fp32"] == [one.name for one in manifest.variants]
    for one, variant in zip(told["variants"], manifest.variants, strict=True):
        assert variant.measured is not None
        assert (one["metric"], one["score"], one["latency_ms"]) == ("accuracy", variant.measured.score, variant.measured.latency_ms)
        assert one["bytes"] == sum(file.bytes for file in manifest.files_of(variant.name))
        assert 0 < one["bytes_to_fetch"] <= one["bytes"] + 2000
    assert told["left_out"] == []
    assert told["variants"][2]["never_chosen_before"] == "int8"
    dynamic = "no: DynamicQuantizeLinear is not known to keep rows apart"
    assert [one["joins_rows"] for one in told["variants"]] == [dynamic, "yes", "yes"]
    assert [variant.joining and variant.joining.together for variant in manifest.variants] == [False, True, True]


def test_people_see_a_table_and_are_warned_of_what_is_left_out_and_of_what_no_device_takes(made: Made) -> None:
    said = ["--held-out", str(made.folder / "held.npz"), "--truth", "digit", "--variants", "fp32,pruned,int8", "--sparsity", "0.95"]

    done = made.run("publish", str(made.folder / "digits.onnx"), "--name", "digits", "--version", "0.2.0", *said)

    assert done.returncode == 0, done.stderr
    assert re.search(r"fp32 .*accuracy", done.stdout)
    assert "variant 'pruned' is not published" in done.stderr
    assert "[variant.loss]" in done.stderr
    assert "no device will take variant 'int8'" in done.stderr


def test_where_all_are_wanted_a_loss_ends_it_and_leaves_the_folder_as_it_was(made: Made) -> None:
    before = digest_of(made.fleet)

    done = publish(made, "0.3.0", "--variants", "fp32,pruned", "--sparsity", "0.95", "--all-or-none")

    assert done.returncode == Exit.REFUSED
    assert json.loads(done.stdout)["error"]["code"] == "variant.loss"
    assert digest_of(made.fleet) == before


def test_the_same_builds_again_are_nothing_and_other_builds_a_conflict(made: Made) -> None:
    assert publish(made, "0.4.0", "--variants", "int8,fp32").returncode == 0

    again, other = publish(made, "0.4.0", "--variants", "int8,fp32"), publish(made, "0.4.0", "--variants", "fp32")

    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["bytes_stored"] == 0
    assert other.returncode == Exit.CONFLICT


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--variants", "int4"], ("int4", "int8-static")),
        (["--variants", "int8", "--truth", "species"], ("species", "digit")),
        (["--variants", "int8", "--held-out", "{folder}/absent.npz"], ("absent.npz", "none")),
    ],
)
def test_what_makes_no_sense_is_refused_with_both_sides_and_leaves_the_folder_as_it_was(
    made: Made, more: list[str], words: tuple[str, ...]
) -> None:
    before = digest_of(made.fleet)

    done = publish(made, "0.5.0", *[one.format(folder=made.folder) for one in more])

    assert done.returncode == Exit.REFUSED, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert digest_of(made.fleet) == before


def test_calibration_may_be_cut_from_the_table_that_holds_the_truth(made: Made) -> None:
    done = publish(made, "0.6.0", "--variants", "int8-static", "--calibration", str(made.folder / "held.npz"))

    assert done.returncode == 0, done.stderr


def test_options_stand_over_the_release_file(several: Made) -> None:
    done = several.run(
        "publish", str(several.folder / "release.toml"), "--version", "1.0.1", "--variants", "int8,fp32", "--licence", "MIT", "--json"
    )
    assert done.returncode == 0, done.stderr

    manifest = manifest_of(several, "1.0.1")
    assert [one.name for one in manifest.variants] == ["int8", "fp32"]
    assert manifest.variants[0].requirements == Requirements(arch=("armv7l",))
    assert manifest.licence == "MIT"


def test_without_a_release_file_a_name_and_a_version_are_needed(made: Made) -> None:
    done = made.run("publish", str(made.folder / "digits.onnx"), "--name", "digits")

    assert done.returncode == Exit.USAGE
    assert "--version" in done.stderr


def test_a_mistake_in_a_release_file_is_told_with_its_place(made: Made) -> None:
    (made.folder / "bad.toml").write_text('name = "digits"\nversion = "9.0.0"\nmodel = "digits.onnx"\n[limits]\nlatency = 5\n')
    before = digest_of(made.fleet)

    done = made.run("publish", str(made.folder / "bad.toml"))

    assert done.returncode == Exit.REFUSED
    assert all(word in done.stderr for word in ("bad.toml", "limits", "latency_ms_max", "settings.invalid"))
    assert digest_of(made.fleet) == before


def test_plan_prices_every_node_by_the_build_that_suits_it(several: Made) -> None:
    nodes(several, "1.0.0")
    done = several.run("publish", str(several.folder / "release.toml"), "--version", "1.1.0", "--json")
    assert done.returncode == 0, done.stderr
    several.folder.joinpath("second.toml").write_text(
        several.folder.joinpath("release.toml").read_text().replace("digits.onnx", "next.onnx").replace("1.0.0", "1.2.0")
    )
    done = several.run("publish", str(several.folder / "second.toml"), "--json")
    assert done.returncode == 0, done.stderr
    to_fetch = {one["variant"]: one["bytes_to_fetch"] for one in json.loads(done.stdout)["variants"]}

    same, other = (json.loads(several.run("plan", f"digits@{version}", "--json").stdout) for version in ("1.1.0", "1.2.0"))

    assert {one["node"]: one["variant"] for one in other["nodes"]} == {"pi": "int8-weights", "old": "int8", "gateway": "fp32"}
    assert {one["node"]: one["fetches"] for one in same["nodes"]} == dict.fromkeys(BOARDS, 0), "all of it is there already"
    for one in other["nodes"]:
        assert 0 < one["fetches"] <= to_fetch[one["variant"]]
    assert {one["variant"]: one["nodes"] for one in other["variants"]} == {"int8": 1, "int8-weights": 1, "fp32": 1}
    assert [one["variant"] for one in other["first_install"]] == ["int8", "int8-weights", "fp32"]
    assert other["bytes_planned"] == sum(one["fetches"] for one in other["nodes"])


def test_plan_says_of_a_node_that_no_build_suits_what_each_lacks(several: Made) -> None:
    (several.folder / "arm.toml").write_text((several.folder / "release.toml").read_text().replace('[[variant]]\nname = "fp32"\n', ""))
    done = several.run("publish", str(several.folder / "arm.toml"), "--version", "1.3.0", "--json")
    assert done.returncode == 0, done.stderr
    nodes(several, "1.0.0")

    rows = json.loads(several.run("plan", "digits@1.3.0", "--json").stdout)["nodes"]

    refused = {one["node"]: one["refused"] for one in rows}
    assert refused["pi"] == refused["old"] == ""
    assert all(word in refused["gateway"] for word in ("int8", "armv7l", "int8-weights", "aarch64", "x86_64"))


def test_an_export_carries_one_build_or_all(several: Made) -> None:
    snapshot, timestamp = (load_signer(several.fleet / "online" / f"{role}.pem", b"test") for role in ("snapshot", "timestamp"))
    Repository(several.fleet / "trust").refresh(snapshot=snapshot, timestamp=timestamp, now=datetime.now(UTC))  # as a hub does
    sizes = {}
    for name in ("int8", "fp32"):
        done = several.run("export", "digits@1.0.0", str(several.folder / f"{name}.parcel"), "--variant", name, "--json")
        assert done.returncode == 0, done.stderr
        sizes[name] = json.loads(done.stdout)["bytes"]
    done = several.run("export", "digits@1.0.0", str(several.folder / "all.parcel"), "--json")

    assert json.loads(done.stdout)["variants"] == ["int8", "int8-weights", "fp32"]
    assert sizes["int8"] < 0.6 * sizes["fp32"]
    assert json.loads(done.stdout)["bytes"] > sizes["fp32"]


def test_the_release_file_of_the_manual_is_published_as_it_stands(made: Made, tmp_path: Path) -> None:
    text = re.findall(r"```toml\n(.*?)```", (DOCS / "releases.md").read_text(), flags=re.DOTALL)[0]
    features, truth = digits.rows()
    frame = pd.DataFrame(features, columns=digits.PIXELS)
    (tmp_path / "release.toml").write_text(text)
    (tmp_path / "model.onnx").write_bytes(digits.classifier())
    (tmp_path / "labels.txt").write_text("\n".join("0123456789"))
    frame[: digits.TRAINED].assign(day=np.arange(digits.TRAINED) % 12).to_parquet(tmp_path / "reference.parquet")
    held_out = frame[digits.TRAINED :].assign(digit=truth[digits.TRAINED :], day=np.arange(len(frame) - digits.TRAINED) % 12)
    held_out.to_parquet(tmp_path / "held-out.parquet")

    done = made.run("publish", str(tmp_path / "release.toml"), "--version", "7.0.0", "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    manifest = manifest_of(made, told["version"])
    assert [one["variant"] for one in told["variants"]] == ["int8", "small", "fp32"]
    assert told["signals"] == ["p20", "p36"]
    assert manifest.limits.shadow is not None
    assert manifest.parameters is not None
    assert manifest.parameters[0].name == "threshold"
    assert manifest.variants[0].requirements.labels == {"site": "plant-7"}
    assert manifest.privacy is not None


def test_a_language_model_is_published_with_its_golden_prompts(made: Made, tmp_path: Path) -> None:
    path = prompts(tmp_path / "prompts.toml", " Paris.", agreement=0.5)

    done = made.run("publish", str(gguf(tmp_path / "chat.gguf")), "--name", "chat", "--version", "1.0.0", "--golden", str(path), "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["runtime"], told["golden"]) == ("llama", True)
    assert list(BlockStore(made.fleet / "blocks").digests())


def test_a_variant_for_an_arch_that_no_node_has_is_published_with_a_warning(several: Made) -> None:
    nodes(several, "1.0.0")
    text = (several.folder / "release.toml").read_text().replace("1.0.0", "1.0.7").replace("armv7l", "riscv64")
    (several.folder / "riscv.toml").write_text(text)

    done = several.run("publish", str(several.folder / "riscv.toml"), "--json")

    assert done.returncode == 0, done.stderr
    warnings = [one for one in json.loads(done.stdout)["warnings"] if "riscv64" in one]
    assert [("'int8'" in one, "aarch64, armv7l, x86_64" in one) for one in warnings] == [(True, True)]


def test_joining_is_stated_unless_a_node_is_too_old_to_read_it(tmp_path: Path) -> None:
    fleet = make(tmp_path, "digits")
    (fleet.folder / "digits.onnx").write_bytes(digits.classifier())

    def stated(version: str, *more: str) -> bool:
        done = fleet.publish(version, *more, model="digits.onnx", name="digits")
        assert done.returncode == 0, done.stderr
        return manifest_of(fleet, version).variants[0].joining is not None

    young = [stated("1.0.0"), stated("1.1.0", "--no-state-joining")]
    store = Store(url_of(fleet.fleet / "hub.sqlite"))
    state = State(node="old", session=1, status="online", at=0, software="x")  # Without findings, as nodes before minor versions report.
    store.upsert_node(NodeRow("old", 1, "online", int(time.time()), codec.encode(state), b"", "all"))
    store.close()

    assert (young, stated("1.2.0"), stated("1.3.0", "--state-joining")) == ([True, False], False, True)
    assert stated("1.0.0"), "the same content as before"
