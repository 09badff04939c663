"""What a reference's columns are taken for: names or rows, places, signals; and what of them is not watched, with the reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hub.core.publish.column_findings import finding
from hub.publish.block_store import BlockStore
from hub.publish.builder import BuiltRelease, build
from hub.publish.publish_request import FeatureOrder, PublishRequest, Truth
from hub.publish.reference_data import read_reference
from hub.publish.sample_reader import read_rows
from schemas.errors import Code, Refused
from tests.hub.publish.test_tried_inputs import FLOAT, STRING, graph, node

ROWS = 200
RNG = np.random.default_rng(0)
NUMBERS = pd.DataFrame({name: RNG.normal(size=ROWS).astype(np.float32) for name in "abc"})


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


def table(path: Path, frame: pd.DataFrame, **how: object) -> Path:
    frame.to_csv(path, index=False, **how) if path.suffix == ".csv" else frame.to_parquet(path)  # type: ignore[call-overload]
    return path


def asked(folder: Path, frame: pd.DataFrame, *, suffix: str = ".parquet", outputs: int = 1, **terms: object) -> PublishRequest:
    """A model of one input for as many columns as there are: the sum of their squares, once for each output value."""
    nodes = [node("Gemm", ["x", "w"], ["y"])]
    weights = np.ones((frame.shape[1], outputs), np.float32)
    model = graph(folder / "m.onnx", nodes, [("x", FLOAT, ["n", frame.shape[1]])], [("y", FLOAT, ["n", outputs])], w=weights)
    return PublishRequest(model, "m", "1.0.0", reference=read_reference(table(folder / f"r{suffix}", frame)), **terms)  # type: ignore[arg-type]


def signals(built: BuiltRelease) -> list[str]:
    assert built.manifest.baseline is not None
    return [one.name for one in built.manifest.baseline.signals]


@pytest.mark.parametrize(
    "frame",
    [
        NUMBERS,
        NUMBERS.assign(c=RNG.integers(0, 9, ROWS)),
        NUMBERS.assign(c=RNG.choice(["north", "south"], ROWS)),
        NUMBERS.assign(c=RNG.choice([True, False], ROWS)),
        NUMBERS.assign(c="2026-01-01"),
        NUMBERS.assign(a=1, b=1, c=1),
    ],
)
def test_a_csv_without_a_line_of_names_is_refused(tmp_path: Path, frame: pd.DataFrame) -> None:
    with pytest.raises(Refused) as refused:
        read_reference(table(tmp_path / "r.csv", frame, header=False))

    assert refused.value.code is Code.REFERENCE_INVALID
    assert "first line" in refused.value.reason
    assert "names" in refused.value.reason


@pytest.mark.parametrize("names", [["a", "b", "c"], ["0", "1", "2"], ["1", "2", "3"], ["2024", "2025", "2026"], ["2024", "b", "c"]])
def test_a_csv_with_names_is_read(tmp_path: Path, names: list[str]) -> None:
    assert list(read_reference(table(tmp_path / "r.csv", NUMBERS.set_axis(names, axis=1))).columns) == names


def test_columns_that_moved_since_the_release_before_are_refused_with_its_order(store: BlockStore, tmp_path: Path) -> None:
    request = asked(tmp_path, NUMBERS)
    before = FeatureOrder.of(build(request, store, now=1).manifest)
    moved = asked(tmp_path, NUMBERS[["b", "a", "c"]], order_before=before)

    with pytest.raises(Refused) as refused:
        build(moved, store, now=1)
    named = build(replace(moved, feature_columns=("b", "a", "c")), store, now=1)

    assert all(word in refused.value.reason for word in ("['a', 'b', 'c']", "['b', 'a', 'c']", "1.0.0", "--columns"))
    assert signals(named)[:3] == ["b", "a", "c"]
    assert signals(build(replace(request, order_before=before), store, now=1))[:3] == ["a", "b", "c"]


def test_held_out_rows_are_matched_to_the_reference_by_name(store: BlockStore, tmp_path: Path) -> None:
    """The sum of columns, weighted by their place: in another order the answers would be wrong."""
    weights = np.array([[1], [10], [100]], np.float32)
    model = graph(tmp_path / "m.onnx", [node("Gemm", ["x", "w"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 1])], w=weights)
    truth = NUMBERS[["c", "a", "b"]].assign(truth=NUMBERS.a + 10 * NUMBERS.b + 100 * NUMBERS.c)
    rows = read_rows(table(tmp_path / "h.parquet", truth), truth="truth")
    reference = read_reference(table(tmp_path / "r.parquet", NUMBERS))
    request = PublishRequest(model, "m", "1.0.0", reference=reference, accuracy=Truth(rows=rows, right_within=0.01))

    accuracy = build(request, store, now=1).manifest.accuracy

    assert accuracy is not None
    assert accuracy.baseline.signals[0].counts[:2] == (0, ROWS)


ODD = {
    "constant": np.full(ROWS, 7.0),
    "row": np.arange(1000, 1000 + ROWS),
    "device_id": RNG.permutation(10**6)[:ROWS],
    "at": 1_760_000_000 + 60 * np.arange(ROWS),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_column_that_says_nothing_of_drift_is_watched_only_if_named(store: BlockStore, tmp_path: Path, odd: str) -> None:
    request = asked(tmp_path, NUMBERS.assign(**{odd: ODD[odd]}))

    by_default, named = build(request, store, now=1), build(replace(request, signals=(odd, "a")), store, now=1)

    assert signals(by_default) == ["a", "b", "c", "y"]
    assert [one.name for one in by_default.unwatched] == [odd]
    assert any(repr(odd) in one and "not watched" in one for one in by_default.preview.warnings)
    assert signals(named) == [odd, "a"]
    assert next(one.watched_as for one in by_default.preview.columns if one.column == odd).startswith("not: ")


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("x", np.array(["a", "b"] * 50, object), None),
        ("x", np.array([f"serial{number}" for number in range(100)], object), "id"),
        ("x", np.array([f"a sentence of its own, number {number}" for number in range(100)], object), None),
        ("x", np.array([f"2026-01-01T00:{number // 60:02}:{number % 60:02}" for number in range(100)], object), "time"),
        ("x", np.array(["2026-01-01", "2026-01-02"] * 50, object), None),
        ("x", np.arange(100.0), None),
        ("id", np.arange(100.0), "id"),
        ("price", RNG.permutation(10**6)[:100], None),
        ("flag", np.array([True] * 100), "constant"),
        ("x", np.array(["only"] * 100, object), "constant"),
        ("year", np.repeat(np.arange(1990, 2010), 5), None),
    ],
)
def test_columns_are_found_odd_by_their_values(name: str, values: np.ndarray, expected: str | None) -> None:
    assert finding(name, values) == expected


def test_a_column_with_the_name_of_another_signal_is_refused(store: BlockStore, tmp_path: Path) -> None:
    frame = NUMBERS.rename(columns={"a": "service:error"})
    request = asked(tmp_path, frame, calibration_rows=1024)

    for named in (None, ("service:error", "b")):
        with pytest.raises(Refused, match="rename the column"):
            build(replace(request, signals=named), store, now=1)
    assert signals(build(replace(request, calibration_rows=None), store, now=1))[0] == "service:error"


def test_an_output_of_several_values_is_reported_as_unwatched(store: BlockStore, tmp_path: Path) -> None:
    built = build(asked(tmp_path, NUMBERS, outputs=3), store, now=1)

    assert [(one.name, "y[0]" in one.reason) for one in built.unwatched] == [("y", True)]
    assert built.preview.outputs[0].watched_as.startswith("not: 3 values")


def test_what_is_not_watched_without_a_reference_is_listed(store: BlockStore, tmp_path: Path) -> None:
    built = build(replace(asked(tmp_path, NUMBERS), reference=None, calibration_rows=1024), store, now=1)

    assert signals(built) == ["service:latency_ms", "service:error", "service:memory_mib"]
    assert {one.name for one in built.unwatched} == {"x", "y"}


def test_numbers_of_a_csv_are_texts_where_the_model_takes_texts(store: BlockStore, tmp_path: Path) -> None:
    """Postcodes, flags and dates."""
    frame = pd.DataFrame(
        {
            "code": RNG.choice(["01", "1", "10"], ROWS),
            "on": RNG.choice(["true", "false"], ROWS),
            "day": RNG.choice(["2026-01-01", "2026-01-02"], ROWS),
        }
    )
    names = list(frame)
    nodes = [node("Concat", names, ["all"], axis=1)]
    model = graph(tmp_path / "m.onnx", nodes, [(name, STRING, ["n", 1]) for name in names], [("all", STRING, ["n", 3])])
    request = PublishRequest(model, "m", "1.0.0", reference=read_reference(table(tmp_path / "r.csv", frame)))

    built = build(request, store, now=1)

    assert built.manifest.baseline is not None
    categories = {one.name: set(one.categories) for one in built.manifest.baseline.signals}
    assert categories == {name: set(frame[name]) for name in names}
