"""Keep which releases have damaged files on this disk, and when each is fetched again: at once, and ever later where it does not last."""

from node.core.trust.clock import MonotonicClock, MonotonicSeconds
from schemas.errors import Code, Refused

REPAIR_SECONDS = 60.0  # The pause between two tries.


class Repairs:
    """Hold the repairs of one node, by release digest. Called by the loop's thread alone."""

    def __init__(self, monotonic: MonotonicClock) -> None:
        self._monotonic = monotonic
        self._due: dict[bytes, MonotonicSeconds | None] = {}  # When it is fetched, unless it is on its way.
        self._met: set[bytes] = set()  # Those that were fetched again already, and have not been loaded since.

    def __contains__(self, digest: bytes) -> bool:
        """Return whether files of this release have to be fetched again."""
        return digest in self._due

    def found(self, digest: bytes) -> bool:
        """Take in that files are damaged, and return whether this is the first time since they were whole."""
        is_first = digest not in self._met and digest not in self._due
        self._met.add(digest)
        self._due[digest] = MonotonicSeconds(float(self._monotonic()) + (0.0 if is_first else REPAIR_SECONDS))
        return is_first

    def is_due(self, digest: bytes) -> bool:
        """Return whether to fetch them now."""
        due = self._due.get(digest)
        return due is not None and due <= self._monotonic()

    def hurry(self, digest: bytes) -> None:
        """Have them fetched as soon as that may be, where they are damaged and wait."""
        if digest in self._due:
            self._due[digest] = self._monotonic()

    def begun(self, digest: bytes) -> None:
        """Take in that they are on their way."""
        self._due[digest] = None

    def failed(self, digest: bytes) -> None:
        """Take in that they did not come."""
        self._due[digest] = MonotonicSeconds(float(self._monotonic()) + REPAIR_SECONDS)

    def given_up(self, digest: bytes) -> None:
        """Take in that nobody wants them for now."""
        self._due.pop(digest, None)

    def mended(self, digest: bytes) -> None:
        """Take in that the release was loaded from its files."""
        self._due.pop(digest, None)
        self._met.discard(digest)


def damage_of(version: str, reason: str) -> Refused:
    """Return what is reported of a release whose files are damaged."""
    return Refused(Code.DISK_DAMAGED, f"files of {version} are damaged on the device's disk, and fetched again: {reason}")
