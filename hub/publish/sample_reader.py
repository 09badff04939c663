"""Read rows to measure or calibrate builds with: columns by name as in a reference, or arrays by input. Knows no ONNX.

An npz with arrays `input.<tensor>` is of the second kind. If an array has one axis more than its input, its first axis counts whole
inputs, which are run one by one (audio with a state, one image per request); else it counts rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fleetcast.golden_file import plain_arrays
from hub.core.publish.release import DTYPES, Array, feeds, listed
from hub.core.publish.samples import Samples
from hub.publish.csv_table import texts_of
from hub.publish.reference_data import BYTES_MAX, ROWS_MIN, Reference, read_reference
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Tensor

PREFIX = "input."


@dataclass(frozen=True)
class Rows:
    """Hold a file's columns or arrays; `truth` is the one that is not an input. `passed_over` are columns that are not features."""

    path: Path
    columns: dict[str, Array]
    truth: str | None = None
    passed_over: tuple[str, ...] = ()
    blocks: str | None = None  # Column with the day, shift or batch of each row.

    def fit(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, named: Sequence[str] | None) -> Samples:
        """Return the rows as the model takes them.

        Raises:
            Refused: REFERENCE_INVALID: they do not fit the inputs, or there is no such truth.
        """
        truth = self._truth(texts=_labels_are_texts(outputs))
        blocks = None if self.blocks is None else Reference(self.columns, self.path).blocks(self.blocks)
        no_inputs = {self.truth, self.blocks, *self.passed_over}
        rest = {name: column for name, column in self.columns.items() if name not in no_inputs}
        if any(name.startswith(PREFIX) for name in rest):
            samples = self._arrays(inputs, rest, truth)
        else:
            fitted = Reference(rest, self.path).fit(inputs, outputs, named=named, blocks_column=None)
            samples = Samples(feeds(fitted.features, fitted.columns), truth)
        samples = replace(samples, blocks=blocks)
        if truth is not None and len(truth) != samples.rows:
            raise mismatch(Code.REFERENCE_INVALID, f"{self.path}: rows of truth {self.truth!r}", expected=samples.rows, actual=len(truth))
        return samples

    def _truth(self, *, texts: bool) -> Array | None:
        if self.truth is None:
            return None
        if self.truth not in self.columns:
            raise mismatch(
                Code.REFERENCE_INVALID,
                f"{self.path}: truth",
                expected=f"a column {self.truth!r}",
                actual=listed(list(reversed(self.columns))),
            )
        values = self.columns[self.truth]
        if texts and values.ndim == 1 and values.dtype.kind in "biuM" and self.path.suffix.lower() == ".csv":
            values = texts_of(self.path, self.truth)
        elif texts and values.ndim == 1 and values.dtype.kind in "iu":
            values = values.astype(np.str_)  # The labels 3, 5 and 7 of a classifier of texts, and not places among its probabilities.
        if values.ndim != 1 or values.dtype.kind not in "biufUO":
            raise mismatch(
                Code.REFERENCE_INVALID,
                f"{self.path}: truth {self.truth!r}",
                expected="a number or a text a row",
                actual=f"{values.dtype}{list(values.shape)}",
            )
        bad = (
            ~np.isfinite(values)
            if values.dtype.kind == "f"
            else np.array([values.dtype == object and not isinstance(one, str) for one in values])
        )
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            where = f"{self.path}: truth {self.truth!r}, row {row} (counted from 0; {int(bad.sum())} such rows)"
            raise mismatch(Code.REFERENCE_INVALID, where, expected="a value", actual=str(values[row])[:64])
        return values

    def _arrays(self, inputs: Sequence[Tensor], arrays: dict[str, Array], truth: Array | None) -> Samples:
        takes = {PREFIX + tensor.name: tensor for tensor in inputs}
        if set(arrays) != set(takes):
            raise mismatch(Code.REFERENCE_INVALID, f"{self.path}: arrays", expected=listed(list(takes)), actual=listed(list(arrays)))
        alone = all(arrays[name].ndim == len(tensor.shape) + 1 for name, tensor in takes.items())
        found = {tensor.name: self._array(name, arrays[name], tensor, alone=alone) for name, tensor in takes.items()}
        counts = {name: len(array) for name, array in found.items()}
        if len(set(counts.values())) != 1 or min(counts.values()) < ROWS_MIN:
            raise mismatch(Code.REFERENCE_INVALID, f"{self.path}: rows", expected=f"at least {ROWS_MIN}, as many of each", actual=counts)
        return Samples(found, truth, alone)

    def _array(self, name: str, array: Array, tensor: Tensor, *, alone: bool) -> Array:
        dtype = DTYPES[tensor.datatype]
        if not (array.dtype.kind == "U" if tensor.datatype == "BYTES" else np.can_cast(array.dtype, dtype, "same_kind")):
            raise mismatch(Code.REFERENCE_INVALID, f"{self.path}: {name}", expected=tensor.datatype, actual=array.dtype)
        shape = array.shape[1:] if alone else (-1, *array.shape[1:])
        fits = len(shape) == len(tensor.shape) and all(want in (-1, have) for want, have in zip(tensor.shape, shape, strict=True))
        if not fits:
            rows = f", with one axis more in front, or {list(tensor.shape)} with a free first axis"
            raise mismatch(
                Code.REFERENCE_INVALID, f"{self.path}: shape of {name}", expected=f"{list(tensor.shape)}{rows}", actual=list(array.shape)
            )
        return array.astype(dtype)


def _labels_are_texts(outputs: Sequence[Tensor]) -> bool:
    """Return whether a model gives texts and no whole numbers, so that its labels are the texts."""
    kinds = {DTYPES[tensor.datatype].kind for tensor in outputs}
    return "O" in kinds and not kinds & set("biu")


def read_rows(path: Path, *, truth: str | None = None, passed_over: Sequence[str] = (), blocks: str | None = None) -> Rows:
    """Return the rows from a .parquet, .csv or .npz file.

    Raises:
        Refused: REFERENCE_INVALID: as `hub.publish.reference_data.read_reference`.
    """
    if path.suffix.lower() == ".npz":
        try:
            if path.stat().st_size > BYTES_MAX:
                raise mismatch(Code.REFERENCE_INVALID, f"{path}: size", expected=f"at most {BYTES_MAX} bytes", actual=path.stat().st_size)
            with path.open("rb") as file:
                arrays = plain_arrays(str(path), file, Code.REFERENCE_INVALID, bytes_max=BYTES_MAX)
        except OSError as error:
            raise Refused(Code.REFERENCE_INVALID, f"{path} cannot be read: {error.strerror}") from None
        if any(name.startswith(PREFIX) for name in arrays):
            return Rows(path, arrays, truth, tuple(passed_over), blocks)
    return Rows(path, read_reference(path).columns, truth, tuple(passed_over), blocks)
