"""Define the result of `fleetcast-node prove`, which `fleetcast check` reads. It is not signed, and no broker carries it."""

from typing import Annotated

from pydantic import Field

from schemas import limits
from schemas.document import Fact
from schemas.names import Digest, Label, ModelName, Version
from schemas.receipt import Evidence


class Proof(Fact):
    """Report how one variant's activation ended here: the evidence that a receipt would carry, or why it was refused."""

    model: ModelName | None = None  # Absent if the manifest could not be read.
    version: Version | None = None
    release: Digest | None = None
    variant: Label | None = None
    passed: bool
    code: Annotated[str, Field(max_length=64)] = ""
    reason: Annotated[str, Field(max_length=4 * limits.TEXT_MAX)] = ""
    evidence: Evidence | None = None
    cores: Annotated[int, Field(ge=1, le=4096)] | None = None  # Number that it could use.
