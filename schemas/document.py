"""Define the frozen base classes of everything that crosses the wire."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Fact(BaseModel):
    """Hold a frozen value: unknown fields, other types and NaN are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, ser_json_bytes="hex", val_json_bytes="hex", validate_by_name=True
    )


class Document(Fact):
    """Define a message of its own: it has a name, a schema version and bounds."""

    schema_name: ClassVar[str]
    schema_version: ClassVar[int] = 1
    bytes_max: ClassVar[int]  # Bound on the wire, checked before decoding.
    decoded_bytes_max: ClassVar[int | None] = None  # If set, the wire form is a zstd frame that unpacks to at most this size.
    flat: ClassVar[bool] = (
        False  # Every field is a whole number, bytes or text as unpacked, or None, which is cheaper to check (schemas/codec.py).
    )
