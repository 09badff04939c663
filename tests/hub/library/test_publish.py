"""Publish what a program has in memory: models, references and golden inputs, each refused in the program's own words."""

import signal
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import polars as pl
import pytest
from sklearn.linear_model import Ridge

import fleetcast
from tests.hub.cli.fleets import COLUMNS, INPUTS, Made, ridge
from tests.hub.library.scenes import MODEL, estimator, frame, key_of


def test_an_estimator_and_its_frame_become_a_signed_release(made: Made, fleet: fleetcast.Fleet) -> None:
    release = fleet.release("delay@1.0.0")

    assert (release.name, str(release)) == ("delay@1.0.0", "delay@1.0.0")
    assert release.watched_signals > len(COLUMNS)
    shown = made.run("releases", "--json").stdout
    assert release.digest in shown


@pytest.mark.parametrize("kind", ["polars", "file"])
def test_the_same_reference_of_another_kind_changes_nothing(kind: str, made: Made, fleet: fleetcast.Fleet, tmp_path: Path) -> None:
    table = frame()
    table.to_parquet(tmp_path / "reference.parquet")
    reference = {
        "polars": pl.from_pandas(table),
        "file": tmp_path / "reference.parquet",
    }[kind]

    again = fleet.publish(estimator(), name=MODEL, version="1.0.0", reference=reference, blocks="day", signer=key_of(made))

    assert again.digest == fleet.release("delay@1.0.0").digest
    assert again.stored_bytes == 0


def test_a_model_proto_is_published_as_its_file_is(made: Made, fleet: fleetcast.Fleet) -> None:
    proto = onnx.load_model_from_string(ridge())
    file = made.folder / "good.onnx"

    of_proto = fleet.publish(proto, name=MODEL, version="0.1.0", signer=key_of(made))
    of_file = fleet.publish(file, name=MODEL, version="0.1.1", signer=key_of(made))

    assert of_proto.size_bytes == of_file.size_bytes
    assert of_proto.variants == ("default",)
    assert not of_proto.conversion


