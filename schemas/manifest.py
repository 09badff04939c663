"""Define the signed description of a release: its content, its requirements, and how to verify that it works."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from schemas import codec, limits
from schemas.accuracy import Accuracy
from schemas.document import Document, Fact, Since
from schemas.names import Digest, FilePath, Label, ModelName, Version
from schemas.parameters import Parameters
from schemas.quantities import Count, Seconds
from schemas.signals import Baseline, Privacy, TensorName

EncodingName = Literal["raw", "zstd", "planes", "delta"]
Text = Annotated[str, Field(max_length=limits.TEXT_MAX)]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]  # Names of the Open Inference Protocol.


class Payload(NamedTuple):
    """Describe one encoding of a block: digest and size of the bytes that travel. Only `delta` has parents: the decoded blocks, joined in
    order, that it is applied to.
    """

    encoding: EncodingName
    digest: Digest
    bytes: Annotated[int, Field(ge=1, le=limits.PAYLOAD_BYTES_MAX)]
    parents: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=limits.DELTA_PARENTS_MAX)] | None = None


class Block(NamedTuple):
    """Describe a run of a file's bytes. `raw` needs no entry in `payloads`: its digest is the block's own."""

    digest: Digest
    bytes: Annotated[int, Field(ge=1, le=limits.BLOCK_BYTES_MAX)]
    payloads: Annotated[tuple[Payload, ...], Field(max_length=limits.PAYLOADS_PER_BLOCK_MAX)] = ()

    @property
    def choices(self) -> tuple[Payload, ...]:
        """Return all payloads in the order of `Want.choice`: those that are listed, then `raw`."""
        return *self.payloads, Payload("raw", self.digest, self.bytes)


def _parents_agree(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    for block in blocks:
        for payload in block.payloads:
            if (payload.encoding == "delta") != (payload.parents is not None):
                raise ValueError("a delta names its parents; other encodings have none")
            if payload.parents is not None and block.digest in payload.parents:
                raise ValueError("a block is its own parent")
    return blocks


class File(Fact):
    """Describe one file of a variant, as consecutive blocks, inline or through an index of its own."""

    path: FilePath
    bytes: Annotated[int, Field(ge=1, le=limits.FILE_BYTES_MAX)]
    digest: Digest
    blocks: Annotated[tuple[Block, ...], Field(max_length=1024), AfterValidator(_parents_agree)] = ()
    index: Annotated[tuple[Block, ...], Field(max_length=1024)] = ()  # Parts of the encoded block list, when it is too long for a manifest.

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if bool(self.blocks) == bool(self.index):
            raise ValueError("a file has either blocks or an index")
        if self.blocks and sum(block.bytes for block in self.blocks) != self.bytes:
            raise ValueError("blocks do not add up to the file")
        return self


class Index(Document):
    """Carry a part of a file's block list; it travels as a block itself."""

    schema_name = "index"
    bytes_max = limits.BLOCK_BYTES_MAX
    blocks: Annotated[tuple[Block, ...], Field(min_length=1, max_length=limits.INDEX_PART_BLOCKS_MAX), AfterValidator(_parents_agree)]


class Tensor(Fact):
    """Describe an input or output; -1 means a free axis."""

    name: TensorName
    datatype: Datatype
    shape: Annotated[tuple[Annotated[int, Field(ge=-1, le=2**31)], ...], Field(max_length=limits.TENSOR_RANK_MAX)]


class Requirements(Fact):
    """State what a device must have; an empty list requires nothing."""

    arch: Annotated[tuple[Label, ...], Field(max_length=8)] = ()
    memory_bytes_min: Count = 0
    providers: Annotated[tuple[Label, ...], Field(max_length=8)] = ()
    cores_min: Annotated[int, Field(ge=1, le=4096)] | None = None
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX)] | None = None


class Golden(Fact):
    """Describe inputs with their known outputs: an npz whose arrays are named `input.<tensor>` and `output.<tensor>`, compared by
    `abs(actual - expected) <= absolute + relative * abs(expected)`.

    For a text, the share of its leading words that agree counts: after the first different word, greedy generation differs wholly.
    """

    file: File
    relative_tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-3
    absolute_tolerance: Annotated[float, Field(ge=0)] = 1e-4
    text_agreement_min: Annotated[float, Field(gt=0, le=1)] | None = None  # Every word must agree by default.


class Measured(Fact):
    """Report what a variant and its original build do on the publisher's held-out rows."""

    rows: Annotated[int, Field(ge=1, le=2**53)]
    metric: Literal["accuracy", "r2", "agreement"]  # `agreement` is with the original's answers, if no truth was given.
    score: float
    original: float
    latency_ms: Annotated[float, Field(ge=0)]  # Median of one row, on the publisher's machine.
    original_latency_ms: Annotated[float, Field(ge=0)]


class Joining(Fact):
    """Report whether rows of several requests may be answered in one question, as it was found where the release was published.

    `tried` names the graph, and what golden rows were asked with; `found` is what kept rows from being joined.
    """

    together: bool
    tried: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=limits.JOINING_TRIED_MAX)] = ()
    found: Annotated[str, Field(max_length=limits.JOINING_FOUND_MAX)] = ""

    @model_validator(mode="after")
    def _reasoned(self) -> Self:
        if self.together == bool(self.found) or not self.tried:
            raise ValueError("what is joined was tried, and what is not has a reason")
        return self


