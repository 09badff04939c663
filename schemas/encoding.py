"""How a payload becomes a block again: verified before it is decoded, bounded while it is, verified after."""

import zstandard

from schemas.errors import Code, Refused, mismatch
from schemas.limits import PAYLOAD_BYTES_MAX
from schemas.manifest import Block, EncodingName, Payload
from schemas.names import sha256

DECODABLE: tuple[EncodingName, ...] = ("raw", "zstd")


def decode_payload(payload: Payload, block: Block, data: bytes) -> bytes:
    """The block's bytes.

    Raises:
        Refused: longer than any payload may be, not the payload that was asked for, or not that block once decoded.
    """
    if len(data) > PAYLOAD_BYTES_MAX:
        raise Refused(Code.BLOCK_TOO_LARGE, f"payload of {len(data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed")
    if sha256(data) != payload.digest:
        raise mismatch(Code.BLOCK_DIGEST, "payload", expected=payload.digest.hex(), actual=sha256(data).hex())
    match payload.encoding:
        case "raw":
            decoded = data
        case "zstd":
            decoded = _unzstd(data, block.bytes)
        case _:
            raise Refused(Code.BLOCK_DECODE, f"encoding {payload.encoding!r} is none of {', '.join(DECODABLE)}")
    if len(decoded) != block.bytes or sha256(decoded) != block.digest:
        raise mismatch(Code.BLOCK_DIGEST, "decoded block", expected=block.digest.hex(), actual=sha256(decoded).hex())
    return decoded


def _unzstd(data: bytes, size_bytes: int) -> bytes:
    """Unpack to exactly `size_bytes`; a frame that does not declare this size is not touched, for it may be a bomb."""
    try:
        declared = zstandard.frame_content_size(data)
        if declared != size_bytes:
            raise mismatch(Code.BLOCK_DECODE, "decoded size", expected=size_bytes, actual=declared if declared >= 0 else "undeclared")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(Code.BLOCK_DECODE, f"not a zstd frame of a block: {error}") from None
