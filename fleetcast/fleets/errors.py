"""Define the errors of programs that use a fleet, beside `Refused` and `Unreachable`; each has a code and a mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schemas.errors import FleetcastError, Refused, Unreachable

if TYPE_CHECKING:
    from fleetcast.fleets.results import RolloutStatus


class FleetClosed(FleetcastError):
    """Report that a fleet was closed, and is used after that."""

    code = "fleet.closed"

    def __init__(self, place: str) -> None:
        self.mend = "open it again, or use it within its `with` block"
        super().__init__(f"the fleet {place} is closed: {self.mend}")


class NotInstalled(FleetcastError, ImportError):
    """Report that a package is not installed, with the extra that brings it."""

    code = "package.absent"

    def __init__(self, package: str, extra: str, what: str) -> None:
        self.extra, self.mend = extra, f"install it, or fleetcast with its extra [{extra}]"
        ImportError.__init__(self, f"{what} needs {package}, which is not installed: {self.mend}", name=package)


class RolloutEnded(FleetcastError):
    """Report that a rollout which a program follows will not reach all of its nodes: it was halted, went back, or was superseded.

    `code` is one of `rollout.halted`, `rollout.rolled_back`, `rollout.superseded` and `rollout.removed`; `status` is what was seen last.
    """

    def __init__(self, code: str, reason: str, mend: str, status: "RolloutStatus | None") -> None:
        self.code, self.reason, self.mend, self.status = code, reason, mend, status
        super().__init__(f"{reason} [{code}]")


class NotInTime(FleetcastError):
    """Report that a hub has not answered, or a rollout has not ended, within the time that the program gave it. Nothing was taken back."""

    code = "time.over"

    def __init__(self, reason: str, mend: str) -> None:
        self.reason, self.mend = reason, mend
        super().__init__(f"{reason}: {mend}")


@contextmanager
def explained() -> Iterator[None]:
    """Give a refusal the mend of its code, which a traceback shows, too."""
    try:
        yield
    except Refused as error:
        if not error.mend:
            from fleetcast.error_help import MEANINGS  # noqa: PLC0415  # read only where something is refused

            error.mend = MEANINGS[error.code][1]
            error.add_note(f"mend: {error.mend}")
        raise
    except Unreachable as error:
        error.mend = error.mend or "check the address and that the hub or its database runs; then try again"
        raise
