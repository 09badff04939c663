"""Define a node's signed statements: "serving release digest X since T", or why not. Only receipts count as success."""

from typing import Annotated, Literal

from pydantic import Field

from schemas import limits
from schemas.document import Document, Fact
from schemas.names import Digest, Label, ModelName, NodeId, Version
from schemas.quantities import Count, Seconds


class Evidence(Fact):
    """Carry what activation measured on this device."""

    golden_error_max: Annotated[float, Field(ge=0)] = 0.0  # Largest excess over the tolerance's own scale; 1.0 is the limit.
    golden_rows: Count = 0
    load_ms: Annotated[float, Field(ge=0)] = 0.0
    latency_ms: Annotated[float, Field(ge=0)] = 0.0
    memory_bytes: Count = 0
    bytes_planned: Count = 0
    bytes_received: Count = 0
    bytes_reused: Count = 0
    bytes_wasted: Count = 0
    variant: Label | None = None
    shadow_rows: Count | None = None  # Still read, no longer written: exact counts of requests do not leave a device.
    shadow_agreement: Annotated[float, Field(ge=0, le=1)] | None = None  # Still read, no longer written.
    # Result of the comparison with the release served before: "passed", or the code.
    shadow: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None


class Receipt(Document):
    """Carry the signed body. `refused` also reports messages that others put on the broker; `digest` may then be absent."""

    schema_name = "receipt"
    bytes_max = limits.RECEIPT_BYTES_MAX

    node: NodeId
    sequence: Annotated[int, Field(ge=1, le=2**53)]  # It rises with every receipt of this node.
    at: Seconds
    outcome: Literal["serving", "refused", "rolled_back"]
    model: ModelName | None = None
    version: Version | None = None
    digest: Digest | None = None
    since: Seconds | None = None
    code: Annotated[str, Field(max_length=64)] = ""
    reason: Annotated[str, Field(max_length=limits.TEXT_MAX)] = ""
    evidence: Evidence | None = None


class SealedReceipt(Document):
    """Carry the exact bytes of a `Receipt` and the device's signature over them. It is unverified until checked."""

    schema_name = "sealed-receipt"
    bytes_max = limits.RECEIPT_BYTES_MAX + 256

    body: Annotated[bytes, Field(min_length=1, max_length=limits.RECEIPT_BYTES_MAX)]
    signature: Annotated[bytes, Field(min_length=1, max_length=128)]  # ECDSA P-256 with SHA-256, DER.
