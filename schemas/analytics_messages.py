"""Define what analytics consumers read, in JSON: merged windows, drift, alerts."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.accuracy import About
from schemas.document import Document, Since
from schemas.limits import FINDINGS_MAX, MIB, SIGNALS_MAX
from schemas.names import HEX_32_PATTERN, Cohort, FleetName, ModelName, Version
from schemas.quantities import Count, Seconds


class SignalCounts(Document):
    """Carry merged noisy counts of one signal beside the counts that the baseline expects; the last bin is "other"."""

    schema_name = "signal-counts"
    bytes_max = MIB
    name: str
    kind: Literal["numeric", "categorical"]
    edges: tuple[float, ...] = ()
    categories: tuple[float | str, ...] = ()
    counts: tuple[int, ...]
    expected: tuple[float, ...]


class MergedWindow(Document):
    """Carry one interval of one cohort on `insight/<model>/windows`, once enough nodes have reported."""

    schema_name = "merged-window"
    bytes_max = MIB
    model: ModelName
    version: Version
    cohort: Cohort
    start: Seconds
    seconds: Count
    windows: Count  # Number of node windows that are merged.
    rows: Annotated[int, Field(ge=0)]  # Estimated from the noisy counts.
    noise_sd: float  # Standard deviation of the noise on each count.
    epsilon: float  # Privacy promise for one record in one window.
    delta: float
    signals: Annotated[tuple[SignalCounts, ...], Field(max_length=SIGNALS_MAX)]
    calibrated: bool | None = None  # Counts are differences from each node's own baseline, and their expected value is zero.
    late: Annotated[int, Field(ge=0)] | None = None  # Number of windows that came after the interval was first tested.
    # Calibrated windows only: the sum of n^2/M, with the rows n and the rows M of the own baseline.
    reference_rows: Annotated[float, Field(ge=0)] | None = None
    left_out: Annotated[int, Field(ge=0)] | None = None  # Windows of sub-groups that are unlike the others; no count here includes them.
    about: About | None = None  # Absent if it is about the release's signals.


class SignalDrift(Document):
    """Carry one signal's test in one interval."""

    schema_name = "signal-drift"
    bytes_max = MIB
    name: str
    p_value: Annotated[float, Field(ge=0, le=1)]
    p_adjusted: Annotated[float, Field(ge=0, le=1)]  # Bonferroni-adjusted over the model's signals.
    effect: float  # Shift of a number in reference standard deviations, with a sign, after subtracting what chance may have caused.
    size: Annotated[float, Field(ge=0)]  # Size of the shift, likewise corrected (hub/core/drift/shift_size.py), in `size_unit`.
    direction: Literal["higher", "lower", "shape"]
    size_low: Annotated[float, Field(ge=0)] | None = None  # Lower end of the size's interval, which holds the truth in 90 of 100 cases.
    size_high: Annotated[float, Field(ge=0)] | None = None
    # `sd` is reference standard deviations of a number that rose or fell; `share` is the largest change of one bin's share of the rows.
    # A hub without this field reported standard deviations over all directions, which may be mostly noise.
    size_unit: Literal["sd", "share"] | None = None
    too_small: bool | None = None  # The difference is certain, but too small for an alarm.
    # Evidence from earlier intervals as well, by the e-detector (hub/core/drift/detector.py).
    evidence: float | None = None  # Its log10; a signal alone raises an alarm at 3.
    since: Seconds | None = None  # Start of the first interval of the change, as estimated.
    effect_since: float | None = None  # The `effect` over all intervals since then.
    size_since: Annotated[float, Field(ge=0)] | None = None
    size_since_low: Annotated[float, Field(ge=0)] | None = None
    size_since_high: Annotated[float, Field(ge=0)] | None = None
    size_since_unit: Literal["sd", "share"] | None = None
    direction_since: Literal["higher", "lower", "shape"] | None = None
    alarm: bool | None = None  # Whether the alarm is about this signal; absent if no judgement was made.


class Drift(Document):
    """Carry the newest tested interval of a cohort on `insight/<model>/drift`, retained."""

    schema_name = "drift"
    bytes_max = MIB
    model: ModelName
    version: Version
    cohort: Cohort
    start: Seconds
    seconds: Count
    windows: Count
    alarm: bool
    alpha: float
    signals: tuple[SignalDrift, ...]
    # `interval`: this interval alone differs from the reference, at `alpha`. `time`: the evidence of all intervals reached its threshold.
    alarm_kind: Literal["interval", "time", "both"] | None = None
    evidence: float | None = None  # Evidence of the stream after this interval, as log10.
    evidence_needed: float | None = None  # Threshold as log10, by e-BH over all streams of the hub.
    streams: Count | None = None  # Number of those streams.
    episode: Literal["raised", "lasting", "over"] | None = None
    since: Seconds | None = None  # Time when the episode's change began.
    calibrated: bool | None = None  # The nodes with an own baseline are compared with it.
    gathering: bool | None = None  # The nodes that still collect an own baseline are shown beside the reference; never an alarm.
    left_out: Count | None = None  # Windows of sub-groups that are unlike the others, which were not tested.
    about: About | None = None  # Absent if it is about the release's signals; a release's accuracy is a stream of its own.


class Alert(Document):
    """Report something that a person should look at, on `alert`."""

    schema_name = "alert"
    schema_minor = 2
    bytes_max = MIB
    kind: Literal[
        "drift", "drift_over", "unlike_reference", "not_judged", "rollout_halted", "node_silent", "refused", "key_expiring", "test"
    ]
    at: Seconds
    model: ModelName | None = None
    cohort: Cohort | None = None
    node: str | None = None
    code: str = ""
    text: str
    signals: tuple[SignalDrift, ...] = ()
    since: Seconds | None = None  # For a drift, when the change began; for `not_judged`, the last interval that was tested, or the first.
    alarm_kind: Literal["interval", "time", "both"] | None = None
    version: Version | None = None  # Version of the release that drifts.
    about: About | None = None  # For a drift; absent if it is about the release's signals.
    # Name of the person or program whose act it follows: who last acted on the rollout that halted, or forgot the node that still speaks.
    actor: Annotated[str | None, Field(max_length=64), Since(1)] = None
    # Id of the rollout that halted, as logs, traces and `rollout status --json` have it.
    rollout: Annotated[str | None, Field(pattern=HEX_32_PATTERN), Since(2)] = None


class Found(Document):
    """Carry one drift that was found, with its evidence."""

    schema_name = "found"
    schema_minor = 2
    bytes_max = MIB
    alert: Alert
    drift: Drift | None = None  # Test that raised it; None if it is no longer kept.
    window: MergedWindow | None = None  # Counts since the change began beside what the reference expects; None if they are no longer kept.


class DriftEvidence(Document):
    """Give an `on_drift` hook one model's drifts that were found together; each drift is in one run only."""

    schema_name = "drift-evidence"
    schema_minor = 2
    bytes_max = 16 * MIB
    id: Annotated[str, Field(min_length=1, max_length=256)]  # The same at every attempt.
    fleet: FleetName
    model: ModelName
    at: Seconds
    findings: Annotated[tuple[Found, ...], Field(min_length=1, max_length=FINDINGS_MAX)]
    left_out: Count = 0  # Number of further cohorts that drift, whose evidence did not fit.
