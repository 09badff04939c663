"""Decides how long to wait before the next attempt. Knows no receiver."""

from random import Random

WAIT_SECONDS_MIN, WAIT_SECONDS_MAX = 5.0, 3600.0
DOUBLINGS_MAX = 16


def wait_seconds(failures: int, rng: Random) -> float:
    """Return how long to wait after a number of failures.

    It is doubled each time up to an hour, and spread over half to one and a half of it, so that a receiver that comes back is not met by
    everybody at once.
    """
    plain = min(WAIT_SECONDS_MAX, WAIT_SECONDS_MIN * 2.0 ** min(DOUBLINGS_MAX, max(0, failures - 1)))
    return plain * (0.5 + rng.random())
