"""What a publisher says of a release, before anything of it is looked at. Knows no file's content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hub.core import release as core
from hub.core.aligning import Earlier
from schemas.limits import BLOCK_BYTES_MAX
from schemas.manifest import Limits, Tensor


class Reference(Protocol):
    """The publisher's reference data, read: hub.reference.Reference."""

    def fit(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, named: Sequence[str] | None, blocks_column: str | None
    ) -> core.Fitted:
        """The columns as the model takes them."""


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
    description: str = ""
    licence: str = ""
    parent: bytes | None = None
    parents: Mapping[str, Sequence[Earlier]] = field(default_factory=dict)  # files that deltas may be against, by name
    parent_releases: tuple[bytes, ...] = ()  # whose they are
    more_files: tuple[Path, ...] = ()  # beside the model: tokenizer, labels, whatever its program reads
    block_bytes_max: int = BLOCK_BYTES_MAX  # less for a broker that takes only small packets, or a very slow road
    epsilon: float = 1.0
    delta: float = 1e-6
    window_seconds: int = 3600
    limits: Limits = field(default_factory=Limits)
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    @property
    def is_onnx(self) -> bool:
        """Whether the fleet runs it; anything else is delivered as files."""
        return self.model_path.suffix.lower() == ".onnx"
