"""Write moments for tables and for scripts: UTC, to the second."""

from datetime import UTC, datetime, timedelta


def written(seconds: int | None) -> str | None:
    """Format a moment for a table."""
    if seconds is None:
        return None
    at = datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%d %H:%M") if at.second == 0 else at.strftime("%Y-%m-%d %H:%M:%S")


def iso(seconds: int | None) -> str | None:
    """Format a moment for a script."""
    return None if seconds is None else (datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
