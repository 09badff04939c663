"""Convert a scikit-learn model, kept by joblib or pickle, to ONNX. Only this module reads such files, and skl2onnx does the work.

A joblib or pickle file is code: reading it runs what it says. It is read only where an operator names it in a command.
"""

import pickle
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from hub.core.publish import release as core
from hub.publish.onnx_model import COLUMNS_KEY, OnnxModel
from hub.publish.reference_data import Array, Reference
from schemas.errors import Code, Refused, mismatch
from schemas.limits import TENSORS_MAX

SUFFIXES = (".joblib", ".pkl", ".pickle")
OPSETS = {"": 20, "ai.onnx.ml": 3}  # What the oldest ONNX Runtime of a hub knows, 1.17; a node has a newer one.
ROWS_COMPARED = 256
MATRIX = "input"  # Name of the one input of a model that takes all features as a matrix.
WORDS = {"FP32": "FloatTensorType", "INT64": "Int64TensorType", "BYTES": "StringTensorType"}
LOCALE = "C.UTF-8"  # ONNX Runtime lowers texts in this one. skl2onnx asks for en_US.UTF-8, which small devices do not have.
TOKENS = {r"(?u)\b\w\w+\b": r"[\p{L}\p{N}_]{2,}"}  # scikit-learn's own pattern, in the words of RE2. skl2onnx writes one of ASCII letters.
REASON_MAX = 200
RUNTIME_PLACES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ \S+\([^)]*\) ")  # Not the reader's code.
NOT_COMPARED = "warning: its answers could not be compared with scikit-learn's"
MEND = "pip install scikit-learn skl2onnx (the extra [sklearn]), or deliver the file as it is with --runtime files"


@dataclass(frozen=True)
class Converted:
    """Hold the ONNX file, and what was done, a sentence each."""

    path: Path
    steps: tuple[str, ...]
    model: Any = field(repr=False)


def is_sklearn(path: Path) -> bool:
    """Return whether a file's suffix is that of a scikit-learn model."""
    return path.suffix.lower() in SUFFIXES


def convert(path: Path, folder: Path) -> Converted:
    """Write the model as ONNX into the folder. The same file gives the same bytes.

    Raises:
        Refused: MODEL_LOAD: scikit-learn or skl2onnx is not installed, the file is no model of scikit-learn, or skl2onnx has no converter
            for a part of it; each with the mend.
    """
    model, said = _read(path)
    done = convert_model(path, model, folder)
    return replace(done, steps=(*said, f"{path.name} was read, which runs what is in it: publish only files that you made", *done.steps))


def convert_model(path: Path, model: Any, folder: Path) -> Converted:
    """Write a model that is in memory as ONNX into the folder; `path` is what it is called. The same model gives the same bytes.

    Raises:
        Refused: as `convert`.
    """
    _import(path)
    inputs = list(_inputs(path, model))
    graph = _converted(path, model, inputs)
    names = getattr(model, "feature_names_in_", None)
    if len(inputs) == 1 and names is not None and not any("," in name for name in names):
        entry = graph.metadata_props.add()
        entry.key, entry.value = COLUMNS_KEY, ",".join(names)
    target = folder / f"{path.stem}.onnx"
    target.write_bytes(graph.SerializeToString(deterministic=True))
    try:
        OnnxModel(target)
    except Refused as error:
        raise _not_converted(
            path, model, "the ONNX model that skl2onnx makes of it is not valid", error.__cause__ or error, target
        ) from None
    return Converted(target, tuple(_steps(model, inputs, graph)), model)


