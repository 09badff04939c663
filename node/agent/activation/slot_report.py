"""Describe a slot as the node's state has it: what it serves, what is on its way, and how many bytes that took."""

import structlog

from node.agent.activation.manifests import Manifests
from node.agent.activation.parameters import Parameters
from node.core.activation.lifecycle import ModelSlot
from node.storage.store import NodeStore
from schemas.errors import Code, Refused
from schemas.state import Slot

log = structlog.get_logger()


def slot_report(slot: ModelSlot, store: NodeStore, manifests: Manifests, parameters: Parameters, *, is_damaged: bool) -> Slot:
    """Return the report. `is_damaged`: files of what is served are damaged on this disk."""
    usage = store.usage_of(slot.target.digest if slot.target else b"")
    variant, in_force = None, None
    if slot.serving is not None:
        try:
            manifest = manifests.get(slot.serving.digest)
            variant = manifests.variant_here(slot.serving.digest).name
            in_force = parameters.settings_of(slot.serving.digest, manifest) or None
        except Refused as refusal:  # the disk was changed under us: what is loaded still answers
            log.error("manifest.lost", model=slot.model, code=refusal.code, reason=refusal.reason)
    return Slot(
        model=slot.model,
        state=slot.state,
        serving=slot.serving.digest if slot.serving else None,
        serving_version=slot.serving.version if slot.serving else None,
        target=slot.target.digest if slot.target else None,
        target_version=slot.target.version if slot.target else None,
        last_good=slot.last_good.digest if slot.last_good else None,
        code=Code.DISK_DAMAGED if is_damaged else slot.code,
        bytes_planned=usage.planned,
        bytes_received=usage.received,
        bytes_reused=usage.reused,
        bytes_wasted=usage.wasted,
        variant=variant,
        parameters=in_force,
    )
