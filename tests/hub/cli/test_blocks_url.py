"""A fleet whose blocks are in an object store, by commands alone."""

import json
from pathlib import Path

import pytest

from tests.hub.cli.fleets import Made, ridge
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
