"""Find how large a packet the broker of a running hub takes, whichever of the hub's processes knows it."""

import json
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub.operations.opened_fleet import OpenedFleet

READY = "*.ready"  # One for each process that runs in this folder.


def packet_bytes_max(fleet: "OpenedFleet") -> int | None:
    """Return the smallest limit that a process of the hub has found at its broker; None where none runs, and none has run here.

    Processes on other machines say it in the database that they share, those on this one in the fleet's folder, too.
    """
    if fleet.settings.is_on_server:
        from hub.database.members import Members  # noqa: PLC0415  # with SQLAlchemy

        found = [one.packet_bytes_max for one in Members(fleet.store.database).all() if one.is_live and one.packet_bytes_max is not None]
        if found:
            return min(found)
    found = []
    for ready in fleet.directory.glob(READY):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found.append(int(json.loads(ready.read_text())["packet_bytes_max"]))
    return min(found, default=None)
