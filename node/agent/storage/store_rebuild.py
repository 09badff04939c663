"""Take up what a node served after its store was lost: from the releases on its disk, the links to what was served, and trusted metadata.

The disk is trusted as the store was: a user who can write there owns the device. Each release that is taken up is
verified file by file against its manifest, and that against its digest. What was not on the disk is asked for again of the hub.
"""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import structlog

from node.agent.activation.manifests import Manifests
from node.agent.telemetry.accuracy import OTHER_TIMES, RUNS_SINCE
from node.agent.telemetry.privacy_accountant import ENTRIES_MIN, LOST
from node.core.activation.lifecycle import ModelSlot, Target
from node.core.doctor.agent_health import AgentStatus
from node.core.trust.clock import BUILD_TIME
from node.host.pidfile import read_status
from node.settings import NodeSettings
from node.storage.artifacts import Artifacts
from node.storage.rows import StoredBlock
from node.storage.store import NodeStore
from node.trust.tuf_client import Trust, View
from schemas.deployments import Deployment, Deployments, Moved, attempt_id, deciding
from schemas.earlier_rollouts import as_deployments
from schemas.errors import Code, Refused
from schemas.manifest import Block, File, blocks_of
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts
from schemas.state import Slot

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Traces:
    """Hold what the disk knows beside the store.

    `status` is the last one that an agent left here; `deciding` are the verified deployments that decide for this node, by model.
    """

    status: AgentStatus | None
    deciding: Mapping[str, Deployment]
    has_witness: bool

    @classmethod
    def of(cls, settings: NodeSettings, trust: Trust) -> Self:
        """Look for them."""
        facts = NodeFacts(settings.id, settings.labels, platform.machine())
        statements = {**_earlier(trust.current()), **trust.deployments()}
        decides = {model: deciding(one.deployments, facts) for model, one in statements.items()}
        found = {model: one for model, one in decides.items() if one is not None}
        return cls(read_status(settings.data), found, settings.witness.exists())


def _earlier(view: View | None) -> dict[str, Deployments]:
    """Return what a hub before deployments has said."""
    return {model: as_deployments(rollout, expires=0) for model, rollout in view.rollouts.items()} if view is not None else {}


def contradiction_of(slots: Mapping[str, ModelSlot], artifacts: Artifacts) -> str:
    """Return where a store names a served release that is not on this disk, while what was served is: a digit of its digest has changed."""
    on_disk, served = set(artifacts.releases()), artifacts.pointed()
    for model, slot in slots.items():
        link = served.get(model)
        if slot.serving is not None and slot.serving.digest not in on_disk and link is not None and link in on_disk:
            return f"it says that {slot.serving.digest.hex()[:12]} is served for {model}, and only {link.hex()[:12]} is here"
    return ""


def rebuild(store: NodeStore, artifacts: Artifacts, manifests: Manifests, traces: Traces, *, now: int) -> None:
    """Fill a new store. On a device that has never run, nothing is there to take up."""
    # Counters that the hub compares begin above all that an earlier store of this device may have used, although all of it may be gone:
    # they count one by one, and never one a second for years.
    begin = max(now, BUILD_TIME, traces.status.session if traces.status is not None else 0)
    for counter in ("session", "receipt"):
        store.raise_fact(counter, begin)
    releases = artifacts.releases()
    if not (releases or traces.status or traces.has_witness):
        return
    served = artifacts.pointed()
    reported = {slot.model: slot for slot in traces.status.slots} if traces.status is not None else {}
    models = sorted(served.keys() | reported.keys())
    slots = [_slot(model, served.get(model), reported.get(model), traces, manifests, artifacts, now) for model in models]
    found = [slot for slot in slots if slot is not None]
    entries = traces.status.telemetry.ledger_entries if traces.status is not None and traces.status.telemetry is not None else None
    with store.transaction():
        for slot in found:
            store.take_up_slot(slot)
            if (moved := _moved(slot, traces.deciding.get(slot.model))) is not None:
                store.put_moved(slot.model, moved)
        for digest in releases:
            store.add_blocks(_blocks_in(digest, manifests, artifacts))
        # What was spent and which intervals have left is not known any more: nothing of them leaves again
        # (node/agent/telemetry/privacy_accountant.py).
        store.set_fact(LOST, 1)
        store.raise_fact(ENTRIES_MIN, entries or 0)
        store.set_fact(RUNS_SINCE, 1)
        store.set_fact(OTHER_TIMES, 1)
    log.warning("store.rebuilt", models=sorted(slot.model for slot in found), releases=len(releases), damage=store.damage)


