"""Convert documents to bytes and back: canonical msgpack, bounded, with a schema name and version in front.

Canonical means: one document has one encoding (sorted keys, shortest integers, no duplicates), so that a digest of the bytes is a digest
of the document. `decode` refuses any bytes that `encode` would not have written.
"""

from functools import lru_cache
from typing import Any, TypeVar

import msgpack
import zstandard
from pydantic import ValidationError

from schemas.document import Document
from schemas.errors import Code, Refused

SCHEMA_KEY = "@"  # It sorts before every field name.
D = TypeVar("D", bound=Document)


def encode(document: Document) -> bytes:
    """Return the document's only wire form.

    Raises:
        Refused: the document is larger than its own bound allows.
    """
    packed = _pack(document)
    if document.decoded_bytes_max is not None:
        packed = zstandard.ZstdCompressor(level=19, write_content_size=True).compress(packed)
    if len(packed) > document.bytes_max:
        raise _too_large(document.schema_name, len(packed), document.bytes_max)
    return packed


def decode(kind: type[D], payload: bytes) -> D:
    """Return the document that `payload` holds.

    Raises:
        Refused: the payload is too large, is not canonical msgpack, has another schema or version, or a field is out of bounds.
    """
    if len(payload) > kind.bytes_max:
        raise _too_large(kind.schema_name, len(payload), kind.bytes_max)
    packed = _decompress(kind, payload)
    fields = _unpack(kind, packed)
    tag = fields.pop(SCHEMA_KEY, None)
    if tag != _tag(kind):
        raise Refused(Code.SCHEMA_UNSUPPORTED, f"expected {_tag(kind)}, found {str(tag)[:64]!r}")
    try:
        document = kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind.schema_name}: {where}: {first['msg']}") from None
    if not (_is_canonical_flat(kind, tag, fields, packed) if kind.flat else packed == _pack(document)):
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind.schema_name}: not in canonical form")
    return document


def _pack(document: Document) -> bytes:
    fields = document.model_dump(mode="python", by_alias=True, exclude_none=True)
    packed: bytes = msgpack.packb(_canonical({SCHEMA_KEY: _tag(type(document)), **fields}), use_bin_type=True)
    return packed


def _is_canonical_flat(kind: type[Document], tag: str, fields: dict[str, Any], packed: bytes) -> bool:
    """Return whether a flat document is canonical without writing it: strict validation shows that it holds what was unpacked."""
    if None in fields.values() or not fields.keys() <= _wire_names(kind):
        return False
    again: bytes = msgpack.packb({SCHEMA_KEY: tag, **{key: fields[key] for key in sorted(fields)}}, use_bin_type=True)
    return again == packed


@lru_cache(maxsize=64)
def _wire_names(kind: type[Document]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in kind.model_fields.items())


def _tag(kind: type[Document]) -> str:
    return f"{kind.schema_name}/{kind.schema_version}"


def _too_large(name: str, actual: int, bound: int) -> Refused:
    return Refused(Code.SCHEMA_TOO_LARGE, f"{name}: {actual} bytes, at most {bound} are allowed")


def _decompress(kind: type[Document], payload: bytes) -> bytes:
    if kind.decoded_bytes_max is None:
        return payload
    try:
        size = zstandard.frame_content_size(payload)
        if not 0 <= size <= kind.decoded_bytes_max:  # -1 means that the frame does not declare its size, and could be a decompression bomb.
            raise _too_large(kind.schema_name, size, kind.decoded_bytes_max)
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=kind.decoded_bytes_max, allow_extra_data=False)
    except zstandard.ZstdError:
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind.schema_name}: not a zstd frame") from None


def _unpack(kind: type[Document], packed: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(packed, raw=False, use_list=False, strict_map_key=True, ext_hook=_no_extension)
    except (ValueError, msgpack.UnpackException):
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind.schema_name}: not msgpack") from None
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind.schema_name}: not a map")
    return fields


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError("extension types are not used")


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        # Trailing fields without a value are omitted, as in a map, so a field can be added to rows later.
        while value and value[-1] is None:
            value = value[:-1]
        return [_canonical(item) for item in value]
    return value
