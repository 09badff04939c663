"""Folds what nodes report into what the fleet is. Only receipts prove what a node serves; states say which nodes are there, doing what.

Knows neither signatures (hub/signing/device_signatures.py) nor the database. The first state of a node pins its device's key, for the
broker lets nobody else write to a node's topics; another key later is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hub.core.rollouts import refusals
from hub.core.rollouts.listening import NEVER, Listened
from hub.core.rollouts.rollout import NodeFacts
from schemas.errors import Code, Refused
from schemas.names import RESERVED_NODES
from schemas.receipt import Receipt
from schemas.rollout import ReleaseRef
from schemas.state import State

# A node that is connected says so every 300 s unless set otherwise, and the broker speaks for it when it dies; a broker that was killed
# does not. So "online" is believed over three missed reports, even where a rollout calls others silent sooner. In time of listening.
ONLINE_SECONDS = 900
SESSION_PLAUSIBLE_MAX = 2**40  # Sessions count connections, from 1 or from seconds since 1970: nothing that is true comes near.
Status = Literal["online", "disconnected", "lost"]


@dataclass(frozen=True, slots=True)
class Serving:
    """What a node has signed that it serves."""

    version: str
    digest: bytes
    since: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a node did not take a release, or went back from it; `received_at` by the hub's clock."""

    outcome: Literal["refused", "rolled_back"]
    code: str
    received_at: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node; `state` is the last that it reported itself. `last_seen` is by the hub's wall clock, for people; `heard_at` decides."""

    state: State
    status: Status
    session: int
    last_seen: int
    public_key: bytes
    serving: Mapping[str, Serving] = field(default_factory=dict)  # by model
    failures: Mapping[tuple[str, bytes], Failure] = field(default_factory=dict)  # by model and release
    newest: Mapping[str, int] = field(default_factory=dict)  # sequence of the last receipt folded, by model
    heard_at: Listened = NEVER
    refused: Mapping[str, refusals.Reported] = field(default_factory=dict)  # Documents that receipts say it refused, by model.

    @property
    def name(self) -> str:
        """Return its id."""
        return self.state.node

    @property
    def labels(self) -> Mapping[str, str]:
        """Return what rollouts select it by."""
        return self.state.profile.labels if self.state.profile else {}


def fold_state(known: Node | None, state: State, *, now: int, listened: Listened, old: bool = False) -> Node | None:
    """Return the node after this state; None when it changes nothing.

    `old`: the broker repeats what was reported at an unknown time before, or kept it for us, so that the node's own word counts for when.

    Raises:
        Refused: NAME_INVALID for a reserved name, RECEIPT_KEY_CHANGED for another key than the one that is pinned.
    """
    if state.node in RESERVED_NODES:
        raise Refused(Code.NAME_INVALID, f"node id {state.node!r} is reserved for {state.node} itself")
    seen = min(now, state.at) if old else now
    heard_at = Listened(listened - (now - seen))
    if known is None:
        if state.status == "lost":
            return None  # a Will says nothing but a name
        return Node(state, state.status, state.session, seen, state.public_key, heard_at=heard_at)
    if state.session < known.session <= SESSION_PLAUSIBLE_MAX and (old or state.status == "lost"):
        return None  # a Will, or a state that a newer connection has overtaken
    # A node that speaks just now is there, whatever its session: a broker keeps the order of a topic, so that a lower one is of a node
    # that has lost its store or was put back, or the higher one was absurd.
    if state.status == "lost":
        if known.status == "lost" or (known.status == "disconnected" and state.session == known.session):
            return None
        # The broker speaks, not the node: it was not seen. A Will proves no session, so that it shuts no later one out.
        return replace(known, status="lost")
    if known.public_key and state.public_key and state.public_key != known.public_key:
        reason = f"node {state.node!r} came back with another device key than the one that it had at first"
        raise Refused(Code.RECEIPT_KEY_CHANGED, reason)
    return replace(
        known,
        state=state,
        status=state.status,
        session=state.session,
        last_seen=max(known.last_seen, seen),
        public_key=known.public_key or state.public_key,
        serving=_still_served(known, state),
        refused=_still_refused(known, state),
        heard_at=max(known.heard_at, heard_at),
    )


def _still_served(known: Node, state: State) -> Mapping[str, Serving]:
    """Return what a node serves by its receipts, without what it has said that it serves, and says no more.

    A node that has lost its data serves nothing, and signs no receipt of that.
    """
    before, now = ({slot.model: slot.serving for slot in one.slots} for one in (known.state, state))
    gone = {
        model
        for model, one in known.serving.items()
        if before.get(model) == one.digest and now.get(model) != one.digest and state.at > one.since
    }
    return {model: one for model, one in known.serving.items() if model not in gone} if gone else known.serving


def _still_refused(known: Node, state: State) -> Mapping[str, refusals.Reported]:
    """Return the refusals without that of the trust bundle, if trust has advanced since."""
    if state.timestamp_version <= known.state.timestamp_version:
        return known.refused
    return {model: one for model, one in known.refused.items() if model}


def fold_receipt(node: Node, receipt: Receipt, *, received_at: int, heard_at: Listened | None = None, is_new: bool = False) -> Node:
    """Return the node after a verified receipt; receipts that come twice or late change nothing that a newer one has reported.

    `is_new`: it has never come before. A broker keeps the order of a topic, so that it is newer than all that came, also where its number
    is lower: then the node has lost its store, and counts anew.
    `heard_at`: when it was heard just now; None when it is an old one, from the database or kept by the broker for us.
    """
    node = replace(node, last_seen=max(node.last_seen, received_at))
    if heard_at is not None:
        node = replace(node, heard_at=max(node.heard_at, heard_at))
    model, digest = receipt.model, receipt.digest
    node = replace(node, refused=refusals.fold(node.refused, receipt))
    if model is None or digest is None or (receipt.sequence <= node.newest.get(model, 0) and not is_new):
        return node
    serving, failures = dict(node.serving), dict(node.failures)
    if receipt.outcome == "serving":
        serving[model] = Serving(receipt.version or "", digest, receipt.since or receipt.at)
        failures.pop((model, digest), None)
    else:
        failures[model, digest] = Failure(receipt.outcome, receipt.code, received_at)
        if receipt.outcome == "rolled_back" and model in serving and serving[model].digest == digest:
            del serving[model]  # until it signs what it serves instead
    return replace(node, serving=serving, failures=failures, newest={**node.newest, model: receipt.sequence})


def heard(node: Node, *, listened: Listened, silent_seconds: int) -> bool:
    """Return whether a node counts as heard from, given how long the hub has listened in all."""
    patience = max(silent_seconds, ONLINE_SECONDS) if node.status == "online" else silent_seconds
    return listened - node.heard_at < patience


def facts(node: Node, *, model: str, release: ReleaseRef, begun: int, listened: Listened, silent_seconds: int) -> NodeFacts:
    """Return what a rollout's gate wants to know of a node. A document that it refuses counts as a failure from the rollout's beginning."""
    serving, failure = node.serving.get(model), node.failures.get((model, release.digest))
    refused = any(refusals.standing_against(refusals.findings_of(node.state, node.refused), model=model, version=release.version))
    times = [*([failure.received_at] if failure else []), *([begun] if refused else [])]
    return NodeFacts(
        node=node.name,
        labels=node.labels,
        heard=heard(node, listened=listened, silent_seconds=silent_seconds),
        serving=serving is not None and serving.digest == release.digest,
        failed_at=max(times, default=None),
    )
