"""Verify a TUF timestamp that came alone, by the trusted root.

python-tuf's client wants all roles at once, so this uses the metadata API below it.
"""

from tuf.api.metadata import Metadata, Root, Timestamp

from node.core.trust.unverified_metadata import claimed_version
from node.trust.refusals import as_refused
from schemas.errors import Code, Refused, mismatch


def verified_time(timestamp: bytes, root: Root) -> Timestamp:
    """Return a timestamp that the trusted root's key has signed.

    Raises:
        Refused: another key has signed it, or it is no timestamp.
    """
    claimed_version(timestamp, "timestamp")
    with as_refused("timestamp"):
        metadata = Metadata[Timestamp].from_bytes(timestamp)
        root.verify_delegate("timestamp", metadata.signed_bytes, metadata.signatures)
    return metadata.signed


def check_newer(found: Timestamp, trusted: Timestamp) -> None:
    """Refuse what python-tuf refuses of a timestamp: a version that falls, of itself or of the snapshot that it names."""
    if found.version < trusted.version:
        raise mismatch(Code.TRUST_ROLLBACK, "version of a timestamp", expected=f"{trusted.version} or more", actual=found.version)
    if found.version == trusted.version:
        raise Refused(Code.TRUST_MISMATCH, "timestamp has the version that is trusted already, and other content")
    named, newest = found.snapshot_meta.version, trusted.snapshot_meta.version
    if named < newest:
        raise mismatch(Code.TRUST_ROLLBACK, "snapshot that a timestamp names", expected=f"{newest} or more", actual=named)
