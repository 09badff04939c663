"""Every bad input ends in its exit code and a sentence, and leaves the fleet's folder as it was, byte for byte."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.cli.errors import Exit
from hub.operations.publishing import SIGNING_BYTES
from tests.brokers import free_port
from tests.hub.cli.fleets import BIN, INPUTS, digest_of, features, make, ridge, run
from tests.small_disk import BYTES, small_disk


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet with one release, a good model and a good reference, shared by the tests: each must leave it as it is."""
    folder = make(tmp_path_factory.mktemp("made"), "m").folder
    assert publish(folder, "1.0.0", "good.onnx", "--reference", str(folder / "good.npz")).returncode == 0
    return folder


def publish(folder: Path, version: str, model: str, *more: str) -> subprocess.CompletedProcess[str]:
    said = ["publish", str(folder / model), "--name", "m", "--version", version, "--passphrase-file", str(folder / "secret"), *more]
    return run(*said, "--json", fleet=folder / "fleet")


@pytest.fixture
def unchanged(made: Path) -> Iterator[Path]:
    before = digest_of(made / "fleet")
    yield made
    assert digest_of(made / "fleet") == before, "the fleet's folder has changed"


def refused(done: subprocess.CompletedProcess[str], code: Exit, *words: str) -> None:
    assert done.returncode == code, f"exit {done.returncode}: {done.stdout} {done.stderr}"
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr, f"{word!r} is not in {done.stderr!r}"


def test_a_file_that_is_no_onnx_is_refused(unchanged: Path, tmp_path: Path) -> None:
    (unchanged / "text.onnx").write_text("this is no model")

    refused(publish(unchanged, "2.0.0", "text.onnx"), Exit.REFUSED, "text.onnx", "ONNX")


@pytest.mark.parametrize("shape", ["x", "x=", "=1,4", "x=1,two"])
def test_a_shape_that_is_no_shape_is_refused_with_an_example(unchanged: Path, shape: str) -> None:
    refused(publish(unchanged, "2.0.0", "good.onnx", "--input-shape", shape), Exit.USAGE, "expected NAME=SIZES, such as audio=1,1760")


def test_a_shape_for_an_onnx_model_is_refused(unchanged: Path) -> None:
    refused(
        publish(unchanged, "2.0.0", "good.onnx", "--input-shape", "a=b=1,4"), Exit.REFUSED, "input_shapes", "a model that is not .tflite"
    )


