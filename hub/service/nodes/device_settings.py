"""Sign what operators set of nodes, renew it before it expires, and keep it published on each node's own topic.

A turn does a bounded amount of it: there may be ten thousand nodes. What is signed is durable before it is published, and a command is
answered when all of its nodes are signed; after a crash in between it is done again, which changes nothing where it was done.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from securesystemslib.signer import Signer

from fleetcast.counted import counted
from hub.core.nodes import device_settings as core
from hub.core.nodes.device_settings import Chosen, SetNodeSettings
from hub.core.publish.metadata_expiry import is_ageing, life
from hub.core.rollouts import fleet
from hub.core.rollouts.commands import stale
from hub.core.rollouts.moves import movements
from hub.database.enrolments import Enrolments
from hub.database.node_commands import NodeCommand, NodeCommands
from hub.database.store import Store
from hub.service.rollouts.release_lookup import check_movements
from hub.signing import deployment_statements
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import Deployment, Envelope
from schemas.device_settings import DeviceSettings
from schemas.errors import Code, Refused, Unreachable
from schemas.selectors import NodeFacts, matches, parse
from schemas.state import State

log = structlog.get_logger()

WORK_SECONDS = 0.2  # The share of a turn for reading, and for signing, and for publishing.
AT_ONCE = 8  # Nodes between two looks at the clock.
TELL_SECONDS = 600.0  # Between two statements to one name that its key does not count: two devices may speak in turn.
LOOK_SECONDS = 10.0  # Between two looks for settings that age, and for nodes that know newer ones than the hub.
ROLE = "rollouts"  # The role whose key signs settings, and whose life they have.
CHANGES_KEPT = 20  # Nodes of one command of which the history has what differs.
NAMES_KEPT = 256  # Nodes that an event names.


@dataclass(frozen=True, slots=True)
class _Held:
    """Hold what is signed for a node."""

    document: DeviceSettings
    envelope: bytes
    key: str


@dataclass(slots=True)
class _Job:
    """Hold a command that is being obeyed."""

    command: NodeCommand
    wish: SetNodeSettings
    left: list[str]
    changed: list[str] = field(default_factory=list)
    same: int = 0
    refused: dict[str, Refused] = field(default_factory=dict)
    statements: Mapping[str, Sequence[Deployment]] | None = None  # By model; read where labels change.
    change: Mapping[str, Any] = field(default_factory=dict)  # What differs on the node that is named.


class SettingsKeeper:
    """Keep the settings of all nodes."""

    def __init__(
        self,
        *,
        repository: Repository,
        store: Store,
        nodes: Mapping[str, fleet.Node],
        is_forgotten: Callable[[str], bool],
        publish: Callable[[str, bytes], None],
        signer: Signer,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._repository, self._store, self._nodes, self._signer = repository, store, nodes, signer
        self._commands, self._enrolments = NodeCommands(store.database), Enrolments(store.database)
        self._is_forgotten, self._publish, self._wall, self._monotonic = is_forgotten, publish, wall, monotonic
        self._unread = sorted(repository.nodes_with_settings())
        self._held: dict[str, _Held] = {}
        self._unpublished: dict[str, None] = {}  # In order.
        self._to_clear: set[str] = set()
        self._ageing: list[str] = []
        self._keys_told: dict[str, float] = {}
        self._keys_refused: set[str] = set()  # Names whose settings say so.
        self._to_tell: list[str] = []
        self._job: _Job | None = None
        self._looked_at = float("-inf")

    @property
    def cohorts(self) -> set[str]:
        """Return the cohorts that the hub has set of nodes."""
        return {held.document.cohort for held in self._held.values() if held.document.cohort is not None}

    def forgot(self) -> None:
        """Publish everything again, since the broker has lost its memory."""
        self._unpublished = dict.fromkeys(self._held)

    def tick(self, *, online: bool) -> None:
        """Do a turn's share of what is to be done."""
        self._read_some()
        self._obey()
        self._look()
        self._look_for_all_clears()
        self._renew()
        self._tell_of_keys()
        if online:
            self._publish_some()

    # Reading

    def _read_some(self) -> None:
        until = self._monotonic() + WORK_SECONDS
        while self._unread and self._monotonic() < until:
            self._read(self._unread.pop())

    def _read(self, node: str) -> None:
        if node in self._held or (raw := self._repository.device_settings(node)) is None:
            return
        try:
            envelope = codec.decode(Envelope, raw)
            document = codec.decode(DeviceSettings, envelope.payload)
        except Refused as refusal:  # A file that somebody changed: the node keeps what it has, and the next command makes it anew.
            log.error("node_settings.unreadable", node=node, code=str(refusal.code), reason=refusal.reason)
            return
        self._hold(node, _Held(document, raw, envelope.key.hex()))
        self._unpublished[node] = None  # Nobody knows what this hub's last process got published.

    def _hold(self, node: str, held: _Held) -> None:
        self._held[node] = held
        if held.document.key_refused is not None:
            self._keys_refused.add(node)
        else:
            self._keys_refused.discard(node)

    # Commands

    def _obey(self) -> None:
        if self._job is None:
            command = self._commands.oldest_open()
            if command is None:
                return
            try:
                self._job = self._begun(command)
            except Refused as refusal:
                self._refuse(command, refusal)
                return
        until = self._monotonic() + WORK_SECONDS
        while self._job.left and self._monotonic() < until:
            self._job.left, now = self._job.left[AT_ONCE:], self._job.left[:AT_ONCE]
            self._set(self._job, now)
        if not self._job.left:
            self._finish(self._job)
            self._job = None

    def _begun(self, command: NodeCommand) -> _Job:
        wish = core.read(command.body)
        if wish.node is not None:
            if self._is_forgotten(wish.node):
                raise Refused(Code.NODE_FORGOTTEN, f"node {wish.node!r} was forgotten; `fleetcast nodes replace {wish.node}` lets it in")
            if wish.node not in self._nodes and self._enrolments.node(wish.node) is None:
                raise Refused(Code.NODE_UNKNOWN, f"node {wish.node!r} has never reported and was never enrolled")
            self._read(wish.node)
            serial = self._held[wish.node].document.serial if wish.node in self._held else 0
            if wish.if_serial not in {None, serial}:
                raise stale(f"settings of node {wish.node}", seen=wish.if_serial or 0, now=serial)
            return _Job(command, wish, [wish.node])
        selector = parse(wish.where or "")
        found = sorted(name for name, node in self._nodes.items() if matches(selector, _facts(node)))
        if not found:
            raise Refused(Code.SELECTOR_INVALID, f"selector {wish.where!r} matches none of {len(self._nodes)} known nodes")
        return _Job(command, wish, found)

    def _set(self, job: _Job, names: Iterable[str]) -> None:
        fresh: dict[str, DeviceSettings] = {}
        for name in names:
            self._read(name)
            held = self._held.get(name)
            before = Chosen.of(held.document if held is not None else None)
            try:
                after = core.merged(before, job.wish)
            except Refused as refusal:
                job.refused[name] = refusal
                continue
            if after == before:
                job.same += 1
                continue
            try:
                self._check_releases(job, name, before, after)
            except Refused as refusal:
                job.refused[name] = refusal
                continue
            _keep_change(job, name, core.change_of(before, after))
            fresh[name] = self._document(name, after, serial=core.serial_after(held.document if held else None, self._state(name)))
        self._sign(fresh)
        job.changed += fresh

    def _check_releases(self, job: _Job, name: str, before: Chosen, after: Chosen) -> None:
        """Check that a node whose labels change gets no release that its programs cannot use, unless the operator says so.

        Raises:
            Refused: RELEASE_BREAKING.
        """
        node = self._nodes.get(name)
        if job.wish.breaking or not job.wish.changes_labels or node is None:
            return
        if job.statements is None:
            found = {model: deployment_statements.read(self._repository, model) for model in self._repository.models()}
            job.statements = {model: one.deployments.deployments for model, one in found.items() if one is not None}
        facts = [(node.facts, replace(node.facts, labels=core.labels_after(node.state, before, after)))]
        for model, order in job.statements.items():
            serves = fleet.serves(node, model)
            serving = {name: serves} if serves is not None else {}
            check_movements(self._repository, movements(order, order, facts, serving=serving), model=model)

    def _finish(self, job: _Job) -> None:
        changed, wish = job.changed, job.wish
        if job.refused and not changed:
            self._refuse(job.command, next(iter(job.refused.values())))
            return
        of = f"node {wish.node}" if wish.node is not None else f"{counted(len(changed), 'node')} ({wish.where or 'every node'})"
        text = f"settings of {of} are set" if changed else f"the settings of {counted(job.same, 'node')} are so already"
        if changed and job.same:
            text += f"; those of {counted(job.same, 'node')} were so already"
        if job.refused:
            text += f"; {counted(len(job.refused), 'node')} were left out: {next(iter(job.refused.values())).reason}"
        if changed:
            body = {"node": wish.node, "where": wish.where, "count": len(changed), "nodes": changed[:NAMES_KEPT], **job.change}
            body |= {"why": wish.why} if wish.why else {}
            self._store.add_event("device", f"{text}: {said(wish)}", body, actor=job.command.actor)
        self._commands.finish(job.command.id, text=text)

    def _refuse(self, command: NodeCommand, refusal: Refused) -> None:
        log.warning("command.refused", kind=core.KIND, code=str(refusal.code), reason=refusal.reason)
        self._commands.finish(command.id, text=refusal.reason, code=str(refusal.code))

    # Signing

    def _look(self) -> None:
        if self._monotonic() - self._looked_at < LOOK_SECONDS or self._unread:
            return
        self._looked_at = self._monotonic()
        for name in [name for name in self._held if self._is_forgotten(name)]:
            del self._held[name]
            self._keys_refused.discard(name)
            self._unpublished.pop(name, None)
            self._to_clear.add(name)
        now, key = datetime.fromtimestamp(self._wall(), UTC), self._signer.public_key.keyid
        self._ageing = [name for name, held in self._held.items() if held.key != key or _is_ageing(held.document, now)]
        self._ageing += [name for name in self._nodes if self._is_behind(name)]
        self._look_for_other_keys()

    def _look_for_other_keys(self) -> None:
        """Find devices that show another key than the one that counts: their settings tell them."""
        now = self._monotonic()
        for name, node in self._nodes.items():
            held = self._held.get(name)
            told = held.document.key_refused if held is not None else None
            if node.other_key not in {None, told} and now - self._keys_told.get(name, float("-inf")) >= TELL_SECONDS:
                self._keys_told[name] = now
                self._to_tell.append(name)

    def _look_for_all_clears(self) -> None:
        """Find devices that were told that their key does not count, and whose names are spoken for by the right key again."""
        if self._unread:
            return
        for name in [name for name in self._keys_refused if self._nodes.get(name) is not None and self._nodes[name].other_key is None]:
            self._keys_refused.discard(name)
            self._to_tell.append(name)

    def _tell_of_keys(self) -> None:
        """Tell devices whether their key counts, in the settings of their name."""
        until = self._monotonic() + WORK_SECONDS
        while self._to_tell and self._monotonic() < until:
            self._to_tell, names = self._to_tell[AT_ONCE:], self._to_tell[:AT_ONCE]
            fresh: dict[str, DeviceSettings] = {}
            for name in names:
                if self._is_forgotten(name):
                    continue
                self._read(name)
                held = self._held.get(name)
                document = held.document if held is not None else None
                fresh[name] = self._document(name, Chosen.of(document), serial=core.serial_after(document, self._state(name)))
                log.info("node_key.reported", node=name)
            self._sign(fresh)

    def _is_behind(self, name: str) -> bool:
        """Return whether a node follows newer settings than the hub knows: this hub was restored, or somebody else has signed them."""
        held = self._held.get(name)
        return core.reported_serial(self._state(name)) > (held.document.serial if held is not None else 0)

    def _renew(self) -> None:
        until = self._monotonic() + WORK_SECONDS
        while self._ageing and self._monotonic() < until:
            self._ageing, names = self._ageing[AT_ONCE:], self._ageing[:AT_ONCE]
            fresh: dict[str, DeviceSettings] = {}
            for name in dict.fromkeys(names):
                if self._is_forgotten(name):
                    continue
                held = self._held.get(name)
                document = held.document if held is not None else None
                if document is None or self._is_behind(name):
                    serial = core.serial_after(document, self._state(name))
                    log.warning("node_settings.overtaken", node=name, serial=serial)
                else:
                    serial = document.serial
                fresh[name] = self._document(name, Chosen.of(document), serial=serial)
            self._sign(fresh)

    def _document(self, name: str, chosen: Chosen, *, serial: int) -> DeviceSettings:
        expires, node = int(self._wall() + life(ROLE).total_seconds()), self._nodes.get(name)
        return core.document_of(name, chosen, serial=serial, expires=expires, key_refused=node.other_key if node is not None else None)

    def _sign(self, documents: Mapping[str, DeviceSettings]) -> None:
        """Sign, make durable, and have published."""
        payloads = {name: codec.encode(document) for name, document in documents.items()}
        for name, envelope in self._repository.set_device_settings(payloads, rollouts=self._signer).items():
            self._hold(name, _Held(documents[name], envelope, self._signer.public_key.keyid))
            self._to_clear.discard(name)
            self._unpublished[name] = None
            log.info("node_settings.signed", node=name, serial=documents[name].serial)

    # Publishing

    def _publish_some(self) -> None:
        until = self._monotonic() + WORK_SECONDS
        try:
            while self._to_clear:
                name = next(iter(self._to_clear))
                self._publish(name, b"")
                self._repository.remove_device_settings(name)  # Afterwards, so that a hub that ends in between clears it again.
                self._to_clear.discard(name)
            while self._unpublished and self._monotonic() < until:
                name = next(iter(self._unpublished))
                self._publish(name, self._held[name].envelope)
                del self._unpublished[name]
        except Unreachable as error:
            log.warning("node_settings.not_published", reason=str(error))

    def _state(self, name: str) -> State | None:
        node = self._nodes.get(name)
        return node.state if node is not None else None


