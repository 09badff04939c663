"""Reference data is read from what publishers have, and fits the model or is refused with both sides named."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.publish.release import Fitted
from hub.publish.reference_data import ROWS_MIN, Reference, read_reference
from schemas.errors import Code, Refused
from schemas.manifest import Tensor

ROWS = 30
Columns = dict[str, np.ndarray]


def tensor(name: str, *shape: int, datatype: str = "FP32") -> Tensor:
    return Tensor.model_validate({"name": name, "datatype": datatype, "shape": shape})


WIDE = [tensor("x", -1, 2)]
BY_NAME = [tensor("a", -1, 1), tensor("b", -1, datatype="INT64"), tensor("t", -1, 1, datatype="BYTES")]
OUTPUTS = [tensor("variable", -1, 1)]


def numbers(*names: str) -> Columns:
    return {name: np.arange(ROWS, dtype="f8") + at for at, name in enumerate(names)}


def fit(columns: Columns, inputs: list[Tensor], *, named: list[str] | None = None, blocks: str | None = None) -> Fitted:
    return Reference(columns, Path("ref.parquet")).fit(inputs, OUTPUTS, named=named, blocks_column=blocks)


def refused(columns: Columns, inputs: list[Tensor], says: str, *, named: list[str] | None = None, blocks: str | None = None) -> None:
    with pytest.raises(Refused, match=says) as caught:
        fit(columns, inputs, named=named, blocks=blocks)
    assert caught.value.code == Code.REFERENCE_INVALID


def unreadable(path: Path, says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        read_reference(path)
    assert caught.value.code == Code.REFERENCE_INVALID
    assert str(path) in caught.value.reason


def frame() -> pd.DataFrame:
    return pd.DataFrame({"speed": np.linspace(0, 1, ROWS), "gear": np.arange(ROWS) % 5, "day": [f"d{at % 3}" for at in range(ROWS)]})


# Reading


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_the_same_data_is_the_same_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path, data = tmp_path / f"ref{suffix}", frame()
    match suffix:
        case ".parquet":
            data.to_parquet(path, index=False)
        case ".csv":
            data.to_csv(path, index=False)
        case _:
            np.savez(path, **{name: data[name].to_numpy(str if name == "day" else None) for name in data})
    reference = read_reference(path)
    fitted = reference.fit(WIDE, OUTPUTS, named=None, blocks_column="day")

    assert list(reference.columns) == ["speed", "gear", "day"]
    assert reference.rows == fitted.rows == ROWS
    assert [feature.column for feature in fitted.features] == ["speed", "gear"]
    assert [feature.kind for feature in fitted.features] == ["numeric", "categorical"]
    assert np.allclose(fitted.columns["speed"], data["speed"])
    assert fitted.blocks is not None
    assert list(fitted.blocks) == list(data["day"])


def test_columns_that_arrow_keeps_in_its_own_ways_are_plain_ones(tmp_path: Path) -> None:
    path = tmp_path / "ref.parquet"
    table = {
        "category": pa.array(["a", "b"] * ROWS).dictionary_encode(),
        "price": pa.array([Decimal("1.25")] * 2 * ROWS),
        "day": pa.array([date(2013, 1, 1)] * 2 * ROWS),
    }
    pq.write_table(pa.table(table), path)
    columns = read_reference(path).columns

    assert columns["category"].tolist() == ["a", "b"] * ROWS
    assert columns["price"].dtype == np.float64
    assert columns["day"].dtype.kind == "M"


def test_row_numbers_that_pandas_adds_are_no_column(tmp_path: Path) -> None:
    data = frame()
    data[data.gear > 0].to_parquet(tmp_path / "ref.parquet")

    assert list(read_reference(tmp_path / "ref.parquet").columns) == list(data)


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "month=1"
    folder.mkdir()
    frame().to_parquet(folder / "ref.parquet", index=False)

    assert list(read_reference(folder / "ref.parquet").columns) == list(frame())


@settings(deadline=None)  # a disk has no deadline
@given(st.binary(max_size=300), st.sampled_from([".parquet", ".csv", ".npz"]), st.sampled_from([b"", b"PAR1", b"PK\x03\x04", b"\x93NUMPY"]))
def test_a_file_that_is_no_table_raises_nothing_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, magic: bytes
) -> None:
    path = tmp_path_factory.mktemp("ref") / f"ref{suffix}"
    path.write_bytes(magic + data)
    code = Code.REFERENCE_INVALID
    try:
        rows = read_reference(path).rows
    except Refused as refused:
        code, rows = refused.code, 0

    assert code == Code.REFERENCE_INVALID
    assert rows == 0 or suffix == ".csv"  # almost any text is a table of texts


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ref{suffix}"
    if suffix == ".parquet":
        frame().to_parquet(path)
    else:
        np.savez(path, **numbers("a"))
    path.write_bytes(path.read_bytes()[:-40])

    unreadable(path, "cannot be read|is not an npz")


def test_what_is_not_there_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ref.xlsx").write_bytes(b"x")

    unreadable(tmp_path / "none.csv", "No such file")
    unreadable(tmp_path / "ref.xlsx", r"expected .parquet, .csv or .npz, found .xlsx")


def test_pickled_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", a=np.array([{"a": 1}] * ROWS, object))

    unreadable(tmp_path / "ref.npz", "not an npz of plain arrays")


def test_columns_of_several_lengths_or_none_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "lengths.npz", a=np.zeros(ROWS), b=np.zeros(ROWS + 1))
    np.savez(tmp_path / "axes.npz", a=np.zeros(()))

    unreadable(tmp_path / "lengths.npz", "one first axis of one length")
    unreadable(tmp_path / "axes.npz", "one first axis of one length")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ref.csv").write_text("a,a\n" + "1,2\n" * ROWS)

    unreadable(tmp_path / "ref.csv", "expected each once")


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    frame()[: ROWS_MIN - 1].to_csv(tmp_path / "ref.csv", index=False)

    unreadable(tmp_path / "ref.csv", f"at least {ROWS_MIN}, found {ROWS_MIN - 1}")


# Matching


def test_columns_feed_a_wide_input_in_the_files_order_without_the_block_column() -> None:
    fitted = fit(numbers("b", "day", "a"), WIDE, blocks="day")

    assert [(feature.column, feature.place) for feature in fitted.features] == [("b", 0), ("a", 1)]
    assert fitted.columns["b"].dtype == np.float32


def test_named_columns_feed_it_in_the_named_order_and_others_are_left() -> None:
    fitted = fit(numbers("b", "c", "a"), WIDE, named=["a", "b"])

    assert [feature.column for feature in fitted.features] == ["a", "b"]


@pytest.mark.parametrize("extra", ["label", "Target", "prediction", "variable"])
def test_a_column_of_answers_is_left_out_where_there_is_one_too_many(extra: str) -> None:
    fitted = fit(numbers("a", extra, "b"), WIDE)

    assert [feature.column for feature in fitted.features] == ["a", "b"]


def test_a_feature_that_is_called_like_an_answer_stays_where_it_is_needed() -> None:
    fitted = fit(numbers("target", "a"), WIDE)

    assert [feature.column for feature in fitted.features] == ["target", "a"]


def test_a_free_width_takes_what_columns_there_are() -> None:
    fitted = fit(numbers("a", "b", "c", "label"), [tensor("x", -1, -1)])

    assert [feature.column for feature in fitted.features] == ["a", "b", "c"]


def test_inputs_that_are_columns_are_matched_by_name() -> None:
    columns = {"t": np.array(["x", "y"] * (ROWS // 2), object), "b": np.arange(ROWS), "a": np.arange(ROWS, dtype="f8")}
    fitted = fit(columns, BY_NAME)

    assert [(feature.column, feature.tensor.name, feature.kind) for feature in fitted.features] == [
        ("a", "a", "numeric"),
        ("b", "b", "categorical"),
        ("t", "t", "categorical"),
    ]
    assert {name: column.dtype for name, column in fitted.columns.items()} == {"a": np.float32, "b": np.int64, "t": object}


def test_columns_that_do_not_match_are_refused_with_both_lists() -> None:
    refused(numbers("a", "b", "c"), WIDE, r"expected 2 columns for input 'x' of shape \[-1, 2\], found \['a', 'b', 'c'\]")
    refused(numbers("a"), WIDE, r"expected 2 columns .* found \['a'\]")
    refused(numbers("a", "b", "u"), BY_NAME, r"expected one column an input, \['a', 'b', 't'\], found \['a', 'b', 'u'\]")
    refused(numbers("a", "b"), WIDE, r"expected \['a', 'z'\], each once, found \['a', 'b'\]", named=["a", "z"])
    refused(numbers("a", "b"), WIDE, "each once", named=["a", "a"])
    refused(numbers("a", "b"), WIDE, r"expected 2 columns .* found \['a'\]", named=["a"])


def test_a_block_column_that_is_not_there_is_refused() -> None:
    refused(numbers("a", "b"), WIDE, r"block column: expected day, found \['a', 'b'\]", blocks="day")


def test_a_model_that_rows_cannot_be_fed_to_is_refused() -> None:
    refused(numbers("a", "b"), [tensor("x", 8, 2)], "first axis: expected free, found 8")
    refused(numbers("a"), [tensor("x")], "first axis: expected free, found none")
    refused(numbers("a", "b"), [tensor("a", -1, 1), tensor("b", -1, 7)], r"\['b'\] take more")


# Values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_missing_is_refused_with_its_column_and_row(value: float) -> None:
    columns = numbers("a", "b")
    columns["b"][[7, 9]] = value

    refused(columns, WIDE, rf"column 'b', row 7 \(counted from 0; 2 such rows\): expected a finite number, found {value}")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_empty_field_in_a_column_of_integers_is_a_missing_number(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ref{suffix}"
    if suffix == ".csv":
        path.write_text("a,b\n" + "1,2\n" * 5 + "3,\n" + "1,2\n" * ROWS)
    else:
        pq.write_table(pa.table({"a": [1] * ROWS, "b": pa.array([2] * 5 + [None] + [2] * (ROWS - 6), pa.int64())}), path)
    with pytest.raises(Refused, match="column 'b', row 5"):
        read_reference(path).fit(WIDE, OUTPUTS, named=None, blocks_column=None)


def test_a_missing_value_is_refused_with_its_line_and_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "ref.csv"
    path.write_text("a,b\n" + "1,2\n" * 5 + "\n3,\n" + "1,2\n" * ROWS)  # A blank line is no row.

    with pytest.raises(Refused) as caught:
        read_reference(path).fit(WIDE, OUTPUTS, named=None, blocks_column=None)

    assert f"{path}: column 'b', row 5 (counted from 0; 1 such row; line 8 of the file): " in caught.value.reason
    assert "; drop these rows of the reference or fill them, also where the model fills missing values" in caught.value.reason


def test_a_missing_text_or_day_is_refused_with_its_row() -> None:
    texts = np.array(["x"] * ROWS, object)
    texts[4] = None
    days = np.array(["2013-01-01"] * ROWS, "M8[D]")
    days[3] = "NaT"

    refused(numbers("a", "b") | {"t": texts}, BY_NAME, "column 't', row 4 .* found None")
    refused(numbers("a", "b") | {"day": texts}, WIDE, "column 'day', row 4", blocks="day")
    refused(numbers("a", "b") | {"day": days}, WIDE, "column 'day', row 3 .* expected a date", blocks="day")


def test_a_value_that_its_input_would_change_is_refused() -> None:
    fraction, large = numbers("a", "b"), numbers("a", "b")
    fraction["b"][2] = 1.5
    large["b"][6] = 1e300
    texts = {"t": np.array(["x"] * ROWS, object)}

    refused(fraction | texts, BY_NAME, "column 'b', row 2 .* a value that fits INT64, found 1.5")
    refused(large, WIDE, "column 'b', row 6 .* a value that fits FP32, found 1e[+]300")


def test_texts_are_no_numbers_and_numbers_no_texts() -> None:
    refused({"a": np.array(["1.5"] * ROWS, object), "b": np.zeros(ROWS)}, WIDE, "column 'a' for input 'x': expected FP32, found texts")
    refused(numbers("a", "b", "t"), BY_NAME, "column 't' for input 't': expected BYTES, found float64")
    refused({"a": np.zeros(ROWS, "M8[D]"), "b": np.zeros(ROWS)}, WIDE, "expected FP32, found datetime64")


@given(st.lists(st.floats(-1e30, 1e30), min_size=ROWS, max_size=ROWS))
def test_what_is_counted_is_what_a_node_will_see(values: list[float]) -> None:
    fitted = fit({"a": np.array(values), "b": np.zeros(ROWS)}, WIDE)

    assert fitted.columns["a"].tolist() == np.array(values, "f4").tolist()
