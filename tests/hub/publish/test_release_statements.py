"""Every statement of a release file is used or refused, with the file and the line on which it is."""

from pathlib import Path
from typing import Any

import pytest

from hub.publish.release_file import ReleaseFile, read_release
from hub.publish.release_statements import line_of
from schemas.errors import Code, Refused

HEAD = 'name = "m"\nversion = "1.0.0"\nmodel = "m.onnx"\n'
PAGE = Path(__file__).parents[3] / "docs" / "releases.md"
REFERENCE = '[reference]\ndata = "m.onnx"\n'


def read(folder: Path, text: str, model: str = "m.onnx", **overrides: Any) -> ReleaseFile:
    for name in ("m.onnx", model):
        (folder / name).write_bytes(b"any")
    (folder / "release.toml").write_text(HEAD.replace("m.onnx", model) + text)
    return read_release(folder / "release.toml", overrides, archs=lambda: frozenset({"e2k"}))


def variant(name: str, requirements: str = "") -> str:
    return f'[[variant]]\nname = "{name}"\n' + (f"[variant.requirements]\n{requirements}\n" if requirements else "")


UNUSED = {
    "a variant that builds does not name": ('[variants]\nbuilds = ["fp32"]\n\n' + variant("int8"), 7, "variant.0", "fp32"),
    "two variants of one name": ('[variants]\nbuilds = ["int8"]\n' + variant("int8") * 2, 8, "variant.1", "int8"),
    "an arch that nothing has": (variant("fp32", '# boards\narch = ["aarch64", "arm64"]'), 8, "arch", "arm64"),
    "an arch by another name": (variant("fp32", 'arch = ["amd64"]'), 7, "arch", "x86_64"),
    "a provider that ONNX Runtime has not": (variant("fp32", 'providers = ["cuda"]'), 7, "providers", "CUDAExecutionProvider"),
    "sparsity without pruning": ('[variants]\nbuilds = ["int8"]\nsparsity = 0.3\n', 6, "sparsity", "pruned"),
    "calibration without static builds": ('[variants]\ncalibration = "m.onnx"\n', 5, "calibration", "int8-static"),
    "a loss that nothing is measured for": ("[variants]\nloss_max = 0.1\n", 5, "loss_max", "measured"),
    "delta beside Laplace noise": (REFERENCE + '[privacy]\ndelta = 1e-5\nnoise = "laplace"\n', 7, "delta", "laplace"),
    "epsilon without anything counted": ("[privacy]\nepsilon = 1.0\n", 5, "epsilon", "reference"),
    "a day's budget without baselines": (REFERENCE + "[privacy]\ncalibration_rows = 0\nrho_day_max = 1.0\n", 8, "rho_day_max", "none"),
    "a season without times": (REFERENCE + "season = { hours = 4, weekends = true }\n", 6, "season", "time"),
    "a tolerance without golden inputs": ("[golden]\nproof = false\nrelative_tolerance = 0.1\n", 6, "relative_tolerance", "golden"),
    "an unknown key": ("[privacy]\n# budget\nepsilom = 1.0\n", 6, "epsilom", "epsilon"),
    "an unknown key of a variant": (variant("fp32") + variant("int8", "core_min = 2"), 9, "core_min", "cores_min"),
    "a wrong type": ('[limits]\nlatency_ms_max = "fast"\n', 5, "latency_ms_max", "fast"),
    "a file that is not there": (REFERENCE.replace("m.onnx", "absent.csv"), 5, "reference.data", "absent.csv"),
    "a build that is not known": ('[variants]\nbuilds = [\n  "fp32",\n  "int9",\n]\n', 5, "variants.builds", "int9"),
}


@pytest.mark.parametrize("what", UNUSED)
def test_a_statement_that_nothing_uses_is_refused_with_its_line(what: str, tmp_path: Path) -> None:
    text, line, key, word = UNUSED[what]

    with pytest.raises(Refused) as refused:
        read(tmp_path, text)

    assert refused.value.code is Code.SETTINGS_INVALID
    assert f"release.toml, line {line}: " in refused.value.reason
    assert key in refused.value.reason
    assert word in refused.value.reason


@pytest.mark.parametrize(
    "text",
    [
        variant("fp32", 'arch = ["aarch64", "e2k"]'),
        variant("fp32", 'providers = ["CUDAExecutionProvider"]'),
        '[variants]\nbuilds = ["int8", "fp32"]\nloss_max = 0.1\n' + variant("int8"),
        REFERENCE + '[privacy]\nnoise = "laplace"\n',
        "[golden]\nrelative_tolerance = 0.1\n",
    ],
)
def test_a_statement_that_is_used_is_taken(text: str, tmp_path: Path) -> None:
    read(tmp_path, text)


def test_the_command_line_may_choose_some_of_the_files_variants(tmp_path: Path) -> None:
    chosen = read(tmp_path, variant("int8") + variant("fp32"), variants={"builds": ["fp32"]})

    assert [one.name for one in chosen.builds] == ["fp32"]


def test_no_line_is_named_for_what_the_command_line_says(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read(tmp_path, "[variants]\nbuilds = []\n", variants={"loss_max": 2.0})

    assert ", line" not in refused.value.reason


def test_mending_shapes_is_for_onnx_models(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="line 4: fix_shapes"):
        read(tmp_path, "fix_shapes = true\n", model="m.tflite")


def test_every_key_of_the_documented_file_is_found_on_its_line() -> None:
    text = PAGE.read_text().split("```toml\n")[1].split("```")[0]
    lines = text.splitlines()

    for place, begins in {
        ("variants", "truth"): "truth =",
        ("variant", 1): "[[variant]]",
        ("variant", 0, "requirements", "labels"): "labels =",
        ("limits", "shadow", "seconds"): "seconds =",
        ("files",): "files =",
    }.items():
        line = line_of(text, place)
        assert line is not None
        assert lines[line - 1].startswith(begins)


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ('a = """\nb = 1\n\n"""\nb = [\n 1,\n]\n', ("b",), 5),
        ("[t]\nk = 1\n", ("t", "k"), 2),
        ("t.k = 1\n", ("t", "k"), 1),
        ("a = 1\n", ("b",), None),
        ("# only\n" * 20_000 + "a = 1\n", ("a",), None),
    ],
)
def test_lines_are_found_in_any_toml(text: str, place: tuple[str, ...], line: int | None) -> None:
    assert line_of(text, place) == line
