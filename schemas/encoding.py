"""How a payload becomes a block again: verified before it is decoded, bounded while it is, verified after."""

import zstandard

from schemas.errors import Code, Refused, mismatch
from schemas.limits import BLOCK_BYTES_MAX, PAYLOAD_BYTES_MAX
from schemas.manifest import Block, EncodingName, Payload
from schemas.names import sha256

DECODABLE: tuple[EncodingName, ...] = ("raw", "zstd")
WINDOW_BYTES_MAX = BLOCK_BYTES_MAX  # what a zstd frame may have a decoder keep: nothing reaches further back than its block's beginning


def decode_payload(payload: Payload, block: Block, data: bytes, parent: bytes = b"") -> bytes:
    """The block's bytes; `parent` is what the payload's parents hold, verified and joined.

    Raises:
        Refused: longer than any payload may be, not the payload that was asked for, or not that block once decoded.
    """
    if len(data) > PAYLOAD_BYTES_MAX:
        raise Refused(Code.BLOCK_TOO_LARGE, f"payload of {len(data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed")
    if block.bytes > BLOCK_BYTES_MAX:
        raise Refused(Code.BLOCK_TOO_LARGE, f"block of {block.bytes} bytes, at most {BLOCK_BYTES_MAX} are allowed")
    found = sha256(data)
    if found != payload.digest:
        raise mismatch(Code.BLOCK_DIGEST, "payload", expected=payload.digest.hex(), actual=found.hex())
    match payload.encoding:
        case "raw" if payload.digest == block.digest and len(data) == block.bytes:
            return data  # verified just now, under the same digest
        case "raw":
            decoded = data
        case "zstd":
            decoded = _unzstd(data, block.bytes)
        case _:
            raise Refused(Code.BLOCK_DECODE, f"encoding {payload.encoding!r} is none of {', '.join(DECODABLE)}")
    found = sha256(decoded)
    if len(decoded) != block.bytes or found != block.digest:
        expected, actual = (f"{digest.hex()} of {size} bytes" for digest, size in ((block.digest, block.bytes), (found, len(decoded))))
        raise mismatch(Code.BLOCK_DIGEST, "decoded block", expected=expected, actual=actual)
    return decoded


def _unzstd(data: bytes, size_bytes: int) -> bytes:
    """Unpack to exactly `size_bytes`; a frame that does not declare this size is not touched, for it may be a bomb."""
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size != size_bytes:
            undeclared = frame.content_size == zstandard.CONTENTSIZE_UNKNOWN
            raise mismatch(
                Code.BLOCK_DECODE, "decoded size", expected=size_bytes, actual="undeclared" if undeclared else frame.content_size
            )
        if frame.window_size > WINDOW_BYTES_MAX:
            raise mismatch(Code.BLOCK_DECODE, "zstd window", expected=f"at most {WINDOW_BYTES_MAX}", actual=frame.window_size)
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(Code.BLOCK_DECODE, f"not a zstd frame of a block: {error}") from None
