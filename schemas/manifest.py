"""The signed description of a release: what it is made of, what it needs, and how to tell that it works."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from schemas import codec, limits
from schemas.accuracy import Accuracy
from schemas.document import Document, Fact
from schemas.names import Digest, FilePath, Label, ModelName, Version
from schemas.parameters import Parameters
from schemas.quantities import Count, Seconds
from schemas.signals import Baseline, Privacy, TensorName

EncodingName = Literal["raw", "zstd", "planes", "delta"]
Text = Annotated[str, Field(max_length=limits.TEXT_MAX)]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]  # the Open Inference Protocol's names


class Payload(NamedTuple):
    """One encoding of a block: the digest and size of the bytes that travel. `delta` alone has parents: the decoded blocks, joined in
    order, that it is applied to.
    """

    encoding: EncodingName
    digest: Digest
    bytes: Annotated[int, Field(ge=1, le=limits.PAYLOAD_BYTES_MAX)]
    parents: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=limits.DELTA_PARENTS_MAX)] | None = None


class Block(NamedTuple):
    """A run of a file's bytes. `raw` needs no entry in `payloads`: its digest is the block's own."""

    digest: Digest
    bytes: Annotated[int, Field(ge=1, le=limits.BLOCK_BYTES_MAX)]
    payloads: Annotated[tuple[Payload, ...], Field(max_length=limits.PAYLOADS_PER_BLOCK_MAX)] = ()

    @property
    def choices(self) -> tuple[Payload, ...]:
        """All payloads in the order by which `Want.choice` counts them: those that are listed, then `raw`."""
        return *self.payloads, Payload("raw", self.digest, self.bytes)


def _parents_agree(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    for block in blocks:
        for payload in block.payloads:
            if (payload.encoding == "delta") != (payload.parents is not None):
                raise ValueError("a delta names its parents, and nothing else does")
            if payload.parents is not None and block.digest in payload.parents:
                raise ValueError("a block is its own parent")
    return blocks


class File(Fact):
    """One file of a variant, as consecutive blocks, inline or through an index of its own."""

    path: FilePath
    bytes: Annotated[int, Field(ge=1, le=limits.FILE_BYTES_MAX)]
    digest: Digest
    blocks: Annotated[tuple[Block, ...], Field(max_length=1024), AfterValidator(_parents_agree)] = ()
    index: Annotated[tuple[Block, ...], Field(max_length=1024)] = ()  # parts of the encoded block list, when it is too long for a manifest

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if bool(self.blocks) == bool(self.index):
            raise ValueError("a file has either blocks or an index")
        if self.blocks and sum(block.bytes for block in self.blocks) != self.bytes:
            raise ValueError("blocks do not add up to the file")
        return self


class Index(Document):
    """A part of a file's block list, itself carried as a block."""

    schema_name = "index"
    bytes_max = limits.BLOCK_BYTES_MAX
    blocks: Annotated[tuple[Block, ...], Field(min_length=1, max_length=limits.INDEX_PART_BLOCKS_MAX), AfterValidator(_parents_agree)]


class Tensor(Fact):
    """An input or output; -1 stands for a free axis."""

    name: TensorName
    datatype: Datatype
    shape: Annotated[tuple[Annotated[int, Field(ge=-1, le=2**31)], ...], Field(max_length=limits.TENSOR_RANK_MAX)]


class Requirements(Fact):
    """What a device must have; an empty list asks for nothing."""

    arch: Annotated[tuple[Label, ...], Field(max_length=8)] = ()
    memory_bytes_min: Count = 0
    providers: Annotated[tuple[Label, ...], Field(max_length=8)] = ()
    cores_min: Annotated[int, Field(ge=1, le=4096)] | None = None
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX)] | None = None


class Golden(Fact):
    """Inputs with their known outputs: an npz whose arrays are named `input.<tensor>` and `output.<tensor>`, compared by
    `abs(actual - expected) <= absolute + relative * abs(expected)`.

    Of a text, the share of its leading words that agree counts: what is generated greedily differs wholly after the first other word.
    """

    file: File
    relative_tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-3
    absolute_tolerance: Annotated[float, Field(ge=0)] = 1e-4
    text_agreement_min: Annotated[float, Field(gt=0, le=1)] | None = None  # every word, where nothing is said


class Measured(Fact):
    """What a variant does on the publisher's held-out rows, and what the build that it was made from did."""

    rows: Annotated[int, Field(ge=1, le=2**53)]
    metric: Literal["accuracy", "r2", "agreement"]  # the last against the original's answers, where no truth was given
    score: float
    original: float
    latency_ms: Annotated[float, Field(ge=0)]  # median of one row, on the publisher's machine
    original_latency_ms: Annotated[float, Field(ge=0)]


