"""Writes merged windows as a Parquet file, one row a bin, for DuckDB, pandas and the like. Knows documents, and not where they come from.

Rows are written in groups of a fixed size, so that memory does not grow with the export. The file is whole or not there.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from fleetcast import durable
from schemas.analytics_messages import MergedWindow
from schemas.errors import Code, Refused

GROUP_ROWS = 65_536  # rows in a row group, about 3 MiB in memory: what readers skip by, too
CODEC = "zstd"
SHARED = ("model", "version", "cohort", "start", "seconds", "windows", "rows", "noise_sd", "epsilon", "delta")  # by all bins of a window
SCHEMA = pa.schema(
    [
        ("model", pa.dictionary(pa.int32(), pa.string())),
        ("version", pa.dictionary(pa.int32(), pa.string())),
        ("cohort", pa.dictionary(pa.int32(), pa.string())),
        ("start", pa.timestamp("s", tz="UTC")),
        ("seconds", pa.int64()),
        ("windows", pa.int64()),  # how many nodes' windows, added up
        ("rows", pa.int64()),  # about how many, from the noisy counts
        ("signal", pa.dictionary(pa.int32(), pa.string())),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("bin", pa.int32()),  # in the manifest's order; the last of a signal is "other"
        ("lower", pa.float64()),  # a numeric bin holds lower <= x < upper; null where it has no end, and of "other"
        ("upper", pa.float64()),
        ("category", pa.dictionary(pa.int32(), pa.string())),  # what a categorical bin counts; null for "other"
        ("other", pa.bool_()),
        ("count", pa.int64()),  # with its noise: it may be below zero
        ("expected", pa.float64()),  # rows that the reference expects
        ("noise_sd", pa.float64()),  # the count's
        ("epsilon", pa.float64()),  # what one record in one window is promised
        ("delta", pa.float64()),
        ("calibrated", pa.bool_()),  # counts are differences from nodes' own baselines, of which zero is expected
        ("left_out", pa.int64()),  # windows that were not tested, and are in no count: of sub-groups unlike the others
        ("about", pa.dictionary(pa.int32(), pa.string())),  # accuracy: right and wrong answers; else null
    ]
)


class Writer:
    """Write an open file: `add` windows. It is in its place when the block that `writing` gives ends well."""

    def __init__(self, target: BinaryIO) -> None:
        self._file = pq.ParquetWriter(target, SCHEMA, compression=CODEC)
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self.rows = 0

    def add(self, window: MergedWindow) -> None:
        """Add one merged window."""
        shared = {name: getattr(window, name) for name in SHARED}
        for signal in window.signals:
            bins = len(signal.counts)
            numeric = signal.kind == "numeric"
            columns: dict[str, list[Any]] = {
                **{name: [value] * bins for name, value in shared.items()},
                "calibrated": [bool(window.calibrated)] * bins,
                "left_out": [window.left_out or 0] * bins,
                "about": [window.about] * bins,
                "signal": [signal.name] * bins,
                "kind": [signal.kind] * bins,
                "bin": list(range(bins)),
                "lower": [None, *signal.edges, None] if numeric else [None] * bins,
                "upper": [*signal.edges, None, None] if numeric else [None] * bins,
                "category": [None] * bins if numeric else [*map(str, signal.categories), None],
                "other": [False] * (bins - 1) + [True],
                "count": list(signal.counts),
                "expected": list(signal.expected),
            }
            if {len(values) for values in columns.values()} != {bins}:
                raise ValueError(f"signal {signal.name} has {bins} counts, and its bins are another number")
            for name, values in columns.items():
                self._columns[name].extend(values)
        if len(self._columns["bin"]) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a row group."""
        count = len(self._columns["bin"])
        if count:
            self._file.write_table(
                pa.table({name: pa.array(values, SCHEMA.field(name).type) for name, values in self._columns.items()}, SCHEMA)
            )
            self._columns = {name: [] for name in SCHEMA.names}
            self.rows += count

    def close(self) -> None:
        """Write the rest and the footer."""
        self.flush()
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        with contextlib.suppress(Exception):  # it is removed anyway, whatever it says
            self._file.close()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Open a file to write; durable and in its place when the block ends well, without a trace when it does not.

    Raises:
        Refused: the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            partial = stack.enter_context(durable.replacing(path, mode=0o644))
        except OSError as error:
            raise Refused(Code.SETTINGS_INVALID, f"{path} cannot be written: {error.strerror}") from None
        writer = Writer(partial)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise
