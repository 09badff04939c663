"""Define the life of one model slot on a node as a table: its states, its events, and the moves between states. Decides nothing.

`node.core.activation.lifecycle` moves slots by it, `docs/protocol.md` is drawn from it, and readers of a node's state look here for its
meaning.
"""

from typing import Final, Literal

from schemas.state import SlotState

EventName = Literal[
    "wanted",
    "fetched",
    "begun",
    "prepared",
    "compared",
    "agreed",
    "settled",
    "damaged",
    "failed",
    "reverted",
    "withdrawn",
    "dropped",
    "stopped",
    "interrupted",
    "stalled",
    "budget_spent",
    "goes_on",
]

STATES: Final[dict[SlotState, str]] = {
    "idle": "the node has no release of this model, and no rollout wants one",
    "fetching": "blocks are being fetched; with a code, the transfer waits for the reason that the code names",
    "out_of_budget": "a byte budget is spent: the transfer waits until it allows more",
    "staged": "every file is on disk and verified; with a code, the release waits for the reason that the code names",
    "testing": "a worker loads the release and tests it on this device",
    "shadow": "the old release answers; the new one answers the same requests, and only their agreement is counted",
    "probation": "the new release answers; errors, latency, a crash or disagreement bring the old one back",
    "active": "the release is served, and its probation is over",
    "refused": "the node refused the release, and the code says why; the earlier release is still served",
    "rolled_back": "the release was replaced by the last good one, if there was one",
}

EVENTS: Final[dict[EventName, str]] = {
    "wanted": "a rollout wants a release on this node",
    "fetched": "the last block is on disk, and every file was verified",
    "begun": "a worker is being started",
    "prepared": "the release passed its test, and requests switch to it",
    "compared": "the release passed its test, and is compared with the one that is served before requests switch to it",
    "agreed": "the comparison is over: the two agree, or there were too few requests to find a difference",
    "settled": "the release was served long enough without fault: its probation is over",
    "damaged": "its files are damaged on the device's disk, which is no fault of the release: they are fetched again",
    "failed": "the release is at fault; the code says how",
    "reverted": "the served release is at fault while another is being prepared: the last good one replaces it",
    "withdrawn": "the rollout wants the release that is served already, or no longer moves this node",
    "dropped": "the rollout no longer moves this node, and no release was served before",
    "stopped": "the first release of the model was taken back, so that nothing of it is served any more",
    "interrupted": "the node's process was restarted: work that was only in memory begins again",
    "stalled": "it waits: the disk is full, blocks do not arrive, or the rollout activates releases at another time of the week",
    "budget_spent": "the transfer waits for a byte budget",
    "goes_on": "the transfer continues",
}
_SERVES_NOTHING: Final[SlotState] = "idle"

MOVES: Final[dict[tuple[SlotState, EventName], SlotState]] = {
    **{(state, "stopped"): _SERVES_NOTHING for state in STATES if state != _SERVES_NOTHING},
    ("idle", "wanted"): "fetching",
    ("fetching", "wanted"): "fetching",  # A newer release cancels the older transfer.
    ("fetching", "fetched"): "staged",
    ("fetching", "failed"): "refused",
    ("fetching", "withdrawn"): "active",  # The slot returns to the release that is served.
    ("fetching", "dropped"): "idle",
    ("fetching", "stalled"): "fetching",
    ("fetching", "budget_spent"): "out_of_budget",
    ("fetching", "goes_on"): "fetching",
    ("fetching", "settled"): "fetching",  # A newer release was wanted before the served one had settled.
    ("fetching", "reverted"): "fetching",
    ("out_of_budget", "wanted"): "fetching",
    ("out_of_budget", "fetched"): "staged",  # The missing blocks were carried here in a file.
    ("out_of_budget", "failed"): "refused",
    ("out_of_budget", "withdrawn"): "active",
    ("out_of_budget", "dropped"): "idle",
    ("out_of_budget", "stalled"): "fetching",
    ("out_of_budget", "budget_spent"): "out_of_budget",  # Another rule stops it now.
    ("out_of_budget", "goes_on"): "fetching",
    ("out_of_budget", "settled"): "out_of_budget",
    ("out_of_budget", "reverted"): "out_of_budget",
    ("staged", "begun"): "testing",
    ("staged", "stalled"): "staged",  # It waits for the time of the week in which it may be activated.
    ("staged", "wanted"): "fetching",
    ("staged", "damaged"): "fetching",
    ("staged", "failed"): "refused",
    ("staged", "withdrawn"): "active",
    ("staged", "dropped"): "idle",
    ("staged", "settled"): "staged",
    ("staged", "reverted"): "staged",
    ("testing", "prepared"): "probation",
    ("testing", "compared"): "shadow",
    ("testing", "wanted"): "fetching",
    ("testing", "damaged"): "fetching",
    ("testing", "failed"): "refused",
    ("testing", "withdrawn"): "active",
    ("testing", "dropped"): "idle",
    ("testing", "interrupted"): "staged",
    ("testing", "settled"): "testing",
    ("testing", "reverted"): "testing",
    ("shadow", "agreed"): "probation",
    ("shadow", "wanted"): "fetching",
    ("shadow", "damaged"): "fetching",
    ("shadow", "failed"): "refused",
    ("shadow", "withdrawn"): "active",
    ("shadow", "dropped"): "idle",  # The served release had to be given up meanwhile.
    ("shadow", "interrupted"): "staged",
    ("shadow", "settled"): "shadow",
    ("shadow", "reverted"): "staged",  # The release that it was compared with is gone.
    ("probation", "settled"): "active",
    ("probation", "wanted"): "fetching",
    ("probation", "failed"): "rolled_back",
    ("active", "wanted"): "fetching",
    ("active", "failed"): "rolled_back",
    ("active", "settled"): "active",  # The release that was wanted instead was withdrawn before.
    ("refused", "wanted"): "fetching",
    ("refused", "settled"): "refused",
    ("refused", "reverted"): "refused",
    ("rolled_back", "wanted"): "fetching",
    ("rolled_back", "settled"): "rolled_back",
    ("rolled_back", "reverted"): "rolled_back",
}
