"""Convert documents to bytes and back: canonical msgpack, bounded, with a schema name and version in front.

Canonical means: one document has one encoding (sorted keys, shortest integers, no duplicates), so that a digest of the bytes is a digest
of the document. `decode` refuses any bytes that `encode` would not have written.
"""

import re
from functools import lru_cache
from typing import Any, TypeVar

import msgpack
import zstandard
from pydantic import ValidationError

from schemas import limits
from schemas.decoding_cost import is_msgpack_bounded
from schemas.document import Document
from schemas.errors import Code, Refused
from schemas.known_fields import known, minor_of, shape_of
from schemas.patterns import reason_of

SCHEMA_KEY = "@"  # It sorts before every field name.
MINOR_KEY = "@."  # It sorts behind the schema's, and is left out when the minor version is 0.
LEVEL, LEVEL_QUICK = 19, 3  # Levels of compression; a decoder takes any.
D = TypeVar("D", bound=Document)


def encode(document: Document) -> bytes:
    """Return the document's only wire form.

    Raises:
        Refused: the document is larger than its own bound allows.
    """
    packed = _pack(document)
    if document.decoded_bytes_max is not None:
        _check_cost(type(document), packed)
        is_quick = document.quick_from is not None and len(packed) >= document.quick_from
        packed = zstandard.ZstdCompressor(level=LEVEL_QUICK if is_quick else LEVEL, write_content_size=True).compress(packed)
    if len(packed) > document.bytes_max:
        raise _too_large(document.schema_name, len(packed), document.bytes_max)
    return packed


def decode(kind: type[D], payload: bytes) -> D:
    """Return the document that `payload` holds.

    Raises:
        Refused: the payload is too large, or would be as objects, is not canonical msgpack, has another schema or version, or a field is
            out of bounds.
    """
    if len(payload) > kind.bytes_max:
        raise _too_large(kind.schema_name, len(payload), kind.bytes_max)
    packed = _decompress(kind, payload)
    fields = _unpack(kind, packed)
    tag, minor = fields.pop(SCHEMA_KEY, None), fields.pop(MINOR_KEY, None)
    if tag != _tag(kind):
        raise _unsupported(kind, tag)
    if minor is not None and not (type(minor) is int and 1 <= minor <= limits.SCHEMA_MINOR_MAX):
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind.schema_name}: a minor version is a number from 1 to {limits.SCHEMA_MINOR_MAX}")
    if minor is not None and minor > kind.schema_minor:
        return _decode_newer(kind, {SCHEMA_KEY: tag, MINOR_KEY: minor, **fields}, packed)
    document = _validate(kind, fields)
    if not (_is_canonical_flat(kind, tag, minor, fields, packed) if kind.flat else packed == _pack(document)):
        raise _not_canonical(kind)
    return document


def _decode_newer(kind: type[D], whole: dict[str, Any], packed: bytes) -> D:
    """Return what this program knows of a document that a newer one wrote.

    The bytes as received must be canonical, unknown fields included, and what is known is checked as strictly as in any document.
    """
    if not _is_tidy(whole) or msgpack.packb(_canonical(whole), use_bin_type=True) != packed:
        raise _not_canonical(kind)
    fields = known(shape_of(kind), {key: value for key, value in whole.items() if key not in (SCHEMA_KEY, MINOR_KEY)})
    document = _validate(kind, fields)
    if msgpack.packb(_canonical(fields), use_bin_type=True) != msgpack.packb(_canonical(_dump(document)), use_bin_type=True):
        raise _not_canonical(kind)
    return document


def _validate(kind: type[D], fields: dict[str, Any]) -> D:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{kind.schema_name}: {where}: {reason_of(first)}"
        if first["type"] == "extra_forbidden":
            what = f"{kind.schema_name}: the field {where} is not known here; if the sender is newer, upgrade fleetcast at the receiver"
        raise Refused(Code.SCHEMA_MALFORMED, what) from None


def _dump(document: Document) -> dict[str, Any]:
    return document.model_dump(mode="python", by_alias=True, exclude_none=True)


def _pack(document: Document) -> bytes:
    kind, fields = type(document), _dump(document)
    minor = minor_of(shape_of(kind), fields) if kind.schema_minor else 0
    packed: bytes = msgpack.packb(_canonical({**_head(_tag(kind), minor or None), **fields}), use_bin_type=True)
    return packed


def _head(tag: str, minor: int | None) -> dict[str, Any]:
    return {SCHEMA_KEY: tag} if minor is None else {SCHEMA_KEY: tag, MINOR_KEY: minor}


def _is_canonical_flat(kind: type[Document], tag: str, minor: int | None, fields: dict[str, Any], packed: bytes) -> bool:
    """Return whether a flat document is canonical without writing it: strict validation shows that it holds what was unpacked."""
    if None in fields.values() or not fields.keys() <= _wire_names(kind):
        return False
    if kind.schema_minor and minor_of(shape_of(kind), fields) != (minor or 0):
        return False
    again: bytes = msgpack.packb({**_head(tag, minor), **{key: fields[key] for key in sorted(fields)}}, use_bin_type=True)
    return again == packed


def _is_tidy(value: Any, depth: int = 0) -> bool:
    """Return whether any value could be part of a document: its keys are text, and what is absent is left out."""
    if depth > limits.DOCUMENT_DEPTH_MAX:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and item is not None and _is_tidy(item, depth + 1) for key, item in value.items())
    if isinstance(value, tuple):
        return not (value and value[-1] is None) and all(_is_tidy(item, depth + 1) for item in value)
    return True


@lru_cache(maxsize=64)
def _wire_names(kind: type[Document]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in kind.model_fields.items())


def _tag(kind: type[Document]) -> str:
    return f"{kind.schema_name}/{kind.schema_version}"


def _not_canonical(kind: type[Document]) -> Refused:
    return Refused(Code.SCHEMA_MALFORMED, f"{kind.schema_name}: not in canonical form")


def _unsupported(kind: type[Document], tag: object) -> Refused:
    """Return a refusal that names both versions and, if both are versions of one schema, the side to upgrade."""
    ours = _tag(kind)
    if isinstance(tag, str) and (found := re.fullmatch(rf"{kind.schema_name}/([1-9][0-9]{{0,4}})", tag)):
        older = "receiver" if int(found[1]) > kind.schema_version else "sender"
        return Refused(Code.SCHEMA_UNSUPPORTED, f"the sender wrote {tag} and the receiver reads {ours}: upgrade fleetcast at the {older}")
    return Refused(Code.SCHEMA_UNSUPPORTED, f"expected {ours}, found {str(tag)[:64]!r}")


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


def _check_cost(kind: type[Document], packed: bytes) -> None:
    if not is_msgpack_bounded(packed, values_max=kind.values_max, depth_max=limits.DOCUMENT_DEPTH_MAX):
        bounds = f"at most {kind.values_max} values within {limits.DOCUMENT_DEPTH_MAX} levels"
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind.schema_name}: not msgpack of {bounds}")


def _unpack(kind: type[Document], packed: bytes) -> dict[str, Any]:
    bounds = {}
    if kind.flat:  # Small ones, of which many come: this alone bounds what they take, and leaves room for a newer one's fields.
        bounds = {"max_array_len": limits.FLAT_ARRAY_MAX}
    else:
        _check_cost(kind, packed)
    try:
        fields = msgpack.unpackb(packed, raw=False, use_list=False, strict_map_key=True, ext_hook=_no_extension, **bounds)
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
