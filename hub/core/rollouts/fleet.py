"""Folds what nodes report into what the fleet is. Only receipts prove what a node serves; states say which nodes are there, doing what.

Knows neither signatures (hub/signing/device_signatures.py) nor the database. The first state of a node pins its device's key, for the
broker lets nobody else write to a node's topics; another key later is refused.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hub.core.rollouts import refusals
from hub.core.rollouts.listening import NEVER, Listened
from hub.core.rollouts.overtaken import reported_instead
from hub.core.rollouts.receipt_order import position
from hub.core.rollouts.tally import DEVICES_OWN, NodeReport, retries_of
from schemas.deployments import Deployment
from schemas.errors import Code, Refused
from schemas.names import RESERVED_NODES
from schemas.receipt import Receipt
from schemas.rollout import Gate, ReleaseRef
from schemas.selectors import NodeFacts
from schemas.state import REPORT_SECONDS, State

# A node that is connected says so every 300 s unless set otherwise, and the broker speaks for it when it dies; a broker that was killed
# does not. So "online" is believed over three missed reports, even where a rollout calls others silent sooner. In time of listening.
ONLINE_SECONDS = 900
SESSION_PLAUSIBLE_MAX = 2**40  # Sessions count connections, from 1 or from seconds since 1970: nothing that is true comes near.
QUIET_SHARE, QUIET_SECONDS = 1.5, 30.0  # A node is quiet after this many times what lies between its reports, and some seconds.
FAILURES_KEPT = 128  # Times of failures of one release on one node that are kept; a gate asks for at most 100 retries.
FAILED_RELEASES_KEPT = 64  # Releases of which failures on one node are kept, the newest: rollouts name two of a model.
MEASURED_KEPT = 4  # Releases of a model whose latency on a node is kept: it serves one, and has served few before it.
Status = Literal["online", "disconnected", "lost"]


@dataclass(frozen=True, slots=True)
class Serving:
    """Hold what a node has signed that it serves."""

    version: str
    digest: bytes
    since: int
    shadow: str | None = None  # What the comparison with the release before it has found.


@dataclass(frozen=True, slots=True)
class Failure:
    """Hold why a node did not take a release, or went back from it; `received_at` by the hub's clock."""

    outcome: Literal["refused", "rolled_back"]
    code: str
    received_at: int


@dataclass(frozen=True, slots=True)
class Node:
    """Hold what is known of one node; `state` is its own last report. `last_seen` is of the wall clock, for people; `heard_at` decides."""

    state: State
    status: Status
    session: int
    last_seen: int
    public_key: bytes
    serving: Mapping[str, Serving] = field(default_factory=dict)  # by model
    failures: Mapping[tuple[str, bytes], Failure] = field(default_factory=dict)  # by model and release
    newest: Mapping[str, int] = field(default_factory=dict)  # position of the newest receipt (receipt_order.py), by model
    heard_at: Listened = NEVER
    refused: Mapping[str, refusals.Reported] = field(default_factory=dict)  # Documents that receipts say it refused, by model.
    seen_apart: float = float(REPORT_SECONDS)  # What lies between its reports: as usual, or longer where that was seen.
    measured: Mapping[str, tuple[tuple[bytes, float], ...]] = field(default_factory=dict)  # latency by model and release, newest first
    failed_at: Mapping[tuple[str, bytes], tuple[int, ...]] = field(default_factory=dict)  # Every failure, also those mended since.
    other_key: bytes | None = None  # SHA-256 of another key, by which a device has spoken since the node was heard last.

    @property
    def name(self) -> str:
        """Return its id."""
        return self.state.node

    @property
    def report_seconds(self) -> float:
        """Return what lies between its reports: what it says itself, else what one connection of it has shown."""
        return float(self.state.report_seconds or self.seen_apart)

    @property
    def labels(self) -> Mapping[str, str]:
        """Return what rollouts select it by."""
        return self.state.profile.labels if self.state.profile else {}

    @property
    def arch(self) -> str:
        """Return its processor; empty before it has reported it."""
        return self.state.profile.arch if self.state.profile else ""

    @property
    def facts(self) -> NodeFacts:
        """Return what selectors ask of it."""
        return NodeFacts(self.name, self.labels, self.arch)


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
        refused=_still_refused(known, state),
        heard_at=max(known.heard_at, heard_at),
        other_key=None,
        seen_apart=_seen_apart(known, state, heard_at, old=old),
    )


def _still_refused(known: Node, state: State) -> Mapping[str, refusals.Reported]:
    """Return the refusals without that of the trust bundle, if trust has advanced since."""
    if state.timestamp_version <= known.state.timestamp_version:
        return known.refused
    return {model: one for model, one in known.refused.items() if model}