def test_a_truncated_model_is_refused(unchanged: Path) -> None:
    data = (unchanged / "good.onnx").read_bytes()
    (unchanged / "short.onnx").write_bytes(data[: len(data) // 2])

    refused(publish(unchanged, "2.0.0", "short.onnx"), Exit.REFUSED, "short.onnx")


def test_external_data_outside_the_models_folder_is_refused(unchanged: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((2, 2), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 2])],
        [value("y", TensorProto.FLOAT, ["n", 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (unchanged / "outside.onnx").write_bytes(model.SerializeToString())
    assert onnx.load_model_from_string(model.SerializeToString()).graph.node

    refused(publish(unchanged, "2.0.0", "outside.onnx"), Exit.REFUSED, "external", "../../etc/passwd")


def test_a_version_published_twice_with_other_content_is_a_conflict(unchanged: Path) -> None:
    (unchanged / "other.onnx").write_bytes(ridge(alpha=9))

    done = publish(unchanged, "1.0.0", "other.onnx", "--reference", str(unchanged / "good.npz"))

    assert done.returncode == Exit.CONFLICT, done.stderr


def test_a_version_published_twice_with_the_same_content_is_nothing(unchanged: Path) -> None:
    done = publish(unchanged, "1.0.0", "good.onnx", "--reference", str(unchanged / "good.npz"))

    assert done.returncode == Exit.OK, done.stderr


@pytest.mark.parametrize(("columns", "words"), [(9, ("expected 10", "x8")), (11, ("expected 10", "x10"))])
def test_a_reference_whose_columns_do_not_match_is_refused(unchanged: Path, columns: int, words: tuple[str, ...]) -> None:
    np.savez(unchanged / "columns.npz", **{f"x{j}": INPUTS[:, j % 10].astype(np.float32) for j in range(columns)})

    refused(publish(unchanged, "2.0.0", "good.onnx", "--reference", str(unchanged / "columns.npz")), Exit.REFUSED, *words)


def test_nan_in_a_reference_is_refused_with_column_and_row(unchanged: Path) -> None:
    columns = features()
    columns["x3"][7] = np.nan
    np.savez(unchanged / "nan.npz", **columns)

    refused(publish(unchanged, "2.0.0", "good.onnx", "--reference", str(unchanged / "nan.npz")), Exit.REFUSED, "x3", "7")


def test_a_wrong_passphrase_is_told_as_that(unchanged: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong\n")
    (tmp_path / "wrong").chmod(0o600)

    done = run(
        "publish", str(unchanged / "good.onnx"), *("--name", "m", "--version", "2.0.0", "--passphrase-file", str(tmp_path / "wrong")),
        fleet=unchanged / "fleet",
    )  # fmt: skip

    refused(done, Exit.KEY, "passphrase")


def test_an_unreadable_key_is_named(made: Path) -> None:
    key = made / "fleet" / "keys" / "team.pem"
    genuine = key.read_bytes()
    try:
        key.write_text("no key at all")
        done = publish(made, "2.0.0", "good.onnx")
    finally:
        key.write_bytes(genuine)

    refused(done, Exit.KEY, "team.pem")


def test_a_broker_that_is_not_there_is_unreachable(made: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    environment = {**os.environ, "FLEETCAST_CONNECT_SECONDS": "2"}

    done = subprocess.run(
        [str(BIN / "fleetcast"), "hub", str(made / "fleet"), "--broker", url, "--passphrase-file", str(made / "secret")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=240,
    )

    refused(done, Exit.UNREACHABLE, url)


def test_a_port_in_use_is_told_with_its_number(unchanged: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [str(BIN / "fleetcast"), "hub", str(unchanged / "fleet"), "--passphrase-file", str(unchanged / "secret")],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "FLEETCAST_BROKER_PORT": str(port)},
            timeout=240,
        )

    refused(done, Exit.PORT_IN_USE, str(port))


def test_a_full_disk_leaves_no_fleet_behind(made: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "filler").write_bytes(bytes(BYTES // 4 - 4096))
        for number in range(3):
            with contextlib.suppress(OSError):
                (disk / f"filler-{number}").write_bytes(bytes(BYTES // 4 - 8192))
        done = run("init", str(disk / "fleet"), "--fleet", "f", "--passphrase-file", str(made / "secret"))

        refused(done, Exit.DISK_FULL)
        assert not (disk / "fleet").exists()


@pytest.mark.parametrize("missing_bytes", [4096, 200_000])
def test_a_disk_too_full_to_sign_leaves_no_block_and_no_delegation_behind(made: Path, tmp_path: Path, missing_bytes: int) -> None:
    """Enough room for the release's blocks, and not for what names them: found before the first of them is stored."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False).returncode != 0:
        pytest.skip("a disk of a few megabytes needs the right to mount one")
    try:
        shutil.copytree(made / "fleet", folder / "fleet")
        (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - SIGNING_BYTES + missing_bytes))
        before = digest_of(folder / "fleet")
        said = ["--name", "new", "--version", "1.0.0", "--passphrase-file", str(made / "secret")]

        full = run("publish", str(made / "good.onnx"), *said, fleet=folder / "fleet")

        refused(full, Exit.DISK_FULL, "no room")
        assert digest_of(folder / "fleet") == before
        (folder / "filler").unlink()
        assert run("publish", str(made / "good.onnx"), *said, fleet=folder / "fleet").returncode == 0
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_database_on_a_full_disk_is_told_as_a_full_disk(made: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=4 * BYTES) as disk:
        shutil.copytree(made / "fleet", disk / "fleet", ignore=shutil.ignore_patterns("blocks", "*-wal", "*-shm"))
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(bytes(4 * BYTES))
        done = run("rollout", "start", "m@1.0.0", fleet=disk / "fleet")

        refused(done, Exit.DISK_FULL)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--latency-ms-max", "nan"),
        ("--latency-ms-max", "inf"),
        ("--epsilon", "nan"),
        ("--probation-seconds", "9" * 30),
        ("--window-seconds", "9" * 30),
        ("--calibrate-rows", "255"),
    ],
)
def test_a_limit_that_no_release_can_have_is_refused(unchanged: Path, option: str, value: str) -> None:
    done = publish(unchanged, "2.0.0", "good.onnx", "--reference", str(unchanged / "good.npz"), option, value)

    refused(done, Exit.REFUSED, option.removeprefix("--").replace("-", "_").replace("calibrate_rows", "calibration_rows"))


def test_a_fleets_file_that_is_gone_is_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "fleet", tmp_path / "fleet", ignore=shutil.ignore_patterns("trust"))

    refused(run("releases", fleet=tmp_path / "fleet"), Exit.REFUSED, "trust/lock")


def test_a_fleet_is_not_made_over_another(unchanged: Path) -> None:
    done = run("init", str(unchanged / "fleet"), "--fleet", "f", "--passphrase-file", str(unchanged / "secret"))

    refused(done, Exit.CONFLICT, "not empty")


def test_a_rollout_of_a_release_that_is_not_there_is_refused_and_json_says_so_too(unchanged: Path) -> None:
    done = run("rollout", "start", "m@7.7.7", "--json", fleet=unchanged / "fleet")

    refused(done, Exit.REFUSED, "7.7.7")
    assert json.loads(done.stdout)["error"]["code"] == "release.unknown"


def test_a_folder_without_a_fleet_is_told_as_that(tmp_path: Path) -> None:
    refused(run("nodes", fleet=tmp_path), Exit.REFUSED, "fleet.toml")


def test_what_people_sign_is_renewed_by_one_command(made: Path) -> None:
    done = run("renew", "--passphrase-file", str(made / "secret"), "--json", fleet=made / "fleet")

    assert done.returncode == 0, done.stderr
    roles = {row["role"]: row["severity"] for row in json.loads(done.stdout)}
    assert {roles["targets"], roles["model-m"]} == {"ok"}
    assert (made / "fleet" / "trust" / "metadata" / "2.targets.json").exists()


@pytest.mark.parametrize("verb", ["init", "hub", "publish", "rollout", "nodes", "releases", "watch", "renew", "completion"])
def test_every_command_has_help_with_an_example(verb: str) -> None:
    done = run(verb, "--help")

    assert done.returncode == 0
    assert "Example" in done.stdout
    assert "fleetcast " + verb in done.stdout.partition("Example")[2]


def test_completion_is_a_script_of_the_shell() -> None:
    assert "_fleetcast_completion" in run("completion", "bash").stdout