def compared(converted: Converted, reference: Reference, *, named: Sequence[str] | None, passed_over: Sequence[str]) -> str:
    """Return a sentence on how far the ONNX model's answers to the reference's first rows are from scikit-learn's.

    Raises:
        Refused: the reference does not fit the model.
    """
    onnx = OnnxModel(converted.path)
    known = Reference({name: column for name, column in reference.columns.items() if name not in passed_over}, reference.path)
    fitted = known.fit(onnx.inputs, onnx.outputs, named=named or onnx.columns, blocks_column=None)
    fitted = replace(fitted, columns={name: column[:ROWS_COMPARED] for name, column in fitted.columns.items()})
    try:
        asked = _as_fitted(converted.model, {feature.column: _as_seen(known, fitted, feature) for feature in fitted.features})
    except ImportError:
        return f"{NOT_COMPARED}: pandas is not installed here"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It was fitted with names of columns, and the order is known here.
        try:
            want = np.asarray(converted.model.predict(asked))
        except Exception as error:  # estimators of many hands raise what they like
            return f"{NOT_COMPARED}: scikit-learn cannot answer the reference's rows ({_reason(error)})"
    have = onnx.run(core.feeds(fitted.features, fitted.columns), Code.MODEL_RUN)[onnx.outputs[0].name]
    if have.size != want.size:
        return f"{NOT_COMPARED}: they have the shape {list(want.shape)} there and {list(have.shape)} as ONNX"
    have = have.reshape(want.shape)
    if want.dtype.kind == "f":
        return (
            f"its answers differ from scikit-learn's by at most {np.max(np.abs(want - have)):.3g}, on {fitted.rows} rows of the reference"
        )
    return f"its labels differ from scikit-learn's on {int((want != have).sum())} of {fitted.rows} rows of the reference"


def _as_seen(known: Reference, fitted: core.Fitted, feature: core.Feature) -> Array:
    """Return a column as scikit-learn is asked with it: texts as objects, and numbers before they are cut to the model's 32 bits."""
    if feature.tensor.datatype == "BYTES":
        return fitted.columns[feature.column].astype(object)
    return known.columns[feature.column][:ROWS_COMPARED]


def _as_fitted(model: Any, columns: dict[str, Array]) -> Any:
    """Return the columns in the form that the model was fitted on: a table, one list of texts, or a matrix."""
    first = _first(model)
    if _reads_texts(first):
        return next(iter(columns.values()))
    if not hasattr(first, "transformers_"):
        return np.stack(list(columns.values()), axis=1)
    import pandas as pd  # noqa: PLC0415  # a model that was fitted on a table is asked with one

    return pd.DataFrame({name: pd.Series(column, dtype=column.dtype) for name, column in columns.items()})


def _import(path: Path) -> None:
    """Check that what converts is installed.

    Raises:
        Refused: it is not.
    """
    try:
        import joblib  # noqa: F401, PLC0415  # an extra
        import skl2onnx  # noqa: F401, PLC0415
        import sklearn.base  # noqa: F401, PLC0415
    except ImportError as error:
        reason = f"{path} is a scikit-learn model, which skl2onnx converts to ONNX, but {error.name} is not installed: {MEND}"
        raise Refused(Code.MODEL_LOAD, reason) from None


def _read(path: Path) -> tuple[Any, list[str]]:
    _import(path)
    import joblib  # noqa: PLC0415
    import sklearn.base  # noqa: PLC0415

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = joblib.load(path)
    except ModuleNotFoundError as error:
        reason = f"{path} needs the module {error.name!r}, which is not installed here: it has to be there where the model is converted"
        raise Refused(Code.MODEL_LOAD, reason) from None
    except (OSError, EOFError, ValueError, KeyError, IndexError, AttributeError, ImportError, TypeError, pickle.UnpicklingError) as error:
        raise Refused(Code.MODEL_LOAD, f"{path} cannot be read as joblib or pickle: {core.first_line(error)}") from error
    if not isinstance(model, sklearn.base.BaseEstimator):
        found = f"{type(model).__module__}.{type(model).__qualname__}"
        raise mismatch(Code.MODEL_LOAD, f"{path}: object in the file", expected="a fitted estimator of scikit-learn", actual=found)
    versions = sorted({one.message.original_sklearn_version for one in caught if hasattr(one.message, "original_sklearn_version")})
    here = sklearn.__version__
    return model, [f"it was fitted with scikit-learn {one} and is read by {here}: compare its answers" for one in versions]


