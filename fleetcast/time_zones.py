"""Find time zones: one by its name, and the one that this machine is set to."""

import os
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LOCALTIME = Path("/etc/localtime")


def zone_of(name: str) -> ZoneInfo:
    """Return a zone by its name, such as Europe/Rome.

    Raises:
        ValueError: there is no such zone, or no time zone database on this device.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r} here: write it as Europe/Rome, and see that tzdata is installed") from None


def system_zone(environment: "os._Environ[str] | dict[str, str]" = os.environ, localtime: Path = LOCALTIME) -> tzinfo:
    """Return the zone that this device is set to: by TZ, else by /etc/localtime, else as the C library has it now."""
    name = environment.get("TZ", "").removeprefix(":")
    if name:
        try:
            return zone_of(name)
        except ValueError:
            return _as_now()
    try:
        with localtime.open("rb") as file:
            return ZoneInfo.from_file(file, key=str(localtime))
    except (OSError, ValueError):
        return _as_now()


def _as_now() -> tzinfo:
    return datetime.now(UTC).astimezone().tzinfo or UTC
