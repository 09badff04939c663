"""Read the root metadata that all of a node's trust begins with."""

from node.settings import NodeSettings
from schemas.errors import Code, Refused


def pinned_root(settings: NodeSettings) -> bytes:
    """Return the root metadata that the operator put on this device.

    Raises:
        Refused: it is not there.
    """
    try:
        return settings.root.read_bytes()
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"the fleet's root {settings.root}: {error.strerror}") from None