class Variant(Fact):
    """One build of the release for a class of devices; the first file is the one that the runtime loads."""

    name: Label
    runtime: Label = "onnx"  # an entry point of the group `fleetcast.runtimes`; "files": handed over, and run by whoever knows them
    requirements: Requirements = Requirements()
    files: Annotated[tuple[File, ...], Field(min_length=1, max_length=limits.FILES_PER_VARIANT_MAX)]
    golden: Golden | None = None  # its own, where its answers differ from the other variants'
    measured: Measured | None = None


class Shadow(Fact):
    """Before a switch the old release answers and the new one is compared; on probation the other way round.

    Two answers agree when texts and whole numbers are equal, rows of several floats have the same largest, and single floats differ by at
    most `absolute + relative * abs(old)`.
    """

    seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)]
    rows_min: Annotated[int, Field(ge=1, le=1_000_000)] = 20  # fewer say nothing, and nothing is decided by them
    agreement_min: Annotated[float, Field(ge=0, le=1)] = 0.9
    relative_tolerance: Annotated[float, Field(ge=0, le=10)] = 0.1
    absolute_tolerance: Annotated[float, Field(ge=0)] = 1e-3


class Limits(Fact):
    """What activation must stay within on the device."""

    latency_ms_max: Annotated[float, Field(gt=0, le=600_000)] = 1000.0
    memory_bytes_max: Annotated[int, Field(gt=0)] = 2 * 1024 * limits.MIB
    probation_seconds: Annotated[int, Field(ge=0, le=7 * 24 * 3600)] = 60
    probation_error_ratio_max: Annotated[float, Field(ge=0, le=1)] = 0.02
    shadow: Shadow | None = None


class Manifest(Document):
    """A release, immutable: its digest is the release's identity."""

    schema_name = "manifest"
    bytes_max = limits.MANIFEST_BYTES_MAX

    model: ModelName
    version: Version
    created: Seconds  # since 1970, UTC
    description: Text = ""
    licence: Annotated[str, Field(max_length=64)] = ""
    parent: Digest | None = None
    parents: Annotated[tuple[Digest, ...], Field(max_length=8)] | None = None  # releases whose blocks its deltas are against
    inputs: Annotated[tuple[Tensor, ...], Field(max_length=limits.TENSORS_MAX)]
    outputs: Annotated[tuple[Tensor, ...], Field(max_length=limits.TENSORS_MAX)]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1, max_length=limits.VARIANTS_MAX)]
    golden: Golden | None = None
    limits: Limits = Limits()
    baseline: Baseline | None = None
    privacy: Privacy | None = None
    parameters: Parameters | None = None
    accuracy: Accuracy | None = None  # what is known of right and wrong answers, where sites can say later which were which

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({variant.name for variant in self.variants}) != len(self.variants):
            raise ValueError("two variants have one name")
        for variant in self.variants:
            paths = [file.path.casefold() for file in self.files_of(variant.name)]
            if len(set(paths)) != len(paths):  # case-folded: a device's file system may not tell them apart
                raise ValueError("two files have one path")
        if any(variant.runtime != "files" for variant in self.variants) != bool(self.inputs and self.outputs):
            raise ValueError("what is run has inputs and outputs, and files have none")
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
        """What a variant has to answer."""
        return variant.golden or self.golden

    def files_of(self, variant: str) -> tuple[File, ...]:
        """The files that a node of this variant fetches, in the order by which `Want` counts blocks.

        Raises:
            KeyError: there is no such variant.
        """
        for candidate in self.variants:
            if candidate.name == variant:
                golden = self.golden_of(candidate)
                return candidate.files + ((golden.file,) if golden else ())
        raise KeyError(variant)


def blocks_of(file: File, read: Callable[[Block], bytes]) -> tuple[Block, ...]:
    """A file's blocks, as the manifest lists them or by its index; `read` gives a part of the index, verified, or raises.

    Raises:
        Refused: a part is no block list.
    """
    return file.blocks or tuple(block for part in file.index for block in codec.decode(Index, read(part)).blocks)


def holds_nothing(digest: bytes) -> bool:
    """What a node that has no block yet says of any."""
    return False


def cheapest(block: Block, encodings: tuple[EncodingName, ...], holds: Callable[[bytes], bool] = holds_nothing) -> Payload:
    """The payload to fetch by a node that decodes `encodings` and `holds` such blocks: the smallest, `raw` when nothing is smaller."""
    usable = [
        payload
        for payload in block.payloads
        if payload.encoding in encodings and payload.bytes < block.bytes and all(holds(parent) for parent in payload.parents or ())
    ]
    return min(usable, key=lambda payload: (payload.bytes, payload.digest), default=Payload("raw", block.digest, block.bytes))


def target_path(model: str, version: str) -> str:
    """Where TUF lists a release's manifest."""
    return f"models/{model}/{version}"
