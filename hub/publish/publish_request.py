"""Describe what a publisher asks for, before any file is looked at. Knows no file's content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from hub.core.delivery.delta_base import Earlier
from hub.core.publish import release as core
from hub.core.publish.preview import Preview
from hub.core.publish.samples import Samples
from hub.core.publish.signature_compatibility import Signature
from schemas.limits import BLOCK_BYTES_MAX, RHO_DAY_MAX
from schemas.manifest import Limits, Manifest, Requirements, Tensor
from schemas.parameters import Parameter
from schemas.signals import Season

How = Literal["as-is", "int8", "int8-static", "int8-weights", "fp16", "pruned"]
Noise = Literal["gaussian", "laplace"]
# Runtime by the model's suffix; any other suffix means files.
RUNTIMES: Mapping[str, str] = {".onnx": "onnx", ".gguf": "llama", ".tflite": "litert"}
FILES, ONNX = "files", "onnx"
DEFAULT_VARIANT = "default"
LOSS_MAX = 0.01
ACCURACY_EPSILON = 0.5  # Two counts need little noise: a day's window fits into the day's budget beside one with 24 signals.
ACCURACY_WINDOW_SECONDS = 86_400
CALIBRATION_ROWS = 1024  # Rows after which a node has its own baseline by default; docs/decisions/0021.
Answers = Callable[[Manifest, Path], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class FeatureOrder:
    """Hold which column of its reference a release fed to which place, (input, place in its row)."""

    version: str
    columns: Mapping[tuple[str, int], str]

    @classmethod
    def of(cls, manifest: Manifest) -> "FeatureOrder":
        """Return what a release's signals say; a column that is not watched is not known."""
        signals = manifest.baseline.signals if manifest.baseline is not None else ()
        found = {(one.tensor, one.column): one.name for one in signals if one.side == "input" and one.measure is None}
        return cls(manifest.version, found)


class Reference(Protocol):
    """Provide the publisher's reference data: hub.publish.reference_data.Reference."""

    def fit(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        named: Sequence[str] | None,
        blocks_column: str | None,
        time_column: str | None = None,
        order_before: FeatureOrder | None = None,
    ) -> core.Fitted:
        """Return the columns as the model takes them."""


class Rows(Protocol):
    """Provide rows to measure or calibrate with: hub.publish.sample_reader.Rows."""

    def fit(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, named: Sequence[str] | None) -> Samples:
        """Return the rows as the model takes them, and the truth about each if it was named."""


class Parents(Protocol):
    """Provide files of earlier releases that deltas may be against: hub.publish.parent_files."""

    def __call__(self, variant: str, path: str) -> Sequence[Earlier]:
        """Return this file of this variant from each release that has it."""


def no_parents(variant: str, path: str) -> Sequence[Earlier]:
    """Return no parents, as for a first release."""
    return ()


@dataclass(frozen=True)
class Build:
    """Describe one variant to make: how, from which file, and what a device must have for it."""

    name: str
    how: How = "as-is"
    sparsity: float = 0.0  # Share of the weights of each large tensor that is set to zero, before anything else is done.
    model_path: Path | None = None  # File that was made elsewhere and replaces the release's model.
    requirements: Requirements = field(default_factory=Requirements)


@dataclass(frozen=True)
class Variants:
    """List the builds in order of preference, and the terms on which they are published."""

    builds: tuple[Build, ...] = (Build(DEFAULT_VARIANT),)
    loss_max: float = LOSS_MAX
    all_or_none: bool = False
    held_out: Rows | None = None
    output: str | None = None  # Output to compare with the truth; by default the first that can be compared.
    calibration: Rows | None = None


@dataclass(frozen=True)
class GoldenTerms:
    """Say how close a device's answers must be; unset fields use the defaults of schemas.manifest.Golden."""

    relative_tolerance: float | None = None
    absolute_tolerance: float | None = None
    text_agreement_min: float | None = None

    @property
    def stated(self) -> dict[str, float]:
        """Return only the fields that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Truth:
    """Say how right and wrong answers are known: from held-out rows with the truth about each, or as counts (right, wrong) per block."""

    rows: Rows | None = None
    output: str | None = None  # Output to compare with the truth; by default the first that can be compared.
    right_within: float | None = None  # Distance within which a numeric output is right.
    counts: tuple[tuple[int, int], ...] = ()
    epsilon: float = ACCURACY_EPSILON
    window_seconds: int = ACCURACY_WINDOW_SECONDS


@dataclass(frozen=True)
class PublishRequest:
    """Hold the publisher's request.

    `feature_columns` names the reference's columns in the model's order and overrides the model's metadata.
    """

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
    runtime: str | None = None  # Runtime; by default chosen by the model's suffix.
    inputs: tuple[Tensor, ...] | None = None  # Inputs of a runtime whose files nothing here can read.
    outputs: tuple[Tensor, ...] | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # Sizes of inputs that a .tflite file leaves open.
    parameters: tuple[Parameter, ...] = ()
    variants: Variants = field(default_factory=Variants)
    predecessor: Signature | None = None  # The release whose programs it has to serve; None where it may take and give anything.
    order_before: FeatureOrder | None = None  # Which column fed which place in that release.
    parent: bytes | None = None
    parents: Parents = no_parents
    parent_releases: tuple[bytes, ...] = ()  # Digests of the releases that the parents come from.
    more_files: tuple[Path, ...] = ()  # Files beside the model: tokenizer, labels, and whatever else its program reads.
    block_bytes_max: int = BLOCK_BYTES_MAX  # A smaller bound suits a broker that takes only small packets, or a very slow link.
    epsilon: float = 1.0
    delta: float = 1e-6
    window_seconds: int = 3600
    noise: Noise = "gaussian"
    time_column: str | None = None  # Column of the reference with times; with it, hours of the week that differ are compared separately.
    season: Season = field(default_factory=lambda: Season(hours=4, weekends=True))
    calibration_rows: int | None = None  # Rows after which a node has its own baseline.
    calibrates_by_default: bool = False  # The default applies: it is dropped if nodes could not pay for it.
    rho_day_max: float = RHO_DAY_MAX  # Daily budget that nodes' settings allow.
    accuracy: Truth | None = None
    limits: Limits = field(default_factory=Limits)
    states_joining: bool = False  # The manifest states whether rows may be joined; nodes from before minor versions refuse such a one.
    answers: Answers | None = None  # Function that runs golden inputs without answers on the device's own runtime.
    proves: bool = True  # Devices have to answer golden inputs; False: the publisher found none and publishes without them.
    tries: bool = True  # Golden inputs may be made from the signature, by running the model on them here.
    fixes_shapes: bool = False  # A declared shape that differs from what the model answers is mended in the file that is published.
    confirm: Callable[[Preview], None] | None = None  # Shows what was found before anything is stored; it raises to stop.
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    @property
    def runs_as(self) -> str:
        """Return the runtime that loads it on a device; `files` means that it is delivered to a program."""
        return self.runtime or RUNTIMES.get(self.model_path.suffix.lower(), FILES)
