"""A fleet whose blocks are in an object store, by commands alone."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hub.publish import object_store
from tests.hub.cli.fleets import Made, make, ridge
from tests.hub.cli.test_rollout import BIN
from tests.objects import Bucket


@pytest.mark.slow
def test_init_and_publish_with_an_object_store_and_without_it(bucket: Bucket, tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.secret.write_text("test\n")
    (tmp_path / "good.onnx").write_bytes(ridge())
    words = ("init", str(made.fleet), "--fleet", "f", "--model", "m", "--blocks-endpoint-url", bucket.endpoint_url, "--blocks-url")
    bucket.go()
    refused = made.run(*words, bucket.url, "--json")
    assert (refused.returncode, made.fleet.exists()) == (4, False)
    assert bucket.url in refused.stderr
    bucket.come_back()
    done = made.run(*words, bucket.url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blocks"] == bucket.url

    bucket.go()
    refused = made.publish("1.0.0", "--calibrate-rows", "0")
    assert refused.returncode == 4
    assert "it does not answer" in refused.stderr
    bucket.come_back()
    done = made.publish("1.0.0", "--calibrate-rows", "0")
    assert done.returncode == 0, done.stderr
    row = json.loads(made.run("releases", "--json").stdout)[0]
    for path in (made.fleet / "blocks").glob("??/*"):
        path.unlink()
    again = json.loads(made.run("releases", "--json").stdout)[0]

    assert row["blocks"] == again["blocks"] > 0
    assert row["frees"] == again["frees"] > 0


@pytest.mark.slow
def test_publish_to_a_silent_store_says_what_it_waits_for_and_ends_by_ctrl_c(bucket: Bucket, tmp_path: Path) -> None:
    made = make(tmp_path, "m")
    with (made.fleet / "fleet.toml").open("a") as file:
        file.write("".join(f'{name} = "{value}"\n' for name, value in bucket.settings.items()))
    bucket.road.fall_silent()
    command = [str(BIN / "fleetcast"), "publish", str(tmp_path / "good.onnx"), "--name", "m", "--version", "1.0.0", "--calibrate-rows", "0"]
    environment = {**os.environ, "FLEETCAST_DIR": str(made.fleet), "FLEETCAST_PASSPHRASE_FILE": str(made.secret)}
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    assert running.stderr is not None
    line = next(line for line in running.stderr if line.startswith("blocks to "))
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    left = running.stderr.read()
    code = running.wait(60)

    assert bucket.url in line
    assert (code, "Traceback" in left, "panicked" in left) == (130, False, False)
    assert time.monotonic() - began < object_store.TIMEOUT_SECONDS / 2  # It waits for no request.
    assert json.loads(made.run("releases", "--json").stdout or "[]") == []
