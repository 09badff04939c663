"""Frames of several libraries become the same reference, whatever their types; models in memory are told apart."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from hub.library.materials import laid_out
from hub.publish.reference_data import read_reference
from schemas.errors import Code, Refused

ROWS = 40


def columns_of(reference: Any) -> dict[str, np.ndarray]:
    with laid_out("model.onnx", {}, reference) as found:
        return read_reference(Path(found.fields["reference"]["data"])).columns


def test_texts_categories_dates_and_nullable_numbers_are_read_alike_from_each_library() -> None:
    pandas = pd.DataFrame(
        {
            "carrier": ["AA", "UA"] * (ROWS // 2),
            "kind": pd.Categorical(["a", "b"] * (ROWS // 2)),
            "day": pd.date_range("2026-01-01", periods=ROWS, freq="D"),
            "count": pd.array(range(ROWS), dtype="Int64"),
            "late": np.linspace(0, 1, ROWS, dtype=np.float32),
            "is_late": [True, False] * (ROWS // 2),
        }
    )
    polars = pl.DataFrame({name: pandas[name].tolist() for name in ("carrier", "day", "count", "is_late")}).with_columns(
        kind=pl.Series(["a", "b"] * (ROWS // 2), dtype=pl.Categorical), late=pl.Series(pandas["late"].to_numpy())
    )

    one, other = columns_of(pandas), columns_of(polars)

    assert set(one) == set(other) == set(pandas.columns)
    for name, column in one.items():
        assert column.astype(str).tolist() == other[name].astype(column.dtype).astype(str).tolist(), name


def test_lazy_frames_arrow_tables_and_arrays_are_read_as_frames_are() -> None:
    frame = pl.DataFrame({"a": range(ROWS), "b": np.linspace(0, 1, ROWS)})
    expected = {name: column.tolist() for name, column in columns_of(frame).items()}

    for other in (frame.lazy(), frame.to_arrow(), frame.to_pandas(), {name: frame[name].to_numpy() for name in frame.columns}):
        assert {name: column.tolist() for name, column in columns_of(other).items()} == expected


def test_a_named_index_is_a_column_and_an_unnamed_one_is_not() -> None:
    frame = pd.DataFrame({"a": range(ROWS)}, index=pd.Index(range(ROWS), name="day"))

    assert set(columns_of(frame)) == {"day", "a"}
    assert set(columns_of(frame.rename_axis(None))) == {"a"}


def test_names_of_columns_that_are_numbers_are_texts() -> None:
    assert set(columns_of(pd.DataFrame(np.zeros((ROWS, 2))))) == {"0", "1"}


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("x", [[1]] * ROWS),
        pl.Series("x", [{"a": 1}] * ROWS),
        pl.Series("x", [b"\0"] * ROWS),
        pl.Series("x", range(ROWS)).cast(pl.Duration("ms")),
        pl.Series("x", [None] * ROWS, dtype=pl.Null),
    ],
    ids=["lists", "structs", "bytes", "durations", "nothing"],
)
def test_a_column_of_another_type_is_refused_by_its_name(column: pl.Series) -> None:
    with pytest.raises(Refused, match="the reference: column 'x': expected numbers, texts, dates or booleans, found") as caught:
        columns_of(column.to_frame())

    assert caught.value.code is Code.REFERENCE_INVALID


def test_arrays_of_several_axes_are_refused_by_their_name() -> None:
    with pytest.raises(Refused, match="column 'x': expected one value a row, found 2 axes"):
        columns_of({"x": np.zeros((ROWS, 2))})


def test_a_model_too_large_for_one_message_says_how_to_save_it() -> None:
    class ModelProto(SimpleNamespace):
        def ByteSize(self) -> int:  # as protobuf has it
            return 2**31

        def SerializeToString(self, *, deterministic: bool) -> bytes:
            raise AssertionError(deterministic)

    with pytest.raises(Refused, match=r"save_as_external_data=True\), and publish the file") as caught, laid_out(ModelProto(), {}, None):
        pass

    assert caught.value.code is Code.MODEL_TOO_LARGE


def test_what_was_laid_out_is_gone_afterwards() -> None:
    with laid_out("model.onnx", {}, {"x": np.zeros(ROWS)}) as found:
        data = Path(found.fields["reference"]["data"])
        assert data.exists()

    assert not data.parent.exists()
