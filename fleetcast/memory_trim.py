"""Give memory that a large request took back to the system: glibc keeps what was freed, in the expectation of another such request."""

import ctypes
from functools import cache
from typing import Final

from schemas.limits import MIB

LARGE_BYTES: Final = 8 * MIB  # A request and its answer together: beyond it, giving back costs little beside answering.
# glibc raises its own thresholds to 32 and 64 MiB once it has seen large blocks freed; one that is set stays (mallopt(3)).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MAPPED_BYTES_MIN: Final = 4 * MIB  # A larger block is mapped by itself, and gone when it is freed.
TRIMMED_BYTES_MIN: Final = 4 * MIB  # Free memory at the end of an arena, beyond which it is given back.


def keep_little(*, arenas_max: int | None = None) -> None:
    """Have the C library keep little of what is freed from now on. Call it before threads are started, each of which may get an arena.

    Another C library than glibc has no such settings.
    """
    libc = _glibc()
    if libc is None:
        return
    libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
    libc.mallopt(M_TRIM_THRESHOLD, TRIMMED_BYTES_MIN)
    if arenas_max is not None:
        libc.mallopt(M_ARENA_MAX, arenas_max)


def trim_memory() -> None:
    """Have the C library return whole pages that nobody uses."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        _ = libc.malloc_trim, libc.mallopt
    except (OSError, AttributeError):
        return None
    return libc
