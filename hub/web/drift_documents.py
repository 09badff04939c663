"""Define what the API takes and answers with where a drift is explained."""

from typing import Annotated, Literal

from pydantic import Field

from hub.web.documents import Asked, Shown
from schemas import limits
from schemas.names import Cohort, ModelName, Version

SignalNamed = Annotated[str, Field(max_length=limits.TEXT_MAX)]
ANY = "Signals to show. Without any: those of the alarm, or the likeliest."
Unit = Literal["sd", "share"]
Direction = Literal["higher", "lower", "shape"]


class ExplainDrift(Asked):
    """Ask for the counts of a stream beside its reference."""

    model: ModelName
    version: Version | None = None
    cohort: Annotated[Cohort, Field(max_length=64)] | None = None
    signals: Annotated[list[SignalNamed], Field(max_length=limits.SIGNALS_MAX, description=ANY)] = Field(default_factory=list)
    at: Annotated[int, Field(ge=0, le=2**40, description="Seconds since 1970: show the interval of this moment.")] | None = None


class BinShown(Shown):
    """Describe a bin: shares of the rows, and the standard deviation of noise and sampling."""

    label: str
    expected: float
    seen: float
    sd: float


class TestShown(Shown):
    """Describe a signal's test in one interval."""

    start: str
    alarm: bool
    size: float
    size_low: float | None
    size_high: float | None
    size_unit: Unit | None
    effect: float
    direction: Direction


class SignalExplained(Shown):
    """Describe a signal over the period, and its tests over time."""

    name: str
    kind: str
    bins: list[BinShown]
    effect: float
    size: float
    size_low: float
    size_high: float
    size_unit: Unit
    direction: Direction
    p_adjusted: float
    evidence: float | None
    since: str | None
    history: list[TestShown]


class DriftExplained(Shown):
    """Describe what a stream shows: its counts beside its reference, as `fleetcast drift explain`."""

    model: str
    version: str
    cohort: str
    alarm: bool
    since: str
    until: str
    intervals: int
    windows: int
    rows: int
    noise_sd: float
    windows_left_out: int
    own_baselines: bool
    alpha: float
    summary: str
    signals: list[SignalExplained]
