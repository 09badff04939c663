"""Describe releases on this disk to the server: what a worker loads, and what the release that served before took."""

import structlog

from node.agent.activation.manifests import Manifests
from node.agent.activation.parameters import Parameters
from node.core.activation.lifecycle import ModelSlot, Target
from node.serving.activation import Staged, specs_of
from node.serving.former_release import FormerRelease
from node.settings import NodeSettings
from node.storage.artifacts import Artifacts
from schemas.errors import Refused

log = structlog.get_logger()


def staged(
    model: str, target: Target, *, manifests: Manifests, artifacts: Artifacts, settings: NodeSettings, parameters: Parameters
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
