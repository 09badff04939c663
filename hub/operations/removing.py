"""Remove releases and models for good: what speaks against it, what stops, and the blocks that nobody needs any more."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetcast.counted import counted, verb
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.operations.release_rows import manifests, needed_as, nodes_serving, present_deployments
from hub.publish.block_store import BlockStore
from hub.publish.release_blocks import Payloads, free, own
from schemas import codec
from schemas.deployments import Deployment
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256, version_key


@dataclass(frozen=True, slots=True)
class Removal:
    """Hold what is to be removed. `is_left`: an earlier removal was cut off after it was signed, and blocks are left to free."""

    model: str
    version: str | None  # None for the whole model.
    leaving: Mapping[bytes, Manifest]
    nodes_serving: int
    is_left: bool
    needed: str  # Why it may be removed by force alone; empty where nothing speaks against it.

    @property
    def name(self) -> str:
        """Return what it is called."""
        return f"model {self.model}" if self.version is None else f"{self.model}@{self.version}"

    @property
    def question(self) -> str:
        """Return what an operator is asked before."""
        count = self.nodes_serving
        serve = f" {counted(count, 'node')} {verb(count, 'serve')} it," if count else ""
        if self.version is None:
            return f"Remove model {self.model} and all its releases for good?{serve + ' and will stop.' if serve else ''}"
        until = f" until a rollout moves {'it' if count == 1 else 'them'}."
        return f"Remove {self.name} for good?{serve + until if serve else ''}"

    def check(self, *, force: bool) -> None:
        """Check that no node is meant to serve it.

        Raises:
            Refused: RELEASE_NEEDED, with the mend.
        """
        if self.needed and not force and not (self.is_left and self.version is None):
            raise Refused(Code.RELEASE_NEEDED, self.needed)


def of_release(fleet: OpenedFleet, model: str, version: str) -> Removal:
    """Return the removal of a release.

    Raises:
        Refused: RELEASE_UNKNOWN.
    """
    repository = fleet.repository
    check_model(repository, model)
    is_left = (model, version) in repository.removed()
    document = repository.kept_manifest(model, version) if is_left else repository.manifest(model, version)
    digest = sha256(document)
    needed = _needed(present_deployments(repository, model), model, version, digest)
    return Removal(model, version, {digest: codec.decode(Manifest, document)}, nodes_serving(fleet.store)[digest], is_left, needed)


def of_model(fleet: OpenedFleet, model: str) -> Removal:
    """Return the removal of a model with all its releases.

    Raises:
        Refused: RELEASE_UNKNOWN.
    """
    repository = fleet.repository
    is_left = model in repository.removed_models()
    if not is_left:
        check_model(repository, model)
    documents = [repository.kept_manifest(*name) for name in repository.removed() if name[0] == model]
    gone = {sha256(one): codec.decode(Manifest, one) for one in documents}
    leaving = {**gone, **{digest: one for digest, one in manifests(repository).items() if one.model == model}}
    counts = nodes_serving(fleet.store)
    serving = sum(counts[digest] for digest in leaving)
    return Removal(model, None, leaving, serving, is_left, _rolled_out(present_deployments(repository, model), model, serving))


def remove(fleet: OpenedFleet, asked: Removal, *, sign: Callable[[], None]) -> int:
    """Remove it, `sign` being what takes it out of the signed metadata, and return how many bytes that has freed."""
    blocks = fleet.blocks
    with blocks.removing():
        staying = {digest: one for digest, one in manifests(fleet.repository).items() if digest not in asked.leaving}
        mine = _own(list(asked.leaving.values()), staying, blocks)
        if not asked.is_left:
            sign()
        freed = free(blocks, mine)
    fleet.store.add_event("release", f"{asked.name} was removed", _body(asked))
    return freed


def _body(asked: Removal) -> dict[str, Any]:
    versions = sorted((one.version for one in asked.leaving.values()), key=version_key)
    named = {"version": asked.version} if asked.version is not None else {}
    return {"model": asked.model, **named, "before": {"releases": versions}, "after": None}


def _own(leaving: Sequence[Manifest], staying: Mapping[bytes, Manifest], store: BlockStore) -> Payloads:
    """Return the payloads that only these releases need.

    Raises:
        Refused: the block list of a release that stays is lost, so nobody can say what it needs.
    """
    parts = [Payloads.left_of(manifest, store) for manifest in leaving]
    together = Payloads(frozenset().union(*(one.files for one in parts)), frozenset().union(*(one.lists for one in parts)))
    return own(together, [Payloads.of(manifest, store) for manifest in staying.values()])


def _needed(deployments: Sequence[Deployment], model: str, version: str, digest: bytes) -> str:
    """Return that a node may be sent to this release: with what the rollout names it as, and the mend."""
    found = needed_as(deployments).get(digest)
    if found is None:
        return ""
    what, named_by = found
    if what == "fallback":
        reason = f"nodes go back to it if the rollout of {named_by.release.version} is taken back"
        mend = "let that one be done, and start a rollout of another release to all nodes"
    elif named_by.state == "done":
        reason = "nodes serve it by the model's rollout"
        mend = "roll out another release to all nodes, and then a second one, for until then nodes may go back to this one"
    else:
        reason, mend = f"the model's rollout, which is {named_by.state}, is of this release", "start a rollout of another release"
    return f"{model}@{version} is needed: {reason}. First {mend}; or add --force"


def _rolled_out(deployments: Sequence[Deployment], model: str, serving: int) -> str:
    """Return that nodes are meant to serve a model, with what would stop."""
    if not deployments:
        return ""
    named = " and ".join(f"{one.release.version} ({one.state})" for one in deployments)
    reason = f"model {model} has a rollout of {named}, and {counted(serving, 'node')} {verb(serving, 'serve')} it"
    return f"{reason}: with --force it is removed, and they stop serving it"
