"""`fleetcast publish model.joblib`: what is converted, what is said, and what stays a file."""

import json
from pathlib import Path

import joblib
import pytest
from sklearn.linear_model import Ridge

from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.manifest import Manifest
from tests.hub.cli.fleets import INPUTS, TARGET, Made, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fleet, and a model of scikit-learn as joblib keeps it, which was fitted on the columns of `good.npz`."""
    fleet = make(tmp_path_factory.mktemp("made"), "m")
    joblib.dump(Ridge(alpha=1.0).fit(INPUTS, TARGET), fleet.folder / "model.joblib")
    return fleet


def files_of(made: Made, version: str) -> tuple[str, list[str]]:
    manifest = codec.decode(Manifest, Repository(made.fleet / "trust").manifest("m", version))
    return manifest.variants[0].runtime, [file.path for file in manifest.variants[0].files]


def test_publish_converts_a_joblib_file_and_says_what_it_did(made: Made) -> None:
    reference = str(made.folder / "good.npz")

    done = made.publish("1.0.0", "--reference", reference, model="model.joblib")
    again = made.publish("1.0.0", "--reference", reference, model="model.joblib")

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    said = json.loads(done.stdout)["conversion"]
    assert all(f"{step}." in done.stderr for step in said)
    assert "inputs: input FP32[-1, 10]" in said
    assert any("differ from scikit-learn's by at most" in step for step in said)
    assert files_of(made, "1.0.0") == ("onnx", ["model.onnx"])
    assert json.loads(again.stdout)["digest"] == json.loads(done.stdout)["digest"]


def test_a_joblib_file_is_delivered_as_it_is_where_that_is_asked_for(made: Made) -> None:
    done = made.publish("2.0.0", "--runtime", "files", "--breaking", model="model.joblib")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["conversion"] == []
    assert files_of(made, "2.0.0") == ("files", ["model.joblib"])


def test_a_broken_joblib_file_is_refused_without_a_traceback(made: Made) -> None:
    Path(made.folder / "broken.joblib").write_bytes(b"none of these")

    done = made.publish("3.0.0", model="broken.joblib")

    assert done.returncode != 0
    assert "cannot be read as joblib or pickle" in done.stderr
    assert "Traceback" not in done.stderr
