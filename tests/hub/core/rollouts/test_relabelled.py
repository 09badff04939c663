"""Going back, for nodes whose labels have changed since the rollout reached them."""

from dataclasses import replace

from hub.core.rollouts import rollout as core
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.rollout import Facts, NodeFacts, Progress, Start, Tally
from schemas.names import sha256
from schemas.rollout import ReleaseRef, wanted

OLD, CANARY = ReleaseRef("1.1.0", sha256(b"old")), ReleaseRef("1.2.0", sha256(b"canary"))
RING = {"ring": "canary"}


def begun(release: ReleaseRef, labels: dict[str, str], before: Progress | None, state: str = "done") -> Progress:
    wish = Start(version=release.version, labels=labels, force=True)
    progress = core.begin("delay", wish, release, before=before.rollout if before else None, nodes=[], salts=[bytes(16)], now=0)
    return replace(progress, rollout=progress.rollout.model_copy(update={"state": state}))


def taken_back(before: Progress | None = None) -> Progress:
    """1.1.0 came to all, then 1.2.0 to the canaries, which was taken back."""
    return core.roll_back(begun(CANARY, RING, before or begun(OLD, {}, None)))


def target(progress: Progress, ring: str, serving: ReleaseRef | None) -> ReleaseRef | None:
    return wanted(progress.rollout, node="a2", labels={"ring": ring}, serving=serving.digest if serving else None)


def test_a_node_that_serves_what_was_taken_back_goes_back_whatever_its_labels() -> None:
    assert target(taken_back(), "main", CANARY) == OLD
    assert target(taken_back(), "canary", CANARY) == OLD


def test_other_nodes_without_the_labels_are_left_alone_by_going_back() -> None:
    for serving in (OLD, None, ReleaseRef("1.0.0", sha256(b"any other"))):
        assert target(taken_back(), "main", serving) is None


def test_a_relabelled_node_stays_where_it_is_while_nothing_is_taken_back() -> None:
    done = begun(CANARY, RING, begun(OLD, {}, None))
    for progress in (done, core.halt(begun(CANARY, RING, None, "running")), begun(CANARY, RING, None, "running")):
        assert target(progress, "main", CANARY) is None


def test_a_relabelled_node_without_a_fallback_keeps_what_it_has() -> None:
    only_canaries = taken_back(begun(OLD, RING, None))

    assert target(only_canaries, "main", CANARY) is None
    assert target(only_canaries, "canary", CANARY) == OLD


def tally(progress: Progress, *nodes: NodeFacts) -> Tally:
    return core.step(progress, Facts(nodes), now=1, listened=Listened(1.0))[0].tally


def node(name: str, ring: str, *, serving: bool) -> NodeFacts:
    return NodeFacts(name, {"ring": ring}, heard=True, serving=serving)


def test_the_hub_counts_a_relabelled_node_until_it_has_left_the_release() -> None:
    canary, other = node("a1", "canary", serving=False), node("b1", "main", serving=False)

    assert tally(taken_back(), canary, node("a2", "main", serving=True), other) == Tally(addressed=2, heard=2, serving=1)
    assert tally(taken_back(), canary, node("a2", "main", serving=False), other) == Tally(addressed=1, heard=1)


def test_a_node_whose_own_rollout_brought_it_the_same_release_is_not_counted() -> None:
    everywhere = taken_back(begun(CANARY, {"ring": "main"}, begun(OLD, {}, None)))

    assert target(everywhere, "main", CANARY) == CANARY
    assert tally(everywhere, node("b1", "main", serving=True)) == Tally()