def said(wish: SetNodeSettings) -> str:
    """Return in words what a command sets: `ring=canary, cohort=nyc, budget.metered.hours`."""
    labels = [f"{key}={value}" for key, value in wish.labels.items()]
    scalars = [f"{name}={getattr(wish, name)}" for name in core.SCALARS if getattr(wish, name) is not None]
    budgets = [
        f"budget.{link}.{name}={value}" for link, one in wish.budgets.items() for name, value in one.model_dump(exclude_none=True).items()
    ]
    return ", ".join([*labels, *scalars, *budgets, *(f"{name.removeprefix('label.')}-" for name in wish.unset)])


def _facts(node: fleet.Node) -> NodeFacts:
    profile = node.state.profile
    return NodeFacts(node.name, node.labels, profile.arch if profile is not None else "")


def _is_ageing(document: DeviceSettings, now: datetime) -> bool:
    return is_ageing(ROLE, datetime.fromtimestamp(document.expires, UTC), now)


def _keep_change(job: _Job, name: str, change: Mapping[str, Any]) -> None:
    """Keep what differs, for the history: by node where several are changed, of the first of them."""
    if job.wish.node is not None:
        job.change = dict(change)
    elif len(job.change.get("before", ())) < CHANGES_KEPT:
        job.change = {side: {**job.change.get(side, {}), name: change[side]} for side in ("before", "after")}
