"""`init`, `publish`, `releases`, `nodes` and `watch` on real files: what they print, what they leave, and how they end."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hub.cli.errors import Exit
from hub.database.rows import NodeRow
from hub.database.store import Store
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.manifest import Manifest
from schemas.state import Slot, State, TelemetryBudget
from tests import warm
from tests.databases import url_of
from tests.hub.cli.fleets import BIN, COLUMNS, INPUTS, Made, digest_of, features, make, ridge, run

HOSTILE = "[/red]\x1b[2J\u202ebad"  # markup that closes nothing, an escape sequence that clears the screen, a change of direction


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"), "m")


# init


def test_a_new_fleet_has_encrypted_keys_that_only_its_owner_reads(made: Made) -> None:
    keys = sorted((*(made.fleet / "keys").iterdir(), *(made.fleet / "online").iterdir()))

    assert [key.stem for key in keys] == [
        "ca",
        "root-1",
        "root-2",
        "root-3",
        "targets",
        "team",
        "issuer",
        "rollouts",
        "snapshot",
        "timestamp",
    ]
    for key in keys:
        assert key.stat().st_mode & 0o077 == 0
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in key.read_bytes()
        assert load_signer(key, b"test").public_key.keytype == ("ecdsa" if key.stem in {"ca", "issuer"} else "ed25519")
    assert (made.fleet / "root.json").read_bytes() == Repository(made.fleet / "trust").root()
    assert json.loads((made.fleet / "root.json").read_bytes())["signed"]["roles"]["root"]["threshold"] == 2


@pytest.mark.parametrize("said", [".", "{folder}"])
def test_a_fleet_is_made_inside_an_empty_folder_that_is_there_already(tmp_path: Path, made: Made, said: str) -> None:
    inode = tmp_path.stat().st_ino

    done = warm.run("fleetcast", "init", said.format(folder=tmp_path), "--fleet", "f", "--passphrase-file", made.secret, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert tmp_path.stat().st_ino == inode, "a mounted volume cannot be replaced, nor the folder that a shell stands in"
    assert not list(tmp_path.rglob("*.partial"))
    assert run("releases", "--json", fleet=tmp_path).stdout.strip() == "[]"


def test_an_init_that_was_killed_half_way_is_no_obstacle(tmp_path: Path, made: Made) -> None:
    (tmp_path / ".fleet.partial" / "keys").mkdir(parents=True)

    done = made.run("init", str(tmp_path / "fleet"), "--fleet", "f")

    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["fleet"]


def test_an_init_that_fails_leaves_nothing_not_even_the_folders_above(tmp_path: Path, made: Made) -> None:
    (tmp_path / "long").write_text("x" * 2000)

    done = run("init", str(tmp_path / "a" / "b" / "fleet"), "--fleet", "f", "--passphrase-file", str(tmp_path / "long"))

    assert done.returncode == Exit.KEY, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["long"]


def test_a_passphrase_keeps_its_spaces_and_an_open_file_is_warned_of(tmp_path: Path, made: Made) -> None:
    (tmp_path / "spaced").write_bytes(b" two words \r\nsecond line\n")
    (tmp_path / "spaced").chmod(0o644)

    done = run("init", str(tmp_path / "fleet"), "--fleet", "f", "--passphrase-file", str(tmp_path / "spaced"))

    assert done.returncode == 0, done.stderr
    assert "can be read by others" in done.stderr
    assert load_signer(tmp_path / "fleet" / "keys" / "team.pem", b" two words ").public_key.keyid


# publish and releases


def test_parquet_csv_and_npz_say_the_same(made: Made, tmp_path: Path) -> None:
    frame = pd.DataFrame(features()).assign(day=[f"d{row % 7}" for row in range(len(INPUTS))])
    frame.to_parquet(tmp_path / "ref.parquet")
    frame.to_csv(tmp_path / "ref.csv", index=False)
    np.savez(tmp_path / "ref.npz", **{name: frame[name].to_numpy() for name in COLUMNS}, day=frame["day"].to_numpy().astype(str))

    for version, kind in (("1.0.1", "parquet"), ("1.0.2", "csv"), ("1.0.3", "npz")):
        parent = "1.0.1" if kind != "parquet" else ""
        said = ["--reference", str(tmp_path / f"ref.{kind}"), "--blocks", "day", "--calibrate-rows", "0", "--parent", parent]
        done = made.publish(version, *said)
        assert done.returncode == 0, done.stderr

    manifests = [codec.decode(Manifest, Repository(made.fleet / "trust").manifest("m", version)) for version in ("1.0.1", "1.0.2", "1.0.3")]
    assert manifests[0].baseline is not None
    assert manifests[0].baseline == manifests[1].baseline == manifests[2].baseline
    assert {signal.name for signal in manifests[0].baseline.signals} == {*COLUMNS, "variable"}


def test_by_default_a_reference_turns_on_calibration_and_service_signals(made: Made, tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", **features())

    said = json.loads(made.publish("1.4.0", "--reference", str(tmp_path / "ref.npz")).stdout)

    assert said["calibration_rows"] == 1024
    assert said["signals"] == [*COLUMNS, "variable", "service:latency_ms", "service:error", "service:memory_mib"]


def test_what_is_published_is_what_releases_lists(made: Made) -> None:
    said = json.loads(made.publish("2.0.0", "--no-proof", "--description", "a ridge", "--licence", "BSD-3-Clause").stdout)

    listed = {row["version"]: row for row in json.loads(made.run("releases", "m", "--json").stdout)}

    assert (said["newly_delegated"], said["announced"], said["signals"]) == (False, False, [])
    assert said["bytes"] == len(ridge())
    assert {name: listed["2.0.0"][name] for name in ("digest", "bytes", "blocks", "description", "signals", "nodes_serving")} == {
        "digest": said["digest"], "bytes": said["bytes"], "blocks": 1, "description": "a ridge", "signals": 0, "nodes_serving": 0,
    }  # fmt: skip
    assert "2.0.0" in made.run("releases").stdout


def test_blocks_are_counted_of_a_model_whose_list_is_too_long_for_its_manifest(made: Made) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.zeros((4000, 4000), np.float32), "w")
    value = helper.make_tensor_value_info
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    tensors = [value("x", TensorProto.FLOAT, ["n", 4000])], [value("y", TensorProto.FLOAT, ["n", 4000])]
    model = helper.make_model(helper.make_graph([node], "g", *tensors, [weight]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (made.folder / "large.onnx").write_bytes(model.SerializeToString())

    said = json.loads(made.publish("0.1.0", model="large.onnx").stdout)

    assert said["blocks"] >= said["bytes"] / (120 * 1024) > 500
    assert [row["blocks"] for row in json.loads(made.run("releases", "--json").stdout) if row["version"] == "0.1.0"] == [said["blocks"]]


@pytest.mark.parametrize("said", [("releases", "nosuch"), ("renew", "--model", "nosuch")])
def test_a_model_that_is_not_there_is_refused(made: Made, said: tuple[str, ...]) -> None:
    done = made.run(*said, "--json")

    assert done.returncode == Exit.REFUSED
    assert json.loads(done.stdout)["error"]["code"] == "release.unknown"


def test_a_new_model_is_delegated_on_the_way_and_only_with_the_targets_key(made: Made) -> None:
    key = made.fleet / "keys" / "targets.pem"
    away = made.folder / "targets.pem"

    key.rename(away)
    without = made.publish("1.0.0", name="other")
    away.rename(key)
    done = made.publish("1.0.0", name="other")

    assert without.returncode == Exit.REFUSED
    assert "targets.pem" in without.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["newly_delegated"] is True
    assert json.loads(made.publish("1.0.1", name="other").stdout)["newly_delegated"] is False


def test_the_same_content_again_is_nothing_and_says_the_same_digest(made: Made) -> None:
    first = json.loads(made.publish("4.0.0", "--reference", str(made.folder / "good.npz")).stdout)
    before = digest_of(made.fleet)

    again = made.publish("4.0.0", "--reference", str(made.folder / "good.npz"))

    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["digest"] == first["digest"]
    assert digest_of(made.fleet) == before


# nodes


def test_what_a_node_says_of_itself_cannot_touch_the_terminal(made: Made) -> None:
    slot = Slot(model="m", state="refused", target_version="2.0.0", code=HOSTILE, bytes_planned=7, bytes_received=5, bytes_wasted=2)
    budget = TelemetryBudget(rho_spent=0.25, rho_day_max=0.5)
    state = State(node="rogue", session=1, status="online", at=0, software=HOSTILE, slots=(slot,), telemetry=budget)
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.create()
    store.upsert_node(NodeRow("rogue", 1, "online", int(time.time()), codec.encode(state), b"", "all"))
    store.add_refusal(0, HOSTILE, "schema.malformed", HOSTILE)
    store.close()

    table, one, watched = made.run("nodes"), made.run("nodes", "rogue"), made.run("watch", "--history", "--kind", "refusal")

    for done in (table, one, watched):
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\u202e" not in done.stdout
        assert r"[/red]\x1b[2J\u202ebad" in done.stdout
    assert "m: 7 planned, 5 received, 0 reused, 2 wasted" in one.stdout
    assert "0.25" in one.stdout
    assert [node["software"] for node in json.loads(made.run("nodes", "--json").stdout)] == [HOSTILE]


# watch


def test_watch_ends_with_the_event_that_it_waits_for(made: Made) -> None:
    command = [str(BIN / "fleetcast"), "watch", "--until", "release", "--kind", "alert", "--timeout-seconds", "200", "--json"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "FLEETCAST_DIR": str(made.fleet)})
    published: list[str] = []

    while watching.poll() is None:  # it begins with what comes once it has begun
        published.append(f"5.0.{len(published)}")
        made.publish(published[-1])
        with suppress(subprocess.TimeoutExpired):
            watching.wait(3)
    said, _ = watching.communicate()

    assert watching.returncode == 0
    (line,) = map(json.loads, said.splitlines())
    assert (line["kind"], line["version"] in published) == ("release", True)


def test_watch_says_when_it_waited_in_vain(made: Made) -> None:
    for arguments in (("--timeout-seconds", "0.2"), ("--history",)):
        assert made.run("watch", "--until", "drift", *arguments).returncode == Exit.TIMEOUT


def test_ctrl_c_ends_watch_without_a_word(made: Made) -> None:
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.create()
    store.add_refusal(0, "n1", "schema.malformed", "a line to wait for")
    store.close()
    watching = subprocess.Popen(
        [str(BIN / "fleetcast"), "watch", "--since-id", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FLEETCAST_DIR": str(made.fleet), "PYTHONUNBUFFERED": "1"},
        # A shell's background job ignores SIGINT, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert watching.stdout is not None
    assert watching.stdout.readline()

    watching.send_signal(signal.SIGINT)
    _, error = watching.communicate(timeout=100)

    assert (watching.returncode, error.strip()) == (Exit.INTERRUPTED, "")


def test_blocks_are_as_small_as_the_broker_of_the_running_hub_takes(tmp_path: Path) -> None:
    made = make(tmp_path, "m")
    (tmp_path / "weights.bin").write_bytes(np.random.default_rng(0).bytes(100_000))
    (made.fleet / "web.ready").write_text(json.dumps({"pid": 1, "packet_bytes_max": 16384}))  # Of a hub in several processes.
    (made.fleet / "blocks-1.ready").write_text(json.dumps({"pid": 1, "packet_bytes_max": 8704}))

    refused = made.publish("1.0.0", "--block-bytes", "9000", model="weights.bin")
    done = made.publish("1.0.0", model="weights.bin")

    assert (refused.returncode, "packet.too_small" in refused.stdout, "8192" in refused.stderr) == (3, True, True)
    assert json.loads(done.stdout)["blocks"] == -(-100_000 // 8192)