class Variant(Fact):
    """Describe one build of the release for a class of devices; the runtime loads the first file."""

    name: Label
    runtime: Label = "onnx"  # Entry point of the group `fleetcast.runtimes`; "files" are handed over to a program that uses them.
    requirements: Requirements = Requirements()
    files: Annotated[tuple[File, ...], Field(min_length=1, max_length=limits.FILES_PER_VARIANT_MAX)]
    golden: Golden | None = None  # The variant's own case, if its answers differ from the other variants'.
    measured: Measured | None = None
    joining: Annotated[Joining | None, Since(1)] = None  # Absent: the device tries it itself, as of the version before.


class Shadow(Fact):
    """Compare releases: before a switch the old one answers and the new one is compared; on probation the roles are reversed.

    Two answers agree when texts and whole numbers are equal, rows of several floats have the same largest, and single floats differ by at
    most `absolute + relative * abs(old)`.
    """

    seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)]
    rows_min: Annotated[int, Field(ge=1, le=1_000_000)] = 20  # With fewer rows nothing is decided.
    agreement_min: Annotated[float, Field(ge=0, le=1)] = 0.9
    relative_tolerance: Annotated[float, Field(ge=0, le=10)] = 0.1
    absolute_tolerance: Annotated[float, Field(ge=0)] = 1e-3


class Limits(Fact):
    """Bound what activation may take on the device."""

    latency_ms_max: Annotated[float, Field(gt=0, le=600_000)] = 1000.0
    memory_bytes_max: Annotated[int, Field(gt=0)] = 2 * 1024 * limits.MIB
    probation_seconds: Annotated[int, Field(ge=0, le=7 * 24 * 3600)] = 60
    probation_error_ratio_max: Annotated[float, Field(ge=0, le=1)] = 0.02
    shadow: Shadow | None = None


class Manifest(Document):
    """Describe a release. It is immutable: its digest is the release's identity."""

    schema_name = "manifest"
    schema_minor = 1
    bytes_max = limits.MANIFEST_BYTES_MAX

    model: ModelName
    version: Version
    created: Seconds  # Seconds since 1970, UTC.
    description: Text = ""
    licence: Annotated[str, Field(max_length=64)] = ""
    parent: Digest | None = None
    parents: Annotated[tuple[Digest, ...], Field(max_length=8)] | None = None  # Releases whose blocks its deltas are against.
    inputs: Annotated[tuple[Tensor, ...], Field(max_length=limits.TENSORS_MAX)]
    outputs: Annotated[tuple[Tensor, ...], Field(max_length=limits.TENSORS_MAX)]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1, max_length=limits.VARIANTS_MAX)]
    golden: Golden | None = None
    limits: Limits = Limits()
    baseline: Baseline | None = None
    privacy: Privacy | None = None
    parameters: Parameters | None = None
    accuracy: Accuracy | None = None  # Known right and wrong answers, for sites that learn later which were which.

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({variant.name for variant in self.variants}) != len(self.variants):
            raise ValueError("two variants have one name")
        for variant in self.variants:
            paths = [file.path.casefold() for file in self.files_of(variant.name)]
            if len(set(paths)) != len(paths):  # Case-folded, since a device's file system may ignore case.
                raise ValueError("two files have one path")
        if any(variant.runtime != "files" for variant in self.variants) != bool(self.inputs and self.outputs):
            raise ValueError("a model that runs has inputs and outputs; files have none")
        if (self.baseline is None) != (self.privacy is None):
            raise ValueError("a baseline needs its noise, and noise a baseline")
        inputs = {tensor.name for tensor in self.inputs}
        for parameter in self.parameters or ():
            if parameter.goes_to == "input" and parameter.name not in inputs:
                raise ValueError(f"parameter {parameter.name!r} goes to an input that the model does not have")
        if len({parameter.name for parameter in self.parameters or ()}) != len(self.parameters or ()):
            raise ValueError("two parameters have one name")
        return self

    def golden_of(self, variant: Variant) -> Golden | None:
        """Return the golden inputs that a variant has to answer."""
        return variant.golden or self.golden

    def files_of(self, variant: str) -> tuple[File, ...]:
        """Return the files that a node of this variant fetches, in the order by which `Want` counts blocks.

        Raises:
            KeyError: there is no such variant.
        """
        for candidate in self.variants:
            if candidate.name == variant:
                golden = self.golden_of(candidate)
                return candidate.files + ((golden.file,) if golden else ())
        raise KeyError(variant)


def blocks_of(file: File, read: Callable[[Block], bytes]) -> tuple[Block, ...]:
    """Return a file's blocks from the manifest or its index; `read` returns a part of the index, verified, or raises.

    Raises:
        Refused: a part is not a block list.
    """
    return file.blocks or tuple(block for part in file.index for block in codec.decode(Index, read(part)).blocks)


def holds_nothing(digest: bytes) -> bool:
    """Answer for any block what a node without blocks answers: it does not hold it."""
    return False


def cheapest(block: Block, encodings: tuple[EncodingName, ...], holds: Callable[[bytes], bool] = holds_nothing) -> Payload:
    """Return the smallest payload that a node can decode with `encodings` and the blocks it `holds`; `raw` if none is smaller."""
    usable = [
        payload
        for payload in block.payloads
        if payload.encoding in encodings and payload.bytes < block.bytes and all(holds(parent) for parent in payload.parents or ())
    ]
    return min(usable, key=lambda payload: (payload.bytes, payload.digest), default=Payload("raw", block.digest, block.bytes))


def target_path(model: str, version: str) -> str:
    """Return the path by which TUF lists a release's manifest."""
    return f"models/{model}/{version}"
