"""What a publisher says of a release, before anything of it is looked at. Knows no file's content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from hub.core.delivery.delta_base import Earlier
from hub.core.publish import release as core
from hub.core.publish.samples import Samples
from schemas.limits import BLOCK_BYTES_MAX, RHO_DAY_MAX
from schemas.manifest import Limits, Manifest, Requirements, Tensor
from schemas.parameters import Parameter
from schemas.signals import Season

How = Literal["as-is", "int8", "int8-static", "int8-weights", "fp16", "pruned"]
Noise = Literal["gaussian", "laplace"]
RUNTIMES: Mapping[str, str] = {".onnx": "onnx", ".gguf": "llama", ".tflite": "litert"}  # by a model's suffix; anything else is files
FILES, ONNX = "files", "onnx"
DEFAULT_VARIANT = "default"
LOSS_MAX = 0.01
ACCURACY_EPSILON = 0.5  # two counts need little noise; with it a day's window fits into the day's budget beside 24 of signals
ACCURACY_WINDOW_SECONDS = 86_400
CALIBRATION_ROWS = 1024  # after which a node has its own baseline, where nothing else is said; docs/decisions/0021
Answers = Callable[[Manifest, Path], Mapping[str, NDArray[Any]]]


class Reference(Protocol):
    """The publisher's reference data, read: hub.reference.Reference."""

    def fit(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        named: Sequence[str] | None,
        blocks_column: str | None,
        time_column: str | None = None,
    ) -> core.Fitted:
        """The columns as the model takes them."""


class Rows(Protocol):
    """Rows to measure or to calibrate with, read: hub.samples.Rows."""

    def fit(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, named: Sequence[str] | None) -> Samples:
        """The rows as the model takes them, and the truth about each where it was named."""


class Parents(Protocol):
    """Files of earlier releases that deltas may be against: hub.parents."""

    def __call__(self, variant: str, path: str) -> Sequence[Earlier]:
        """What this file of this variant was in each of them that has it."""


def no_parents(variant: str, path: str) -> Sequence[Earlier]:
    """A first release's."""
    return ()


@dataclass(frozen=True)
class Build:
    """One variant to be made: how, from which file, and what a device must have for it."""

    name: str
    how: How = "as-is"
    sparsity: float = 0.0  # share of the weights of each large tensor that is set to zero, before anything else is done
    model_path: Path | None = None  # a file that was made elsewhere, in place of the release's model
    requirements: Requirements = field(default_factory=Requirements)


@dataclass(frozen=True)
class Variants:
    """Which builds, in order of preference, and on what terms they are published."""

    builds: tuple[Build, ...] = (Build(DEFAULT_VARIANT),)
    loss_max: float = LOSS_MAX
    all_or_none: bool = False
    held_out: Rows | None = None
    output: str | None = None  # that is compared with the truth; else the first that can be
    calibration: Rows | None = None


@dataclass(frozen=True)
class GoldenTerms:
    """How closely a device has to answer; nothing said: schemas.manifest.Golden's own terms."""

    relative_tolerance: float | None = None
    absolute_tolerance: float | None = None
    text_agreement_min: float | None = None

    @property
    def said(self) -> dict[str, float]:
        """Only what was said."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Truth:
    """How right and wrong answers are known: of held-out rows with the truth about each, or counts (right, wrong) a block."""

    rows: Rows | None = None
    output: str | None = None  # that is compared with the truth; else the first that can be
    right_within: float | None = None  # of an output that is a number
    counts: tuple[tuple[int, int], ...] = ()
    epsilon: float = ACCURACY_EPSILON
    window_seconds: int = ACCURACY_WINDOW_SECONDS


@dataclass(frozen=True)
class PublishRequest:
    """What the publisher says. `feature_columns` names the reference's columns in the model's order, before what its metadata names."""

    model_path: Path
    name: str
    version: str
    reference: Reference | None = None
    blocks_column: str | None = None
    feature_columns: tuple[str, ...] | None = None
    signals: tuple[str, ...] | None = None
    golden_path: Path | None = None
    golden_terms: GoldenTerms = field(default_factory=GoldenTerms)
    description: str = ""
    licence: str = ""
    runtime: str | None = None  # else by the model's suffix
    inputs: tuple[Tensor, ...] | None = None  # of a runtime whose files nothing here can read
    outputs: tuple[Tensor, ...] | None = None
    parameters: tuple[Parameter, ...] = ()
    variants: Variants = field(default_factory=Variants)
    parent: bytes | None = None
    parents: Parents = no_parents
    parent_releases: tuple[bytes, ...] = ()  # whose they are
    more_files: tuple[Path, ...] = ()  # beside the model: tokenizer, labels, whatever its program reads
    block_bytes_max: int = BLOCK_BYTES_MAX  # less for a broker that takes only small packets, or a very slow road
    epsilon: float = 1.0
    delta: float = 1e-6
    window_seconds: int = 3600
    noise: Noise = "gaussian"
    time_column: str | None = None  # of the reference; with it, hours of the week that differ are compared apart
    season: Season = field(default_factory=lambda: Season(hours=4, weekends=True))
    calibration_rows: int | None = None  # after which a node has its own baseline
    calibrates_by_default: bool = False  # nobody said so: it is left out where nodes could not pay for it
    rho_day_max: float = RHO_DAY_MAX  # that nodes' settings allow
    accuracy: Truth | None = None
    limits: Limits = field(default_factory=Limits)
    answers: Answers | None = None  # the device's own runtime, asked golden inputs of which no answers are given
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    @property
    def runs_as(self) -> str:
        """The runtime that loads it on a device; `files`: delivered, and run by whoever knows them."""
        return self.runtime or RUNTIMES.get(self.model_path.suffix.lower(), FILES)
