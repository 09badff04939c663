"""A release file is taken whole or refused with the first mistake: where, what may stand there, and what does."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.publish.publish_request import Build
from hub.publish.release_file import NAMED, ReleaseFile, read_release
from schemas.errors import Code, Refused
from schemas.manifest import Limits, Requirements, Shadow

BASE = 'name = "delay"\nversion = "1.0.0"\nmodel = "model.onnx"\n'
TABLES = """
licence = "MIT"
files = ["labels.txt"]
runtime = "onnx"
[reference]
data = "ref.npz"
blocks = "day"
columns = ["a", "b"]
signals = ["a"]
[golden]
data = "golden.npz"
relative_tolerance = 0.01
[privacy]
epsilon = 2
window_seconds = 600
[limits]
latency_ms_max = 20
[limits.shadow]
seconds = 60
[[parameters]]
name = "threshold"
goes_to = "client"
default = 0.5
min = 0
max = 1
[variants]
builds = ["tiny", "int8", "fp32"]
loss_max = 0.02
held_out = "held.npz"
truth = "late"
[[variant]]
name = "int8"
sparsity = 0.3
[variant.requirements]
arch = ["armv7l"]
[[variant]]
name = "tiny"
model = "tiny.onnx"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model.onnx", "labels.txt", "ref.npz", "golden.npz", "held.npz", "tiny.onnx", "other.onnx"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, text: str, **said: object) -> ReleaseFile:
    (folder / "release.toml").write_text(text)
    return read_release(folder / "release.toml", said)


def refused(folder: Path, text: str, **said: object) -> str:
    with pytest.raises(Refused) as caught:
        read(folder, text, **said)
    assert caught.value.code == Code.SETTINGS_INVALID
    return caught.value.reason


def test_all_that_a_release_may_be_can_be_said(folder: Path) -> None:
    release = read(folder, BASE + TABLES)

    assert release.model == folder / "model.onnx"
    assert release.files == (folder / "labels.txt",)
    assert release.reference is not None
    assert (release.reference.blocks, release.reference.columns, release.reference.signals) == ("day", ("a", "b"), ("a",))
    assert release.golden.relative_tolerance == 0.01
    assert (release.privacy.epsilon, release.privacy.delta, release.privacy.window_seconds) == (2.0, 1e-6, 600)
    assert release.limits == Limits(latency_ms_max=20.0, shadow=Shadow(seconds=60))
    assert release.parameters[0].max == 1.0
    assert release.builds == (
        Build("tiny", model_path=folder / "tiny.onnx"),
        Build("int8", "int8", 0.3, requirements=Requirements(arch=("armv7l",))),
        Build("fp32"),
    )


@pytest.mark.parametrize(
    ("said", "watches", "expected"), [("", True, 1024), ("", False, None), (0, True, None), (256, True, 256), (256, False, 256)]
)
def test_nodes_calibrate_unless_nothing_is_watched_or_somebody_says_no(folder: Path, said: object, watches: bool, expected: object) -> None:
    release = read(folder, BASE + (f"[privacy]\ncalibration_rows = {said}\n" if said != "" else ""))

    assert release.privacy.own_rows(watches=watches) == expected


def test_too_few_rows_for_a_baseline_are_refused(folder: Path) -> None:
    assert "must be 0 or at least 256" in refused(folder, BASE + "[privacy]\ncalibration_rows = 255\n")


def test_a_release_without_variants_is_one_build_as_it_is(folder: Path) -> None:
    assert read(folder, BASE).builds == (Build("default"),)


def test_tables_alone_are_the_builds_in_their_order(folder: Path) -> None:
    text = BASE + "".join(f'[[variant]]\nname = "{name}"\n' for name in ("fp16", "pruned", "fp32"))

    assert [(one.name, one.how, one.sparsity) for one in read(folder, text).builds] == [
        ("fp16", "fp16", 0.0), ("pruned", "pruned", 0.5), ("fp32", "as-is", 0.0),
    ]  # fmt: skip


