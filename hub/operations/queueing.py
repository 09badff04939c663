"""Queue what was asked for, for the hub to do, and return its number."""

from hub.core.nodes.device_settings import SetNodeSettings
from hub.core.rollouts.commands import Command
from hub.database.api_rows import ApiRequests
from hub.operations.opened_fleet import OpenedFleet


def queue(fleet: OpenedFleet, model: str, command: Command | SetNodeSettings) -> int:
    """Queue a command that was checked, in the name of whom the fleet is opened for."""
    return ApiRequests(fleet.store.database).queue(model, command, token="", key=None, digest=b"", besides="").command