def _seen_apart(known: Node, state: State, heard_at: Listened, *, old: bool) -> float:
    """Return what lies between a node's reports, as one connection of it shows: nodes of the version before do not say it."""
    if old or state.session != known.session or known.heard_at == NEVER or {known.status, state.status} != {"online"}:
        return known.seen_apart
    return max(float(REPORT_SECONDS), heard_at - known.heard_at, known.seen_apart / 2)


def fold_receipt(node: Node, receipt: Receipt, *, received_at: int, heard_at: Listened | None = None, epoch: int = 0) -> Node:
    """Return the node after a verified receipt; receipts that come twice or late change nothing that a newer one has reported.

    `epoch` rises when the node counts anew, so that a lower number is newer (receipt_order.py).
    `heard_at`: when it was heard just now; None when it is an old one, from the database or kept by the broker for us.
    """
    node = replace(node, last_seen=max(node.last_seen, received_at))
    if heard_at is not None:
        node = replace(node, heard_at=max(node.heard_at, heard_at))
    model, digest = receipt.model, receipt.digest
    node = replace(node, refused=refusals.fold(node.refused, receipt))
    if model is None or digest is None or not is_newest(node, receipt, epoch=epoch):
        return node
    serving, failures = dict(node.serving), dict(node.failures)
    if receipt.outcome == "serving":
        evidence = receipt.evidence
        serving[model] = Serving(receipt.version or "", digest, receipt.since or receipt.at, evidence.shadow if evidence else None)
        failures.pop((model, digest), None)
        if evidence is not None and evidence.latency_ms:
            others = [one for one in node.measured.get(model, ()) if one[0] != digest]
            measured = {**node.measured, model: ((digest, evidence.latency_ms), *others)[:MEASURED_KEPT]}
            node = replace(node, measured=measured)
    else:
        failures[model, digest] = Failure(receipt.outcome, receipt.code, received_at)
        times = (*node.failed_at.get((model, digest), ()), received_at)[-FAILURES_KEPT:]
        failed_at = {key: one for key, one in node.failed_at.items() if key != (model, digest)} | {(model, digest): times}
        for old in list(failed_at)[:-FAILED_RELEASES_KEPT]:
            failures.pop(old, None)
            del failed_at[old]
        node = replace(node, failed_at=failed_at)
        if receipt.outcome == "rolled_back" and model in serving and serving[model].digest == digest:
            del serving[model]  # until it signs what it serves instead
    return replace(node, serving=serving, failures=failures, newest={**node.newest, model: position(epoch, receipt.sequence)})


def is_newest(node: Node, receipt: Receipt, *, epoch: int) -> bool:
    """Return whether a receipt is newer than all of its model that were folded."""
    return position(epoch, receipt.sequence) > node.newest.get(receipt.model or "", 0)


def without_receipts(node: Node) -> Node:
    """Return the node as if none of its receipts had been folded yet; the documents that it refuses stay."""
    return replace(node, serving={}, failures={}, newest={}, measured={}, failed_at={})


def lacks_receipts(node: Node) -> bool:
    """Return whether a node says of a release that it serves it, or could not, and no receipt has come that proves it."""
    for slot in node.state.slots:
        serving = node.serving.get(slot.model)
        if slot.serving is not None and (serving is None or serving.digest != slot.serving):
            return True
        if slot.target is not None and slot.state in ("refused", "rolled_back") and (slot.model, slot.target) not in node.failures:
            return True
    return False


def heard(node: Node, *, listened: Listened, silent_seconds: int) -> bool:
    """Return whether a node counts as heard from, given how long the hub has listened in all.

    A device that shows another key does not speak for it.
    """
    if node.other_key is not None:
        return False
    patience = max(silent_seconds, ONLINE_SECONDS) if node.status == "online" else silent_seconds
    return listened - node.heard_at < patience


def quiet(node: Node, *, listened: Listened) -> bool:
    """Return whether a node says nothing for longer than its reports are apart: what it serves is not known to be well at present."""
    return listened - node.heard_at > QUIET_SHARE * node.report_seconds + QUIET_SECONDS


def latency_ratio(node: Node, model: str, digest: bytes) -> float | None:
    """Return a release's latency over that of the release before it on this node; None where it has not measured both."""
    measured = node.measured.get(model, ())
    mine = next((latency for one, latency in measured if one == digest), None)
    before = next((latency for one, latency in measured if one != digest), None)
    return mine / before if mine is not None and before else None


