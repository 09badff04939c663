"""What analytics consumers read, in JSON: merged windows, drift, alerts."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.accuracy import About
from schemas.document import Document
from schemas.limits import FINDINGS_MAX, MIB, SIGNALS_MAX
from schemas.names import Cohort, FleetName, ModelName, Version
from schemas.quantities import Count, Seconds


class SignalCounts(Document):
    """Merged noisy counts of one signal beside what the baseline expects; bins in the manifest's order, the last is "other"."""

    schema_name = "signal-counts"
    bytes_max = MIB
    name: str
    kind: Literal["numeric", "categorical"]
    edges: tuple[float, ...] = ()
    categories: tuple[float | str, ...] = ()
    counts: tuple[int, ...]
    expected: tuple[float, ...]


class MergedWindow(Document):
    """`insight/<model>/windows`: one interval of one cohort, once at least the minimum number of nodes was heard."""

    schema_name = "merged-window"
    bytes_max = MIB
    model: ModelName
    version: Version
    cohort: Cohort
    start: Seconds
    seconds: Count
    windows: Count  # how many node windows are merged
    rows: Annotated[int, Field(ge=0)]  # estimated from the noisy counts
    noise_sd: float  # of every count
    epsilon: float  # what one record in one window is promised
    delta: float
    signals: Annotated[tuple[SignalCounts, ...], Field(max_length=SIGNALS_MAX)]
    calibrated: bool | None = None  # counts are differences from each node's own baseline, and nothing is expected of them but zero
    late: Annotated[int, Field(ge=0)] | None = None  # of the windows, those that came after the interval was first tested
    reference_rows: Annotated[float, Field(ge=0)] | None = None  # of calibrated windows: the sum of n^2/M, rows and own baseline's rows
    left_out: Annotated[int, Field(ge=0)] | None = None  # windows of sub-groups that are unlike the others: in no count here
    about: About | None = None  # else about the release's signals


class SignalDrift(Document):
    """One signal's test in one interval."""

    schema_name = "signal-drift"
    bytes_max = MIB
    name: str
    p_value: Annotated[float, Field(ge=0, le=1)]
    p_adjusted: Annotated[float, Field(ge=0, le=1)]  # Bonferroni over the model's signals
    effect: float  # shift of a number in reference standard deviations, what chance may have made taken off; its sign is the direction
    size: Annotated[float, Field(ge=0)]  # how far it moved, the same taken off (hub/core/drift/shift_size.py), in `size_unit`
    direction: Literal["higher", "lower", "shape"]
    size_low: Annotated[float, Field(ge=0)] | None = None  # the size's interval, which holds the truth in 90 of 100 cases
    size_high: Annotated[float, Field(ge=0)] | None = None
    # `sd`: reference standard deviations, of a number that is higher or lower. `share`: the largest change of one bin's share of the rows.
    # A hub that does not say it gave standard deviations over all directions, in which noise may be most.
    size_unit: Literal["sd", "share"] | None = None
    too_small: bool | None = None  # different without doubt, and by too little to be an alarm
    # What the past says of it too, from the e-detector (hub/core/drift/detector.py).
    evidence: float | None = None  # log10 of it; alone, a signal would be an alarm at 3
    since: Seconds | None = None  # start of the first interval of the change, as far as it can be told
    effect_since: float | None = None  # as `effect`, over all intervals since then
    size_since: Annotated[float, Field(ge=0)] | None = None
    size_since_low: Annotated[float, Field(ge=0)] | None = None
    size_since_high: Annotated[float, Field(ge=0)] | None = None
    size_since_unit: Literal["sd", "share"] | None = None
    direction_since: Literal["higher", "lower", "shape"] | None = None
    alarm: bool | None = None  # whether it is one of those that the alarm is about; nothing is said where nothing was judged


class Drift(Document):
    """`insight/<model>/drift`, retained: the newest tested interval of a cohort."""

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
    # `interval`: this interval alone differs from the reference, at `alpha`. `time`: the evidence of all intervals so far reached its bar.
    alarm_kind: Literal["interval", "time", "both"] | None = None
    evidence: float | None = None  # log10 of the stream's, after this interval
    evidence_needed: float | None = None  # log10 of the bar, by e-BH over all streams of the hub
    streams: Count | None = None  # how many those are
    episode: Literal["raised", "lasting", "over"] | None = None
    since: Seconds | None = None  # when the episode's change began
    calibrated: bool | None = None  # against each node's own baseline, of the nodes that have one
    gathering: bool | None = None  # of nodes that are to have one and have none yet: shown beside the reference, and never an alarm
    left_out: Count | None = None  # windows of sub-groups that are unlike the others, which were not tested
    about: About | None = None  # else about the release's signals; a release's accuracy is a stream of its own


class Alert(Document):
    """`alert`: something that a person should look at."""

    schema_name = "alert"
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
    since: Seconds | None = None  # when the change began, of a drift; of `not_judged` the last interval that was tested, or the first
    alarm_kind: Literal["interval", "time", "both"] | None = None
    version: Version | None = None  # of the release that drifts
    about: About | None = None  # of a drift: else about the release's signals


class Found(Document):
    """A drift that was found, and what speaks for it."""

    schema_name = "found"
    bytes_max = MIB
    alert: Alert
    drift: Drift | None = None  # the test that raised it; None where it is not kept any more
    window: MergedWindow | None = None  # counts since the change began beside what the reference expects; None likewise


class DriftEvidence(Document):
    """What an `on_drift` hook is given: one model's drifts that were found together, each told in one run only."""

    schema_name = "drift-evidence"
    bytes_max = 16 * MIB
    id: Annotated[str, Field(min_length=1, max_length=256)]  # the same at every attempt
    fleet: FleetName
    model: ModelName
    at: Seconds
    findings: Annotated[tuple[Found, ...], Field(min_length=1, max_length=FINDINGS_MAX)]
    left_out: Count = 0  # how many more cohorts drift, whose evidence found no room
