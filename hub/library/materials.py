"""Lay out what a program publishes as a release file names it: models and references that are in memory become files for a while.

What is refused names what the program gave, and not the file.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from schemas.errors import Code, Refused, mismatch

if TYPE_CHECKING:
    import pyarrow

    from hub.publish.sklearn_model import Converted

MODEL_BYTES_MAX: Final = 2**31 - 1  # More does not fit in one message of protobuf.
KINDS: Final = "numbers, texts, dates or booleans"


@dataclass(frozen=True)
class Materials:
    """Hold the fields of a release file, or the file itself, and what was done to get there."""

    fields: Mapping[str, Any]
    release_file: Path | None = None
    converted: "Converted | None" = None


@contextlib.contextmanager
def laid_out(model: object, fields: Mapping[str, Any], reference: object) -> Iterator[Materials]:
    """Yield what is published; files exist until the block ends.

    Raises:
        TypeError: the model or the reference is nothing that can be published.
        Refused: a column or array cannot be used, or a model cannot be converted.
    """
    with tempfile.TemporaryDirectory(prefix="fleetcast-publish-") as scratch, _named(Path(scratch)):
        folder = Path(scratch)
        given = {**fields}
        if reference is not None:
            given["reference"] = {**given.get("reference", {}), "data": str(_reference(reference, folder))}
        elif "data" not in given.get("reference", {}):
            given.pop("reference", None) if not isinstance(model, str | os.PathLike) else None
        golden = given.get("golden", {}).get("data")
        if golden is not None:
            given["golden"] = {**given["golden"], "data": str(_golden(golden, folder))}
        if isinstance(model, str | os.PathLike):
            path = Path(model).absolute()
            if path.suffix.lower() == ".toml":
                yield Materials(given, release_file=path)
            else:
                yield Materials({**given, "model": str(path)})
        elif _is_onnx(model):
            yield Materials({**given, "model": str(_onnx(model, folder))})
        elif _is_estimator(model):
            from hub.publish.sklearn_model import convert_model  # noqa: PLC0415  # numpy and ONNX take a while to import

            done = convert_model(Path("model"), model, folder)
            yield Materials({**given, "model": str(done.path)}, converted=done)
        else:
            found = f"{type(model).__module__}.{type(model).__qualname__}"
            raise TypeError(f"model must be a file, an ONNX ModelProto or a fitted estimator of scikit-learn, found {found}")


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Call what is in the folder by what the program gave, in refusals."""
    try:
        yield
    except Refused as error:
        names = {"reference.parquet": "the reference", "golden.npz": "golden", "model.onnx": "the model"}
        reason = error.reason
        for file, name in names.items():
            reason = reason.replace(str(folder / file), name)
        if reason == error.reason:
            raise
        raise Refused(error.code, reason) from error


def _is_onnx(model: object) -> bool:
    return type(model).__name__ == "ModelProto" and hasattr(model, "SerializeToString")


def _is_estimator(model: object) -> bool:
    return hasattr(model, "get_params") and hasattr(model, "fit")


def _onnx(model: Any, folder: Path) -> Path:
    """Write a ModelProto.

    Raises:
        Refused: MODEL_TOO_LARGE: its weights do not fit in one message.
    """
    try:
        data = model.SerializeToString(deterministic=True) if model.ByteSize() <= MODEL_BYTES_MAX else None
    except ValueError:  # Protobuf's own bound.
        data = None
    if data is None:
        mend = "save it with onnx.save(..., save_as_external_data=True), and publish the file"
        raise Refused(Code.MODEL_TOO_LARGE, f"the ONNX model has more than {MODEL_BYTES_MAX} bytes: {mend}")
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


def _golden(golden: object, folder: Path) -> Path:
    if isinstance(golden, str | os.PathLike):
        return Path(golden).absolute()
    if not isinstance(golden, Mapping):
        raise TypeError(f"golden must be a file, or arrays by name such as 'input.x', found {type(golden).__name__}")
    path = folder / "golden.npz"
    arrays: dict[str, Any] = {str(name): np.asarray(array) for name, array in golden.items()}
    np.savez(path, **arrays)
    return path


