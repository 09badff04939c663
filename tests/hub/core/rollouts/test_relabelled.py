"""Nodes whose labels have changed since a rollout reached them: each belongs to where it now is."""

from dataclasses import replace

from hub.core.rollouts import rollout as core
from hub.core.rollouts.commands import Start
from hub.core.rollouts.deployments import Model, begun
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.rollout import Facts, Progress
from hub.core.rollouts.tally import NodeReport, Tally, decided
from schemas.deployments import Moved, Run, deciding, wish
from schemas.names import sha256
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts

OLD, CANARY = ReleaseRef("1.1.0", sha256(b"old")), ReleaseRef("1.2.0", sha256(b"canary"))
RING = {"ring": "canary"}


def with_rollout(known: Model, release: ReleaseRef, labels: dict[str, str], state: str = "done") -> tuple[Model, Progress]:
    start = Start(version=release.version, labels=labels, force=True)
    progress = begun(known, start, release, nodes=[], rollout=sha256(release.digest)[:16], now=0)
    progress = replace(progress, deployment=progress.deployment.model_copy(update={"state": state}))
    return known.with_rollout(progress), progress


def taken_back() -> tuple[Model, Progress]:
    """1.1.0 came to all, then 1.2.0 to the canaries, which was taken back."""
    known, progress = with_rollout(with_rollout(Model("delay"), OLD, {})[0], CANARY, RING)
    back = core.roll_back(progress)
    return known.with_rollout(back), back


def target(known: Model, ring: str, serving: ReleaseRef | None, moved: Moved | None = None) -> ReleaseRef | None:
    facts = NodeFacts("a2", {"ring": ring})
    found = wish(deciding(known.deployments, facts), facts, serving=serving.digest if serving else None, moved=moved, now=0)
    return found.release if isinstance(found, Run) else None


def test_a_node_that_serves_what_was_taken_back_goes_back_whatever_its_labels() -> None:
    known, _ = taken_back()

    assert target(known, "main", CANARY) == OLD
    assert target(known, "canary", CANARY) == OLD


def test_a_node_that_leaves_its_group_takes_the_release_of_the_next_one() -> None:
    for state in ("running", "halted", "done"):
        known, progress = with_rollout(with_rollout(Model("delay"), OLD, {})[0], CANARY, RING, state)
        memory = Moved(rollout=progress.deployment.rollout, before=OLD)
        assert target(known, "main", CANARY, memory) == OLD


def test_a_relabelled_node_for_which_nobody_decides_keeps_what_it_has() -> None:
    only_canaries, _ = with_rollout(Model("delay"), CANARY, RING)

    assert target(only_canaries, "main", CANARY) is None


def tally(known: Model, progress: Progress, *nodes: NodeReport) -> Tally:
    mine = decided(known.deployments, nodes)[progress.name]
    return core.step(progress, Facts(mine), now=1, listened=Listened(1.0))[0].tally


def node(name: str, ring: str, *, serving: bool) -> NodeReport:
    return NodeReport(name, {"ring": ring}, heard=True, serving=serving)


def test_only_nodes_for_which_a_deployment_decides_are_counted_for_it() -> None:
    known, back = taken_back()
    canary, gone = node("a1", "canary", serving=True), node("a2", "main", serving=True)

    assert tally(known, back, canary, gone) == Tally(addressed=1, heard=1, serving=1)
    assert tally(known, back, node("a1", "canary", serving=False), gone) == Tally(addressed=1, heard=1)
