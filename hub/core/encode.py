"""A block's encodings: all are tried, the useful ones are kept."""

import zstandard

from schemas.manifest import Block, Payload
from schemas.names import sha256

ZSTD_LEVEL = 19  # encoded once, sent to thousands
SAVING_MIN = 0.02  # an encoding that saves less is not worth its entry in the manifest


def encode_block(data: bytes) -> tuple[Block, dict[bytes, bytes]]:
    """The block, and its payloads by digest; raw is always among them, so that any node can decode one."""
    digest = sha256(data)
    payloads = {digest: data}
    entries: list[Payload] = []
    # The size stands in the frame: a node unpacks nothing that does not say how large it will be.
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True).compress(data)
    if len(packed) <= len(data) * (1 - SAVING_MIN):
        entry = Payload("zstd", sha256(packed), len(packed))
        entries.append(entry)
        payloads[entry.digest] = packed
    return Block(digest, len(data), tuple(entries)), payloads