def _reference(reference: object, folder: Path) -> Path:
    """Return a file with the reference.

    Raises:
        TypeError: it is no table.
        Refused: REFERENCE_INVALID, naming the column and the mend.
    """
    if isinstance(reference, str | os.PathLike):
        return Path(reference).absolute()
    import pyarrow.parquet  # noqa: PLC0415  # takes a while to import

    path = folder / "reference.parquet"
    table = _table(reference)
    named = list(zip(table.column_names, table.columns, strict=True))
    for name, column in named:
        _check_column(name, column.type)
    if len({name for name, _ in named}) != len(named):
        raise mismatch(
            Code.REFERENCE_INVALID, "the reference: column names", expected="each once", actual=", ".join(table.column_names)[:200]
        )
    pyarrow.parquet.write_table(pyarrow.table({name: _plain(column) for name, column in named}), path)
    return path


def _table(reference: Any) -> "pyarrow.Table":
    import pyarrow as pa  # noqa: PLC0415

    if isinstance(reference, pa.Table):
        return reference
    if isinstance(reference, Mapping):
        return pa.table({str(name): _column(str(name), np.asarray(values)) for name, values in reference.items()})
    module = type(reference).__module__.partition(".")[0]
    if module == "pandas" and hasattr(reference, "columns"):
        if reference.index.name is not None or reference.index.nlevels > 1:
            reference = reference.reset_index()  # A named index is a column, such as the time of a row.
        names = [str(name) for name in reference.columns]
        if len(set(names)) != len(names):
            raise mismatch(Code.REFERENCE_INVALID, "the reference: column names", expected="each once", actual=", ".join(names)[:200])
        return pa.table({name: _column(name, reference.iloc[:, at]) for at, name in enumerate(names)})
    if module == "polars" and hasattr(reference, "collect"):
        reference = reference.collect()
    if hasattr(reference, "__arrow_c_stream__"):  # polars, duckdb, ibis, and whatever else speaks Arrow
        try:
            return pa.table(reference)
        except (pa.ArrowException, TypeError) as error:
            raise Refused(Code.REFERENCE_INVALID, f"the reference cannot be read as a table: {error}") from error
    raise TypeError(
        "reference must be a file, a frame of pandas or polars, a table of pyarrow, or arrays by column, found"
        f" {type(reference).__module__}.{type(reference).__qualname__}"
    )


def _column(name: str, values: Any) -> "pyarrow.Array":
    import pyarrow as pa  # noqa: PLC0415

    if getattr(values, "ndim", 1) != 1:
        raise mismatch(Code.REFERENCE_INVALID, f"the reference: column {name!r}", expected="one value a row", actual=f"{values.ndim} axes")
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError):
        kinds = sorted({type(one).__name__ for one in list(values)[:10_000] if one is not None})
        mend = f"convert it first, such as frame[{name!r}] = frame[{name!r}].astype('float32'), or leave it out"
        actual = f"{', '.join(kinds[:5])} mixed: {mend}" if len(kinds) > 1 else f"{kinds[0] if kinds else 'nothing'}: {mend}"
        raise mismatch(Code.REFERENCE_INVALID, f"the reference: column {name!r}", expected=KINDS, actual=actual) from None


def _plain(column: "pyarrow.ChunkedArray") -> "pyarrow.ChunkedArray":
    """Return a column as Parquet has it: categories as their values, and texts in one form, which polars' are not."""
    import pyarrow as pa  # noqa: PLC0415

    kind = column.type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string_view(inner):
        return pa.chunked_array([pa.array(chunk.to_pylist(), pa.string()) for chunk in column.chunks], pa.string())
    return column.cast(inner) if pa.types.is_dictionary(kind) else column


def _check_column(name: str, kind: "pyarrow.DataType") -> None:
    """Check that a column is of a type that a reference can have.

    Raises:
        Refused: REFERENCE_INVALID, naming the column, its type and the mend.
    """
    from pyarrow import types  # noqa: PLC0415

    inner = kind.value_type if types.is_dictionary(kind) else kind
    is_text = types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)
    is_number = types.is_integer(inner) or types.is_floating(inner) or types.is_decimal(inner) or types.is_boolean(inner)
    if is_text or is_number or types.is_timestamp(inner) or types.is_date(inner):
        return
    mend = "convert it to seconds first: frame[{0!r}] = frame[{0!r}].dt.total_seconds()" if types.is_duration(inner) else "convert it first"
    actual = f"{kind}: {mend.format(name)}, or leave it out"
    raise mismatch(Code.REFERENCE_INVALID, f"the reference: column {name!r}", expected=KINDS, actual=actual)
