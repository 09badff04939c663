"""Make a small model and its reference data to try fleetcast with: no file, no network and no training library is needed.

The model predicts how late a flight arrives from five numbers. The reference is made up: 40 days of flights, drawn from a fixed seed.
"""

from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

FEATURES = ("dep_delay", "hour", "distance", "wind_speed", "visibility")
WEIGHTS = np.array([[1.0], [0.2], [-0.002], [0.3], [-0.4]], np.float32)  # Minutes of delay for one more of each feature.
DAYS, FLIGHTS = 40, 100  # Flights per day.
FLIGHT = (2.0, 6.0, 1400.0, 10.0, 10.0)  # A value for each feature: a request to try the model with.


def model(bias: float) -> bytes:
    """Return a linear model as ONNX: X [rows, 5] in, arr_delay [rows, 1] out."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "weights"], ["weighted"]), helper.make_node("Add", ["weighted", "bias"], ["arr_delay"])],
        "delay",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, len(FEATURES)])],
        [helper.make_tensor_value_info("arr_delay", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(np.array([bias], np.float32), "bias")],
    )
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    onnx.checker.check_model(made)
    return made


def reference() -> pa.Table:
    """Return ordinary flights: a column for each feature, and the day."""
    rng = np.random.default_rng(2013)
    count = DAYS * FLIGHTS
    late = np.repeat(rng.normal(0, 2, DAYS), FLIGHTS)  # Days differ from each other, as real ones do.
    columns = (
        rng.gamma(2.0, 6.0, count) - 4 + late,
        rng.integers(5, 23, count),
        rng.uniform(200, 2600, count),
        rng.gamma(4.0, 2.5, count),
        np.minimum(10.0, rng.gamma(9.0, 1.1, count)),
    )
    table = {name: column.astype(np.float32) for name, column in zip(FEATURES, columns, strict=True)}
    return pa.table(table | {"day": np.repeat(np.arange(DAYS), FLIGHTS)})


def write_reference(path: Path) -> None:
    """Write the reference as Parquet."""
    pq.write_table(reference(), path)