def _inputs(path: Path, model: Any) -> Iterator[tuple[str, str, int]]:
    """Return each input's name, datatype and number of columns: a matrix, or a column each where a ColumnTransformer comes first."""
    _check_fitted(path, model)
    first = _first(model)
    if _reads_texts(first):
        yield MATRIX, "BYTES", 1
        return
    width = getattr(model, "n_features_in_", None)
    if width is None:
        expected = "a first step that takes columns of numbers or texts"
        raise mismatch(Code.MODEL_LOAD, f"{path}: {_described(model)}", expected=expected, actual=type(first).__name__)
    if not hasattr(first, "transformers_"):
        kinds = {_datatype(first, column) for column in range(width)}
        if len(kinds) > 1:
            mend = "put the encoders into a ColumnTransformer"
            raise mismatch(Code.MODEL_LOAD, f"{path}: features", expected=f"one datatype ({mend})", actual=", ".join(sorted(kinds)))
        yield MATRIX, kinds.pop(), width
        return
    names = getattr(first, "feature_names_in_", None)
    if names is None:
        raise mismatch(
            Code.MODEL_LOAD, f"{path}: ColumnTransformer", expected="one that was fitted on a table with column names", actual="no names"
        )
    if len(names) > TENSORS_MAX:
        raise mismatch(Code.MODEL_LOAD, f"{path}: columns", expected=f"at most {TENSORS_MAX}", actual=len(names))
    kinds_by_name = dict(_columns(first, [str(name) for name in names]))
    places = any(_numbered(columns) for _, _, columns in first.transformers_)  # Then no column may be left out, for numbers count them.
    for name in map(str, names):
        if places or name in kinds_by_name:
            yield name, kinds_by_name.get(name, "FP32"), 1


def _check_fitted(path: Path, model: Any) -> None:
    from sklearn.exceptions import NotFittedError  # noqa: PLC0415  # an extra; `_read` has looked
    from sklearn.utils.validation import check_is_fitted  # noqa: PLC0415

    try:
        check_is_fitted(model)
    except (NotFittedError, TypeError):
        actual = "one that is not fitted"
        raise mismatch(Code.MODEL_LOAD, f"{path}: {_described(model)}", expected="a fitted estimator", actual=actual) from None


def _first(model: Any) -> Any:
    """Return the first step of a pipeline, also of one inside of it; any other model as it is."""
    while hasattr(model, "steps"):
        model = model.steps[0][1]
    return model


def _parts(model: Any) -> Iterator[Any]:
    """Return the fitted estimators that a pipeline, a union or a ColumnTransformer is made of."""
    if hasattr(model, "steps"):
        inner = [step for _, step in model.steps]
    elif hasattr(model, "transformers_"):
        inner = [step for _, step, _ in model.transformers_]
    elif hasattr(model, "transformer_list"):
        inner = [step for _, step in model.transformer_list]
    else:
        yield from () if isinstance(model, str) or model is None else (model,)
        return
    for one in inner:
        yield from _parts(one)


def _described(model: Any) -> str:
    """Return the name of the estimator, and of what it is made of."""
    parts = list(dict.fromkeys(type(one).__name__ for one in _parts(model)))
    name = type(model).__name__
    return name if parts == [name] else f"{name} of {', '.join(parts)}"


def _reads_texts(part: Any) -> bool:
    """Return whether a transformer takes one list of texts, as the vectorizers of texts do, and not a table."""
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer  # noqa: PLC0415  # an extra; `_read` has looked

    if hasattr(part, "transformer_list"):
        return all(_reads_texts(_first(one)) for _, one in part.transformer_list)
    return isinstance(part, CountVectorizer | HashingVectorizer)


def _columns(transformer: Any, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the datatype of each column that a ColumnTransformer uses."""
    for _, part, columns in transformer.transformers_:
        if isinstance(part, str) and part == "drop":
            continue
        chosen = np.asarray(names)[columns] if _numbered(columns) else columns
        for at, name in enumerate([chosen] if isinstance(chosen, str) else chosen):
            yield str(name), _datatype(part, at)


def _numbered(columns: Any) -> bool:
    """Return whether columns are named by numbers, one or more, a slice of them, or a mask."""
    return isinstance(columns, int | np.integer | slice) or (
        not isinstance(columns, str) and not all(isinstance(one, str) for one in columns)
    )


def _datatype(part: Any, column: int) -> str:
    """Return what a fitted transformer takes in one of its columns: what an encoder or imputer has seen there, and else numbers."""
    if _reads_texts(_first(part)):
        return "BYTES"
    steps = [step for _, step in part.steps] if hasattr(part, "steps") else [part]
    for step in steps:
        if (categories := getattr(step, "categories_", None)) is not None and column < len(categories):
            return {"i": "INT64", "u": "INT64", "f": "FP32", "b": "INT64"}.get(np.asarray(categories[column]).dtype.kind, "BYTES")
        statistics = getattr(step, "statistics_", None)
        if statistics is not None and np.asarray(statistics).dtype.kind in "OU" and isinstance(statistics[column], str):
            return "BYTES"
    return "FP32"


def _converted(path: Path, model: Any, inputs: Sequence[tuple[str, str, int]]) -> Any:
    import skl2onnx  # noqa: PLC0415  # an extra; `_read` has looked
    from skl2onnx.common import data_types, exceptions  # noqa: PLC0415
    from sklearn.base import is_classifier  # noqa: PLC0415
    from sklearn.feature_extraction.text import CountVectorizer  # noqa: PLC0415

    types = [(name, getattr(data_types, WORDS[datatype])([None, width])) for name, datatype, width in inputs]
    options: dict[int, dict[str, Any]] = {id(model): {"zipmap": False}} if is_classifier(model) else {}
    for part in _parts(model):
        if isinstance(part, CountVectorizer):
            tokens = TOKENS.get(part.token_pattern)
            options[id(part)] = {"locale": LOCALE} | ({"tokenexp": tokens} if tokens else {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return skl2onnx.convert_sklearn(model, path.stem, types, target_opset=OPSETS, options=options)
    except (exceptions.MissingShapeCalculator, exceptions.MissingConverter) as error:
        line = core.first_line(error)
        reason = f"{path}: skl2onnx has no converter for a part of it: {line} LightGBM and XGBoost: docs/how-to/gradient-boosting.md"
        raise Refused(Code.MODEL_LOAD, reason) from None
    except Exception as error:  # converters of many hands raise what they like
        raise _not_converted(path, model, "skl2onnx cannot convert it", error.__cause__ or error) from error


def _not_converted(path: Path, model: Any, what: str, cause: object, target: Path | None = None) -> Refused:
    """Return the refusal of a model that cannot be had as ONNX: what it is, the mend, and at last what the libraries say of it."""
    import skl2onnx  # noqa: PLC0415

    reason = _reason(cause if target is None else str(cause).replace(str(target), path.name))
    return Refused(
        Code.MODEL_LOAD,
        f"{path}: {_described(model)}: {what}. Try another version of skl2onnx (here {skl2onnx.__version__}), other settings of the"
        f" estimator, or another estimator: docs/how-to/scikit-learn.md. The library's reason: {reason}",
    )


def _reason(cause: object) -> str:
    """Return what a library says, without lines and cut at a word."""
    text = " ".join((RUNTIME_PLACES.sub("", str(cause)) or type(cause).__name__).split())
    return shorten(text, REASON_MAX, placeholder=" ...").rstrip(".")


def _steps(model: Any, inputs: Sequence[tuple[str, str, int]], graph: Any) -> Iterator[str]:
    import skl2onnx  # noqa: PLC0415
    from sklearn.base import is_classifier  # noqa: PLC0415

    yield f"{type(model).__name__} was converted to ONNX by skl2onnx {skl2onnx.__version__}"
    yield f"inputs: {', '.join(f'{name} {datatype}[-1, {width}]' for name, datatype, width in inputs)}"
    yield f"outputs: {', '.join(one.name for one in graph.graph.output)}" + ("; zipmap is off" if is_classifier(model) else "")
    opsets = sorted({(one.domain or "ai.onnx", one.version) for one in graph.opset_import})
    yield f"opsets: {', '.join(f'{domain} {version}' for domain, version in opsets)}"
