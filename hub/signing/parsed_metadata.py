"""Parse metadata, and check its signatures, once: a running hub asks for the same few files again and again.

Both depend on nothing but the bytes. What is returned is shared: nobody changes it.
"""

from functools import lru_cache
from typing import Any

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

KEPT = 128  # Files, by their bytes: each role's newest, and those before it.


@lru_cache(maxsize=KEPT)
def parsed(data: bytes) -> Metadata[Any]:
    """Return the metadata in a file."""
    return Metadata.from_bytes(data)


@lru_cache(maxsize=KEPT)
def is_signed(role: str, data: bytes, *, by: bytes) -> bool:
    """Return whether a role's metadata has the signatures that its delegator demands."""
    metadata = parsed(data)
    try:
        parsed(by).signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError:
        return False
    return True
