"""Share among long-running commands: stop by a signal, log, and report a bug."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fleetcast.absent_modules import absent
from schemas.errors import FleetcastError

with absent("rich", "greenlet"):
    import structlog

    from fleetcast.log_rate_limit import limited

log = structlog.get_logger()


def until_stopped() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    # Every write and every hash lets go of the interpreter; the default 5 ms until it comes back would cost half the rate of a transfer.
    sys.setswitchinterval(0.0005)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def log_to_stderr() -> None:
    """Log events to stderr, one JSON object per line, and a limited number of each kind."""
    logging.basicConfig(level=logging.WARNING)
    structlog.configure(
        processors=[
            limited(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextmanager
def loud() -> Iterator[None]:
    """Log a bug that ends a service with its traceback."""
    try:
        yield
    except FleetcastError:
        raise
    except Exception:
        log.exception("service.bug")
        raise