def test_what_the_command_line_says_stands_over_the_file_field_by_field(folder: Path) -> None:
    said = {"version": "2.0.0", "model": str(folder / "other.onnx"), "variants": {"builds": ["int8"]}, "limits": {"probation_seconds": 5}}

    release = read(folder, BASE + TABLES, **said)

    assert (release.name, release.version, release.model.name) == ("delay", "2.0.0", "other.onnx")
    assert release.builds == (Build("int8", "int8", 0.3, requirements=Requirements(arch=("armv7l",))),)
    assert (release.limits.latency_ms_max, release.limits.probation_seconds) == (20.0, 5)
    assert release.variants.loss_max == 0.02


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", ("not valid TOML",)),
        (BASE + "licens = 1", ("keys of the release", "licence", "licens")),
        (BASE + "[limits]\nlatency = 1", ("keys of limits", "latency_ms_max", "latency")),
        (BASE + "[limits.shadow]\nseconds = 1\nquorum = 2", ("keys of limits.shadow", "agreement_min", "quorum")),
        (BASE + '[[variant]]\nname = "int8"\n[variant.requirements]\nram = 1', ("variant.0.requirements", "memory_bytes_min", "ram")),
        ('name = "delay"\nmodel = "model.onnx"', ("version", "a value", "none")),
        (BASE + '[variants]\nloss_max = "1%"', ("variants.loss_max", "number", "1%")),
        (BASE + "[variants]\nloss_max = 2", ("variants.loss_max", "1", "2")),
        (BASE + '[variants]\nbuilds = ["int4"]', ("variants.builds", "int8", "int4")),
        (BASE + '[variants]\nbuilds = "int8"', ("variants.builds", "array", "int8")),
        (BASE + '[[variant]]\nname = "small"', ("variant.0", "build", "'small'")),
        (BASE + '[[variant]]\nname = "small"\nbuild = "int4"', ("variant.0", "int8")),
        (BASE + '[[parameters]]\nname = "t"\ngoes_to = "client"\ndefault = 0.5', ("parameters.0", "min and max")),
        (BASE + "version = 3", ("not valid TOML",)),
        ('name = "delay"\nversion = 1\nmodel = "model.onnx"', ("version", "string", "1")),
        ('name = "Delay?"\nversion = "1.0.0"\nmodel = "model.onnx"', ("name", "1 to 64 of a-z", "Delay?")),
        ('name = "delay"\nversion = "1.0.0"\nmodel = "nope.onnx"', ("model", "a file at", "nope.onnx", "none")),
        ('name = "delay"\nversion = "1.0.0"\nmodel = "."', ("model", "a file at", "a folder")),
        (BASE + '[variants]\nheld_out = "nope.npz"', ("variants.held_out", "nope.npz", "none")),
        (BASE + 'files = ["labels.txt", "nope.txt"]', ("files.1", "nope.txt", "none")),
        (BASE + '[[inputs]]\nname = "x"\ndatatype = "F32"\nshape = [1]', ("inputs.0.datatype", "FP32", "F32")),
        (BASE + "limits = 3", ("limits", "object", "3")),
        (BASE + "description = 1.5", ("description", "string", "1.5")),
    ],
)
def test_a_mistake_is_told_with_its_place_and_both_sides(folder: Path, text: str, words: tuple[str, ...]) -> None:
    reason = refused(folder, text)

    assert "release.toml" in reason
    assert all(word in reason for word in words), reason


def test_a_file_that_is_not_there_or_too_large_is_refused(folder: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        read_release(folder / "absent.toml", {})
    assert "at most" in refused(folder, "#" * (1024 * 1024 + 1))


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
tables = st.dictionaries(st.sampled_from([*ReleaseFile.model_fields, "data", "builds", "requirements"]), plain, max_size=3)
values = plain | tables | st.lists(plain | tables, max_size=2)


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.dictionaries(st.sampled_from([*ReleaseFile.model_fields, "x"]), values, max_size=6))
def test_whatever_is_said_is_parsed_or_refused_and_never_a_bug(fields: dict[str, object]) -> None:
    with pytest.raises(Refused):  # no file of the model is there
        read_release(None, {"name": "m", "version": "1.0.0", "model": "/nonexistent/model.onnx", **fields})


def test_every_name_that_says_how_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "releases.md").read_text()

    assert all(f"`{name}`" in page for name in NAMED)


@pytest.mark.parametrize(("line", "named"), [("model-name", "model-name"), ('"a[b"', "a[b"), ("float", "float"), ("n-", "n-")])
def test_an_unknown_key_is_named_whatever_it_looks_like(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "release.toml"
    path.write_text(f"{BASE}{line} = 1\n")

    with pytest.raises(Refused) as told:
        read_release(path, {})

    assert told.value.code is Code.SETTINGS_INVALID
    assert f"found {named}" in told.value.reason or named in told.value.reason.rpartition(":")[2]