def serves(node: Node, model: str) -> ReleaseRef | None:
    """Return the release of a model that a node has signed that it serves; as long as it has signed none, the one that it reports."""
    signed = node.serving.get(model)
    if signed is not None:
        return ReleaseRef(signed.version, signed.digest)
    found = (slot for slot in node.state.slots if slot.model == model and slot.serving and slot.serving_version)
    return next((ReleaseRef(one.serving_version, one.serving) for one in found if one.serving and one.serving_version), None)


def differs(node: Node, model: str) -> str:
    """Return the version that a node reports since its last receipt in place of the one that this proves; "" where they agree."""
    signed = node.serving.get(model)
    if signed is None:
        return ""
    slot = next((one for one in node.state.slots if one.model == model), None)
    return reported_instead(slot, digest=signed.digest, since=signed.since, at=node.state.at)


def serves_now(node: Node, model: str, digest: bytes) -> bool:
    """Return whether a node has signed that it serves a release, and has not reported since that it serves another."""
    signed = node.serving.get(model)
    return signed is not None and signed.digest == digest and not differs(node, model)


def counts_as_serving(node: Node, deployment: Deployment, *, model: str) -> bool:
    """Return whether a node serves a deployment's release. After going back, only a receipt proves that it has left it."""
    signed, digest = node.serving.get(model), deployment.release.digest
    if deployment.state == "rolled_back":
        return signed is not None and signed.digest == digest
    return serves_now(node, model, digest)


def held(nodes: Iterable[Node]) -> dict[str, list[bytes]]:
    """Return the releases that nodes serve or have kept, by model, the commonest first: each node must be able to go back to its own."""
    counts: dict[str, Counter[bytes]] = {}
    for node in nodes:
        mine = {(model, serving.digest) for model, serving in node.serving.items()}
        for slot in node.state.slots:
            mine |= {(slot.model, digest) for digest in (slot.serving, slot.last_good) if digest is not None}
        for model, digest in mine:
            counts.setdefault(model, Counter())[digest] += 1
    return {model: [digest for digest, _ in sorted(found.items(), key=lambda one: (-one[1], one[0]))] for model, found in counts.items()}


@dataclass(frozen=True, slots=True)
class Failing:
    """Hold a failure that counts, and how often the node has tried, that failure included."""

    failure: Failure
    tried: int


def failure_of(node: Node, deployment: Deployment, *, model: str, failed_from: int, tries_from: int) -> Failing | None:
    """Return the failure of a node that counts for the deployment which decides for it; None where none does.

    A failure counts if it came at `failed_from` or later: before, an operator has seen it, or another attempt has begun. A node that has
    failed more often since `tries_from` than the gate lets it try again by itself counts as failed until it serves the release. A document
    that it refuses counts from the rollout's beginning until an operator has seen it: another attempt does not mend it. After going back it
    is the fallback that a node can fail to take. Damage of the device's own disk is no failure of the release.
    """
    serving, release = node.serving.get(model), deployment.release
    if deployment.state == "rolled_back":
        if serving is not None or deployment.fallback is None:
            return None
        release = deployment.fallback
    failure, retries = node.failures.get((model, release.digest)), retries_of(deployment)
    tried = sum(at >= tries_from for at in node.failed_at.get((model, release.digest), ()))
    if failure is not None and failure.code not in DEVICES_OWN and (failure.received_at >= failed_from or 0 < retries < tried):
        return Failing(failure, max(1, tried))
    if deployment.started < tries_from or serves_now(node, model, release.digest):
        return None
    for one in refusals.standing_against(refusals.findings_of(node.state, node.refused), model=model, version=release.version):
        return Failing(Failure("refused", one.code, deployment.started), retries + 1)
    return None


def report(
    node: Node, deployment: Deployment, *, model: str, listened: Listened, failed_from: int = 0, tries_from: int | None = None
) -> NodeReport:
    """Return what a rollout's gate wants to know of a node for which the deployment decides; the times are those of `failure_of`."""
    serving, release, gate = node.serving.get(model), deployment.release, deployment.gate or Gate()
    since = failed_from if tries_from is None else tries_from
    failing = failure_of(node, deployment, model=model, failed_from=failed_from, tries_from=since)
    serves = counts_as_serving(node, deployment, model=model)
    return NodeReport(
        node=node.name,
        labels=node.labels,
        arch=node.arch,
        heard=heard(node, listened=listened, silent_seconds=gate.silent_seconds),
        serving=serves,
        serves_nothing=serving is None,
        failed_at=failing.failure.received_at if failing is not None else None,
        outcome=failing.failure.outcome if failing is not None else "refused",
        code=failing.failure.code if failing is not None else "",
        tried=failing.tried if failing is not None else 1,
        quiet=serves and quiet(node, listened=listened),
        latency_ratio=latency_ratio(node, model, release.digest) if serves else None,
        shadow=serving.shadow if serving is not None and serves else None,
    )
