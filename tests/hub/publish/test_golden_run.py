"""Golden answers come from the device's own command, which is given nothing that opens keys; what it refuses is refused with its code."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hub.publish import golden_run
from hub.publish.block_store import BlockStore
from hub.publish.builder import build
from hub.publish.check_runner import Absent
from hub.publish.publish_request import PublishRequest
from schemas.errors import Code, Refused
from tests.hub.publish.test_foreign_models import NOW, case_of, litert

PASSED = """print('{"passed": true}')"""


def request(folder: Path) -> PublishRequest:
    """A LiteRT model whose golden inputs have no answers yet."""
    np.savez(folder / "golden.npz", **{"input.x": np.arange(8, dtype=np.float32).reshape(2, 4)})
    return PublishRequest(litert(folder / "add.tflite"), "add", "1.0.0", golden_path=folder / "golden.npz", answers=golden_run.answers)


def instead(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Another command in the place of the device's."""
    path = folder / "fleetcast-node"
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(golden_run, "prover", lambda: [str(path)])


def refusal(folder: Path) -> Refused:
    store = BlockStore(folder / "blocks")
    with pytest.raises(Refused) as caught:
        build(request(folder), store, now=NOW)
    assert not list(store.digests())
    return caught.value


def test_a_real_runtime_answers_golden_inputs_that_were_made_up(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "blocks")

    built = build(replace(request(tmp_path), golden_path=None), store, now=NOW)

    case = case_of(built.manifest, store)
    assert np.array_equal(case.outputs["y"], 2 * case.inputs["x"])
    assert case.inputs["x"].any()
    assert (built.preview.golden, built.preview.warnings) == ("made from the signature", ())


def test_a_release_whose_runtime_is_not_here_is_published_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> list[str]:
        raise Absent("nothing of that name")

    monkeypatch.setattr(golden_run, "prover", absent)

    built = build(replace(request(tmp_path), golden_path=None), BlockStore(tmp_path / "blocks"), now=NOW)

    assert built.manifest.golden is None
    assert ["without golden inputs" in one for one in built.preview.warnings] == [True]


def test_a_real_runtime_answers_the_golden_inputs_that_have_no_answers(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "blocks")

    manifest = build(request(tmp_path), store, now=NOW).manifest

    assert np.array_equal(case_of(manifest, store).outputs["y"], 2 * np.arange(8, dtype=np.float32).reshape(2, 4))


def test_the_commands_own_refusal_is_ours_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(tmp_path, monkeypatch, """print('{"passed": false, "code": "model.too_slow", "reason": "it takes a minute"}'); sys.exit(3)""")

    refused = refusal(tmp_path)

    assert refused.code == Code.MODEL_TOO_SLOW
    assert "it takes a minute" in refused.reason


@pytest.mark.parametrize(
    ("script", "words"),
    [("sys.exit('no such command')", ("1", "no such command")), ("os.kill(os.getpid(), 9)", ("SIGKILL",)), ("print('{}')", ("0",))],
)
def test_a_command_that_dies_or_says_nothing_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: tuple[str, ...]
) -> None:
    instead(tmp_path, monkeypatch, script)

    refused = refusal(tmp_path)

    assert refused.code == Code.WORKER_CRASHED
    assert all(word in refused.reason for word in words), refused.reason


def test_a_proof_without_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(tmp_path, monkeypatch, PASSED)

    assert "a file of them" in refusal(tmp_path).reason


def test_answers_of_another_shape_of_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(tmp_path, monkeypatch, "open(sys.argv[sys.argv.index('--answers') + 1], 'wb').write(b'no npz'); " + PASSED)

    assert refusal(tmp_path).code == Code.GOLDEN_INVALID


def test_a_command_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_run, "SECONDS_MAX", 1.0)
    instead(tmp_path, monkeypatch, "import time; time.sleep(600)")

    assert refusal(tmp_path).code == Code.WORKER_HUNG


def test_without_the_command_the_answers_have_to_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prover() -> list[str]:
        raise Absent("there is none")

    monkeypatch.setattr(golden_run, "prover", prover)

    refused = refusal(tmp_path)

    assert refused.code == Code.RUNTIME_ABSENT
    assert "fleetcast[node]" in refused.reason


def test_a_process_that_runs_a_model_is_not_told_where_the_passphrase_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETCAST_PASSPHRASE_FILE", "/secret")
    seen = tmp_path / "seen"
    instead(tmp_path, monkeypatch, f"open({str(seen)!r}, 'w').write(repr(dict(os.environ))); sys.exit(1)")

    refusal(tmp_path)

    assert os.environ["FLEETCAST_PASSPHRASE_FILE"] == "/secret"
    assert "PATH" in seen.read_text()
    assert "FLEETCAST" not in seen.read_text()
