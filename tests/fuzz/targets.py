"""Every decoder of what strangers send."""

from tests.fuzz import fleet, hub_side, node_side, other_side, web_side, wire
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    one.name: one for one in (*wire.TARGETS, *fleet.TARGETS, *node_side.TARGETS, *hub_side.TARGETS, *web_side.TARGETS, *other_side.TARGETS)
}
