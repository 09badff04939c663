"""What a program imports, and what hub and node share that does not cross the wire: MQTT, the block server, durable writes, back-off.

`import fleetcast` imports no other package: each name below is looked up when it is first used, and code of the hub when a fleet is opened.
`fleetcast.cli` is for the two command lines only.

    fleet = fleetcast.open("./plant")  # or fleetcast.connect("https://hub.example:8443", token=...)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleetcast.fleets.errors import FleetClosed, NotInstalled, NotInTime, RolloutEnded
    from fleetcast.fleets.fleet import Fleet
    from fleetcast.fleets.followed import FollowedRollout
    from fleetcast.fleets.keys import Key
    from fleetcast.fleets.opening import connect, open  # as `fleetcast.open`
    from fleetcast.fleets.results import (
        Done,
        DriftSignal,
        DriftStream,
        Event,
        Gate,
        LeftOut,
        Node,
        NodeModel,
        Plan,
        PlannedLink,
        PlannedNode,
        PlannedSite,
        PublishedRelease,
        Release,
        RolloutStatus,
    )
    from fleetcast.fleets.tables import Table
    from fleetcast.hidden_modules import HiddenModule
    from fleetcast.mqtt_connection import BrokerUrl, Connected, Disconnected, Link, Message, Published, Subscribed, TlsFiles, Will
    from schemas.analytics_messages import Alert, Drift, DriftEvidence, MergedWindow
    from schemas.block_request import Want
    from schemas.bundle import ModelBundle, TrustBundle
    from schemas.codec import decode, encode
    from schemas.errors import Code, FleetcastError, Refused, Unreachable
    from schemas.manifest import Index, Manifest
    from schemas.receipt import Receipt, SealedReceipt
    from schemas.rollout import Rollout
    from schemas.state import State
    from schemas.topics import Topics
    from schemas.window import Window

    __version__: str

__all__ = [
    "Alert",
    "BrokerUrl",
    "Code",
    "Connected",
    "Disconnected",
    "Done",
    "Drift",
    "DriftEvidence",
    "DriftSignal",
    "DriftStream",
    "Event",
    "Fleet",
    "FleetClosed",
    "FleetcastError",
    "FollowedRollout",
    "Gate",
    "HiddenModule",
    "Index",
    "Key",
    "LeftOut",
    "Link",
    "Manifest",
    "MergedWindow",
    "Message",
    "ModelBundle",
    "Node",
    "NodeModel",
    "NotInTime",
    "NotInstalled",
    "Plan",
    "PlannedLink",
    "PlannedNode",
    "PlannedSite",
    "Published",
    "PublishedRelease",
    "Receipt",
    "Refused",
    "Release",
    "Rollout",
    "RolloutEnded",
    "RolloutStatus",
    "SealedReceipt",
    "State",
    "Subscribed",
    "Table",
    "TlsFiles",
    "Topics",
    "TrustBundle",
    "Unreachable",
    "Want",
    "Will",
    "Window",
    "__version__",
    "connect",
    "decode",
    "encode",
    "open",
]

_PLACES = {
    "fleetcast.fleets.errors": (
        "FleetClosed",
        "NotInTime",
        "NotInstalled",
        "RolloutEnded",
    ),
    "fleetcast.fleets.fleet": ("Fleet",),
    "fleetcast.fleets.followed": ("FollowedRollout",),
    "fleetcast.fleets.keys": ("Key",),
    "fleetcast.fleets.opening": (
        "connect",
        "open",
    ),
    "fleetcast.fleets.results": (
        "Done",
        "DriftSignal",
        "DriftStream",
        "Event",
        "Gate",
        "LeftOut",
        "Node",
        "NodeModel",
        "Plan",
        "PlannedLink",
        "PlannedNode",
        "PlannedSite",
        "PublishedRelease",
        "Release",
        "RolloutStatus",
    ),
    "fleetcast.fleets.tables": ("Table",),
    "fleetcast.hidden_modules": ("HiddenModule",),
    "fleetcast.mqtt_connection": (
        "BrokerUrl",
        "Connected",
        "Disconnected",
        "Link",
        "Message",
        "Published",
        "Subscribed",
        "TlsFiles",
        "Will",
    ),
    "schemas.analytics_messages": (
        "Alert",
        "Drift",
        "DriftEvidence",
        "MergedWindow",
    ),
    "schemas.block_request": ("Want",),
    "schemas.bundle": (
        "ModelBundle",
        "TrustBundle",
    ),
    "schemas.codec": (
        "decode",
        "encode",
    ),
    "schemas.errors": (
        "Code",
        "FleetcastError",
        "Refused",
        "Unreachable",
    ),
    "schemas.manifest": (
        "Index",
        "Manifest",
    ),
    "schemas.receipt": (
        "Receipt",
        "SealedReceipt",
    ),
    "schemas.rollout": ("Rollout",),
    "schemas.state": ("State",),
    "schemas.topics": ("Topics",),
    "schemas.window": ("Window",),
}
_PLACE_OF = {name: module for module, names in _PLACES.items() for name in names}

if not TYPE_CHECKING:  # with this in sight, a type checker would believe that every name exists

    def __getattr__(name: str) -> object:
        """Import what a program asks for, and remember it."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415

            found = version("fleetcast")
        elif name in _PLACE_OF:
            from importlib import import_module  # noqa: PLC0415

            import_module("fleetcast.hidden_modules").check_not_hidden("schemas")
            found = getattr(import_module(_PLACE_OF[name]), name)
        else:
            raise AttributeError(f"module 'fleetcast' has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """Return the names that a program may use, imported or not."""
    return sorted({*globals(), *__all__})
