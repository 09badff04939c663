"""Define the frozen base classes of everything that crosses the wire."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from schemas import limits


class Fact(BaseModel):
    """Hold a frozen value: unknown fields, other types and NaN are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, ser_json_bytes="hex", val_json_bytes="hex", validate_by_name=True
    )


@dataclass(frozen=True, slots=True)
class Since:
    """Mark an optional field, or a row's optional trailing entry, with the minor version that added it.

    `speed: Annotated[float | None, Since(1)] = None`. A reader of an older minor ignores it, so its absence must mean what it meant before.
    """

    minor: int


class Document(Fact):
    """Define a message of its own: it has a name, a schema version and bounds.

    A field that changes meaning, or that a reader must understand, is a new `schema_version`, which older readers refuse. A field that they
    may ignore is a new `schema_minor`, and is marked with `Since`.
    """

    schema_name: ClassVar[str]
    schema_version: ClassVar[int] = 1
    schema_minor: ClassVar[int] = 0  # Newest minor version that this program knows; what is written says the oldest that has its fields.
    bytes_max: ClassVar[int]  # Bound on the wire, checked before decoding.
    decoded_bytes_max: ClassVar[int | None] = None  # If set, the wire form is a zstd frame that unpacks to at most this size.
    quick_from: ClassVar[int | None] = None  # If set, the size before compression from which time counts for more than the last bytes.
    values_max: ClassVar[int] = limits.DOCUMENT_VALUES_MAX  # Bound on what it costs as objects, checked before they are made.
    flat: ClassVar[bool] = (
        False  # Every field is a whole number, bytes or text as unpacked, or None, which is cheaper to check (schemas/codec.py).
    )
