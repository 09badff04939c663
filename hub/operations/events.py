"""Show events, as the API and Python programs have them."""

from datetime import UTC, datetime
from typing import Any

from hub.database.rows import EventRow


def event_row(event: EventRow) -> dict[str, Any]:
    """Return what is shown of an event."""
    at = datetime.fromtimestamp(event.at, UTC).isoformat()
    return {"id": event.id, "at": at, "kind": event.kind, "text": event.text, "actor": event.actor, "facts": dict(event.body)}