def _slot(
    model: str, served: bytes | None, reported: Slot | None, traces: Traces, manifests: Manifests, artifacts: Artifacts, now: int
) -> ModelSlot | None:
    decides = traces.deciding.get(model)

    def whole(digest: bytes | None) -> Target | None:
        return None if digest is None else _target(model, digest, decides, manifests, artifacts)

    serving = whole(served) or whole(reported.serving if reported is not None else None)
    if serving is None:
        return None  # a rollout wants it here again, or does not
    on_probation = reported is not None and reported.serving == serving.digest and reported.state == "probation"
    fallback = decides.fallback.digest if decides is not None and decides.fallback is not None else None
    others = [reported.last_good if reported is not None else None, fallback]
    good = next((one for one in map(whole, others) if one is not None and one.digest != serving.digest), None)
    return ModelSlot(
        model=model,
        state="probation" if on_probation else "active",
        target=serving,
        serving=serving,
        last_good=good,
        since=now,
        serving_since=now,
        proven=not on_probation,
        last_good_proven=good is not None,
    )


def _moved(slot: ModelSlot, decides: Deployment | None) -> Moved | None:
    """Return what the node served before the rollout that has moved it: most likely its last good release, which is still here."""
    if decides is None or slot.serving is None or slot.last_good is None or slot.serving.digest != decides.release.digest:
        return None
    return Moved(rollout=decides.rollout, before=ReleaseRef(slot.last_good.version, slot.last_good.digest))


def _target(model: str, digest: bytes, decides: Deployment | None, manifests: Manifests, artifacts: Artifacts) -> Target | None:
    """Return the release, if every file of it is here as its manifest says."""
    try:
        manifest = manifests.get(digest)
        variant = manifests.variant_here(digest)
        for file in manifest.files_of(variant.name):
            artifacts.verify(artifacts.relative(digest, variant.name, file), file)
    except (Refused, OSError) as error:
        log.warning("release.not_taken_up", model=model, release=digest.hex()[:12], reason=str(error))
        return None
    if manifest.model != model:
        return None
    rollout = attempt_id(decides) if decides is not None and decides.release.digest == digest else b""
    return Target(version=manifest.version, digest=digest, rollout=rollout)


def _blocks_in(digest: bytes, manifests: Manifests, artifacts: Artifacts) -> Iterator[StoredBlock]:
    """Yield where blocks of a release are to be; a user of one verifies it, and forgets it where it is not."""
    try:
        manifest = manifests.get(digest)
    except Refused:
        return
    for variant in manifest.variants:
        for file in manifest.files_of(variant.name):
            path = artifacts.relative(digest, variant.name, file)
            size = artifacts.size(path)
            offset = 0
            for block in _blocks(digest, file, artifacts) if size else ():
                if offset + block.bytes <= size:
                    yield StoredBlock(block.digest, path, offset, block.bytes)
                offset += block.bytes


def _blocks(digest: bytes, file: File, artifacts: Artifacts) -> tuple[Block, ...]:
    def read(part: Block) -> bytes:
        data = artifacts.holds(f"{digest.hex()}/index/{part.digest.hex()}", 0, part.digest, part.bytes)
        if data is None:
            raise Refused(Code.DISK_DAMAGED, f"the block list of {file.path} is not here")
        return data

    try:
        return blocks_of(file, read)
    except Refused:
        return ()
