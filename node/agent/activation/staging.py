"""Describe releases on this disk to the server: what a worker loads, and what the release that served before took."""

from collections.abc import Mapping
from typing import Final

import structlog

from node.agent.activation.manifests import Manifests
from node.agent.activation.parameters import Parameters
from node.core.activation.lifecycle import ModelSlot, Target
from node.serving.activation import Staged, specs_of
from node.serving.former_release import FormerRelease
from node.serving.loaded_model import Coming
from node.serving.server import Server
from node.settings import NodeSettings
from node.storage.artifacts import Artifacts
from schemas.errors import Refused
from schemas.state import SlotState

log = structlog.get_logger()

COMING: Final[Mapping[SlotState, tuple[str, int]]] = {
    "fetching": ("is being fetched", 30),
    "out_of_budget": ("waits until its link may carry more", 300),
    "staged": ("is here, and waits until it may begin", 30),
    "testing": ("is being tested", 1),
    "shadow": ("is being compared", 1),
}  # what a release on its way waits for, and after how many seconds a program had better ask again


def staged(
    model: str,
    target: Target,
    *,
    manifests: Manifests,
    artifacts: Artifacts,
    settings: NodeSettings,
    parameters: Parameters,
    rollout: str = "",
) -> Staged:
    """Return what a worker needs to load a release.

    Raises:
        Refused: its manifest is gone from the disk, or no variant suits this device.
    """
    manifest, variant = manifests.get(target.digest), manifests.variant_here(target.digest)
    golden, place = manifest.golden_of(variant), artifacts.relative
    files = [(artifacts.path(place(target.digest, variant.name, file)), file) for file in manifest.files_of(variant.name)]
    return Staged(
        model=model,
        version=target.version,
        digest=target.digest,
        manifest=manifest,
        model_path=artifacts.path(place(target.digest, variant.name, variant.files[0])),
        golden_path=artifacts.path(place(target.digest, variant.name, golden.file)) if golden else None,
        threads=settings.threads,
        runtime=variant.runtime,
        variant=variant.name,
        providers=variant.requirements.providers,
        parameters=parameters.effective_parameters(target.digest, manifest),
        isolation=settings.isolation,
        cores=settings.cores,
        check=lambda: artifacts.check(files),
        rollout=rollout,
    )


def former_release(slot: ModelSlot, manifests: Manifests, parameters: Parameters) -> FormerRelease | None:
    """Return what programs could ask before the release that is on probation; None where none served, or the one that serves is proven."""
    if slot.proven or slot.last_good is None:
        return None
    try:
        manifest = manifests.get(slot.last_good.digest)
    except Refused as refusal:
        log.warning("former_release.unknown", model=slot.model, code=refusal.code, reason=refusal.reason)
        return None
    fed = parameters.effective_parameters(slot.last_good.digest, manifest).inputs
    return FormerRelease(slot.last_good.digest, specs_of(manifest.inputs), specs_of(manifest.outputs), fed)


def expect(server: Server, slots: Mapping[str, ModelSlot]) -> None:
    """Have a server that is about to start answer for models whose releases this agent brings back, or has begun to bring."""
    for model, slot in slots.items():
        if slot.serving is not None:
            server.expect(model)
        server.announce_coming(model, coming(slot))


def coming(slot: ModelSlot) -> Coming | None:
    """Return what the first release of a model waits for; None where one serves already, or none is on its way."""
    if slot.serving is not None or slot.target is None or slot.state not in COMING:
        return None
    return Coming(slot.target.version, *COMING[slot.state])