def test_a_release_file_and_what_overrides_it_are_published(made: Made, fleet: fleetcast.Fleet, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(ridge())
    (tmp_path / "release.toml").write_text('name = "delay"\nversion = "0.2.0"\nmodel = "model.onnx"\ndescription = "of the file"\n')

    release = fleet.publish(tmp_path / "release.toml", version="0.2.1", settings={"limits": {"latency_ms_max": 50.0}}, signer=key_of(made))

    assert (release.version, release.description) == ("0.2.1", "of the file")


def test_golden_inputs_are_given_as_arrays(made: Made, fleet: fleetcast.Fleet) -> None:
    wrong = {"input.X": INPUTS[:4].astype(np.float32), "output.variable": np.zeros((4, 1), np.float32)}
    model = onnx.load_model_from_string(ridge())

    with pytest.raises(fleetcast.Refused, match="golden") as caught:
        fleet.publish(model, name=MODEL, version="0.3.0", golden=wrong, signer=key_of(made))

    assert "fleetcast-publish-" not in str(caught.value)


def test_progress_is_reported_as_it_is_made(made: Made, fleet: fleetcast.Fleet) -> None:
    seen: list[tuple[str, int, int]] = []

    fleet.publish(estimator(7.0), name=MODEL, version="1.4.0", signer=key_of(made), progress=lambda *step: seen.append(step))

    assert seen
    assert all(done <= total for _, done, total in seen)


def test_ctrl_c_while_it_is_published_leaves_nothing_and_it_can_be_done_again(made: Made, fleet: fleetcast.Fleet) -> None:
    def press(what: str, done: int, total: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fleet.publish(estimator(8.0), name=MODEL, version="1.7.0", signer=key_of(made), progress=press)

    with pytest.raises(fleetcast.Refused, match=r"there is no release delay@1\.7\.0"):
        fleet.release("delay@1.7.0")
    assert fleet.publish(estimator(8.0), name=MODEL, version="1.7.0", signer=key_of(made)).stored_bytes > 0


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pd.Series(["slow"] * len(INPUTS)), "the reference: column 'x3' for input 'input': expected FP32, found texts: make numbers of it"),
        (
            pd.Series([1, "a"] * (len(INPUTS) // 2), dtype=object),
            r"column 'x3': .* found int, str mixed: .*frame\['x3'\].astype\('float32'\)",
        ),
        (pd.Series(pd.to_timedelta(range(len(INPUTS)), unit="s")), r"column 'x3': .* frame\['x3'\].dt.total_seconds\(\)"),
        (pd.Series([[1, 2]] * len(INPUTS)), "column 'x3': .* found list"),
        (pd.Series([None] * len(INPUTS), dtype="Int64"), "column 'x3'"),
    ],
    ids=["texts", "mixed", "durations", "lists", "missing"],
)
def test_a_wrong_column_is_named_with_what_to_do(column: "pd.Series", said: str, made: Made, fleet: fleetcast.Fleet) -> None:
    table = frame().assign(x3=column)

    with pytest.raises(fleetcast.Refused, match=said) as caught:
        fleet.publish(estimator(), name=MODEL, version="1.5.0", reference=table, blocks="day", signer=key_of(made))

    assert caught.value.code is fleetcast.Code.REFERENCE_INVALID
    assert caught.value.mend
    assert "fleetcast-publish-" not in str(caught.value)


def test_column_names_that_come_twice_are_refused(made: Made, fleet: fleetcast.Fleet) -> None:
    table = pd.concat([frame(), frame()[["x1"]]], axis=1)

    with pytest.raises(fleetcast.Refused, match="column names: expected each once"):
        fleet.publish(estimator(), name=MODEL, version="1.5.0", reference=table, blocks="day", signer=key_of(made))


def test_an_estimator_that_is_not_fitted_is_refused_without_a_path(made: Made, fleet: fleetcast.Fleet) -> None:
    with pytest.raises(fleetcast.Refused, match="model: Ridge: expected a fitted estimator"):
        fleet.publish(Ridge(), name=MODEL, version="1.5.0", signer=key_of(made))


@pytest.mark.parametrize(("model", "named"), [(3, "builtins.int"), (None, "NoneType"), ([1.0], "builtins.list")])
def test_what_is_no_model_is_a_type_error_that_names_it(model: object, named: str, made: Made, fleet: fleetcast.Fleet) -> None:
    with pytest.raises(TypeError, match=f"model must be a file, an ONNX ModelProto .* found .*{named}"):
        fleet.publish(model, name=MODEL, version="1.5.0", signer=key_of(made))


def test_a_version_or_a_table_that_is_missing_is_a_type_error(made: Made, fleet: fleetcast.Fleet) -> None:
    with pytest.raises(TypeError, match="needs version="):
        fleet.publish(estimator(), name=MODEL, signer=key_of(made))
    with pytest.raises(TypeError, match="reference must be a file, a frame of pandas or polars"):
        fleet.publish(estimator(), name=MODEL, version="1.5.0", reference=3, signer=key_of(made))
    with pytest.raises(TypeError, match=r"columns must be a list, such as \['x1'\]"):
        fleet.publish(estimator(), name=MODEL, version="1.5.0", columns="x1", signer=key_of(made))
    with pytest.raises(TypeError, match="parent is given twice"):
        fleet.publish(estimator(), name=MODEL, version="1.5.0", parent="1.0.0", settings={"parent": "1.0.0"})


def test_other_content_under_a_published_version_is_a_conflict(made: Made, fleet: fleetcast.Fleet) -> None:
    with pytest.raises(fleetcast.Refused, match="with other content") as caught:
        fleet.publish(estimator(5.0), name=MODEL, version="1.0.0", signer=key_of(made))

    assert caught.value.code is fleetcast.Code.RELEASE_CONFLICT


def test_a_key_needs_its_passphrase_and_never_shows_it(made: Made, fleet: fleetcast.Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made.fleet / "keys" / "team.pem"
    assert "secret" not in repr(fleetcast.Key(path, passphrase="secret"))
    with pytest.raises(TypeError, match="not both"):
        fleetcast.Key(path, passphrase="a", passphrase_file="b")
    monkeypatch.delenv("FLEETCAST_PASSPHRASE_FILE", raising=False)

    with pytest.raises(fleetcast.Refused, match=r"give signer=fleetcast\.Key") as caught:
        fleet.publish(estimator(), name=MODEL, version="1.6.0")
    assert caught.value.code is fleetcast.Code.KEY_PASSPHRASE

    monkeypatch.setenv("FLEETCAST_PASSPHRASE_FILE", str(made.secret))
    assert fleet.publish(estimator(), name=MODEL, version="1.6.0").version == "1.6.0"
