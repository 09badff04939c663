"""Moments as operators write and read them: UTC, to the second, or a time before now."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from hub.operations.moments import SPAN, UNITS_SECONDS, deadline_of, iso, written
from schemas.errors import Refused

__all__ = ["DEADLINE", "MOMENT", "Deadline", "Moment", "iso", "parsed_option", "written"]

Parsed = TypeVar("Parsed")


class Moment(click.ParamType[int]):
    """Parse a moment: 2026-11-26, 2026-11-26T11:20, with an offset or in UTC; or 90m, 24h, 7d, 2w ago. Becomes seconds since 1970."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the moment, or raise a usage error that shows the accepted forms."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        ago = SPAN.fullmatch(text)
        if ago:
            return max(0, int(time.time()) - int(ago[1]) * UNITS_SECONDS[ago[2]])
        try:
            found = datetime.fromisoformat(text)
            at = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
            return max(0, int(at.timestamp()))
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is not a time: write 2026-11-26, 2026-11-26T11:20 (UTC), or 24h, 7d, 2w for a time before now", param, ctx)


MOMENT = Moment()


class Deadline(click.ParamType[int]):
    """36h or 7d from now, or 2026-12-24T18:00: with an offset, with a zone's name after a space, or in UTC. Becomes seconds since 1970."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the moment, or raise a usage error that shows the accepted forms."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        try:
            return deadline_of(text, now=int(time.time()))
        except Refused:
            forms = "2026-12-24T18:00 (UTC), 2026-12-24T18:00+01:00, '2026-12-24T18:00 Europe/Berlin', or 36h or 7d from now"
            self.fail(f"{text!r} is no deadline: write {forms}", param, ctx)


DEADLINE = Deadline()


def parsed_option(option: str, parse: Callable[[str], Parsed], text: str) -> Parsed:
    """Return what an option means.

    Raises:
        click.UsageError: it is not written as it must be.
    """
    try:
        return parse(text)
    except Refused as refusal:
        raise click.UsageError(f"--{option}: {refusal.reason}") from None
