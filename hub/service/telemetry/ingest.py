"""Takes in what nodes send: states, receipts, windows. Durable before it is acknowledged; the same thing twice changes nothing."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b

import structlog

from fleetcast.mqtt_connection import Message
from hub.core.drift import accuracy, windows
from hub.core.drift.windows import Reader, Taken
from hub.core.enrol.enrolment import Roll
from hub.core.floods.flapping import Flapping, Flaps
from hub.core.rollouts import fleet
from hub.core.rollouts.proof import proof_of
from hub.database.device_lives import DeviceLives, OtherKey
from hub.database.hearing import Hearing
from hub.database.known_nodes import folded_again, known_nodes
from hub.database.store import EarlyReceiptRow, NodeRow, ReceiptRow, Store, WindowRow
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import ReceiptArrived, StateArrived, WindowArrived
from hub.service.rollouts.listening import ListeningClock
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.cohorts import Cohorts
from hub.service.telemetry.duplicate_nodes import DuplicateNodes
from hub.service.telemetry.undated_windows import UndatedWindows
from hub.signing.device_signatures import verify_receipt
from schemas import codec
from schemas.accuracy import About
from schemas.analytics_messages import Alert
from schemas.disclosure import LEDGER_STEP
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Manifest
from schemas.names import check_name, sha256
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import State
from schemas.window import Window

log = structlog.get_logger()

NODES_MAX = 100_000  # known to one hub; a hostile broker must not fill the database with invented ones
READERS_KEPT = 64  # releases that windows come from
OPEN_INTERVALS_MAX = 4096  # untested intervals of one model and cohort: a fleet that was offline for months has fewer
EARLY_RECEIPTS_MAX = 1000  # that wait for their node's state, for topics keep no order among each other
EARLY_SECONDS = 60
AT_ONCE_MAX = 100  # alerts and given-up receipts of one turn, each a transaction: a whole site that goes silent keeps no operator waiting
GONE_SECONDS = 86_400.0  # Time of listening beyond the bound after which a silence was surely reported, also if its alert is not kept.
LOOK_SECONDS = 10.0  # On the clock of listening; between two looks for nodes that fell silent.
SAVE_SECONDS = (
    60.0  # On the same clock; between two times that what only memory has is kept: each time writes a page for every few dozen nodes.
)
_ACKNOWLEDGED = Message("", b"", retained=False, mid=0, qos=0, epoch=0)  # That of a window which has waited.
UNPROVED_MAX = 1000  # Nodes whose receipts a hub that crashed has to fold again at its start.


class Ingest:
    """Take in everything that comes from nodes, and make the fleet of it."""

    def __init__(
        self,
        *,
        store: Store,
        notes: Notes,
        roll: Roll,
        look: Callable[[], None],
        releases: Releases,
        silent_seconds: int,
        topic_of: Callable[[str], str],
        window_rows_max: int,
        window_age_days_max: int,
        set_cohorts: Callable[[], Iterable[str]],
        random_bytes: Callable[[int], bytes],
        clock: Callable[[], float],
        listening: ListeningClock,
        is_mine: Callable[[str], bool] = lambda node: True,
    ) -> None:
        self._is_mine = is_mine  # Whether this process takes in what a node reports, of several that do.
        self._listening, self._hearing = listening, Hearing(store.database)
        self._store, self._notes, self._releases, self._clock = store, notes, releases, clock
        self._lives = DeviceLives(store.database)
        self._duplicates = DuplicateNodes(self._lives, notes, clock=clock, listening=listening)
        self.to_clear: set[str] = set()  # forgotten nodes whose retained state is still at the broker
        self._look = look  # brings the roll up to date
        self._roll, self._silent_seconds, self._topic_of = roll, silent_seconds, topic_of
        self._window_rows_max, self._window_age_days_max = window_rows_max, window_age_days_max
        self._cohorts = Cohorts(store.database, notes, set_cohorts=set_cohorts, clock=clock)
        self._undated = UndatedWindows(store.database, notes, clock=clock)
        self._group_key = random_bytes(16)  # so that a sender cannot choose its window's sub-group
        self._rolled_back: set[str] = set()  # nodes whose ledger has shrunk
        self._readers: dict[tuple[bytes, About | None], tuple[bytes, Reader]] = {}  # by the prefix that windows carry, and their subject
        self.nodes: dict[str, fleet.Node] = {}
        self._early: list[EarlyReceiptRow] = self._early_receipts()
        self._flapping = Flapping()
        self._heard: set[str] = set()  # Nodes whose `heard_at` or `last_seen` is newer than in the store.
        self._unproved: set[str] = set()  # Nodes of which the store has no proof, since a receipt has come.
        self._looked_at = self._saved_at = listening.seconds
        self._open: dict[tuple[str, str], set[tuple[bytes, int]]] = defaultdict(set)
        self._restore()
        self._silent = self._reported_silent()

    def _reported_silent(self) -> set[str]:
        """Return the silent nodes that were reported before a restart: an alert came since they were seen, or they are long gone."""
        silent = [node for node in self.nodes.values() if self._is_silent(node)]
        bound = self._listening.seconds - self._silent_seconds - GONE_SECONDS
        gone, others = {one.name for one in silent if one.heard_at < bound}, [one for one in silent if one.heard_at >= bound]
        alerts = self._store.silence_alerts(since=min(one.last_seen for one in others)) if others else {}
        return gone | {one.name for one in others if alerts.get(one.name, -1) >= one.last_seen}

    def _restore(self) -> None:
        known = known_nodes(self._store, self._roll, listened=self._listening.seconds, now=self._clock())
        self.nodes.update({name: node for name, node in known.nodes.items() if self._is_mine(name)})
        self._unproved.update(known.unproved & self.nodes.keys())
        for name, node in self.nodes.items():
            if node.state.cohort is not None:
                self._cohorts.named.take(name, node.state.cohort, now=self._clock())
        for model, cohort in self._store.known_cohorts():
            self._open[model, cohort] = set()

    def _early_receipts(self) -> list[EarlyReceiptRow]:
        return [one for one in self._store.early_receipts() if self._is_mine(one.node)]

    def follow_tests(self) -> None:
        """Take in which intervals another process has tested."""
        found: dict[tuple[str, str], set[tuple[bytes, int]]] = defaultdict(set)
        found.update({key: set() for key in self._open})
        for model, cohort, release, start in self._store.open_intervals():
            found[model, cohort].add((release, start))
        self._open = found

    # States

    def seen(self, name: str) -> None:
        """Note that a node was heard.

        Raises:
            Refused: nothing in its name counts.
        """
        self._check(name)
        if name in self.nodes:
            heard_at = self._listening.seconds if self._listening.runs else self.nodes[name].heard_at
            self.nodes[name] = replace(self.nodes[name], last_seen=int(self._clock()), heard_at=heard_at)
            self._heard.add(name)

    def forget(self, name: str) -> None:
        """Forget a node that was revoked, forgotten or replaced: no rollout waits for it any more."""
        if self._roll.forgotten(name) is not None:
            self.to_clear.add(name)
        if not self._roll.is_revoked(name) or self._roll.forgotten(name) is not None:
            self._lives.erase(name)  # once more: this hub may have kept a report after the operator's command
        self._duplicates.forget(name)
        self._early = self._early_receipts()  # without those of a name that was forgotten or replaced
        if self.nodes.pop(name, None) is not None:
            self._silent.discard(name)
            self._flapping.forget(name)
            self._heard.discard(name)
            self._unproved.discard(name)
            self._cohorts.named.forget(name)

    def states(self, events: Sequence[StateArrived]) -> None:
        """Take nodes' reports of themselves, or their broker's that they are lost: what is new is durable when this returns.

        It is one transaction for all, and none for a report that says no more than that the node is still there. What is refused is noted.
        """
        found: dict[str, fleet.Node] = {}  # Durable at the end, and not visible before.
        for event in events:
            if event.state.node in found or len(self.nodes) + len(found) >= NODES_MAX:
                self._keep_states(found)
            try:
                node = self._state(event)
            except Refused as refusal:
                if refusal.code == Code.DISK_FULL:
                    raise  # nothing is wrong with the state
                self._notes.refusal(refusal, event.message.topic)
            else:
                if node is not None:
                    found[node.name] = node
        self._keep_states(found)

    def _state(self, event: StateArrived) -> fleet.Node | None:
        """Return the node as this report says it is; None where nothing changes.

        Raises:
            Refused: a reserved name, another key, one node too many, revoked, or not enrolled where that is required.
        """
        name, now = event.state.node, int(self._clock())
        old = event.message.retained or not self._listening.runs
        known = self.nodes.get(name)
        if known is None or event.state.public_key not in {b"", known.public_key}:
            self._look()  # it was perhaps enrolled a moment ago, or let out
            known = self.nodes.get(name)
        if self._roll.forgotten(name) is not None:
            self.to_clear.add(name)
            self._report_forgotten(name, speaks=event.state.status != "lost" and not old)
        try:
            self._roll.check_state(event.state, now=now)
        except Refused as refusal:
            self._note_other_key(refusal, event.state)
            raise
        if name not in self.nodes and len(self.nodes) >= NODES_MAX:
            raise mismatch(Code.NAME_INVALID, "number of nodes", expected=f"at most {NODES_MAX}", actual=f"{name!r} on top")
        self._report_ledger(event.state)
        keys = self._roll.keys(name)
        if known is not None and keys:
            # Not the key of first use but the one that was enrolled; a device that has taken another's place begins anew.
            known = replace(known, public_key=event.state.public_key or keys[0]) if known.public_key in keys else None
        self._duplicates.follow(event)
        try:
            node = fleet.fold_state(known, event.state, now=now, listened=self._listening.seconds, old=old)
        except Refused as refusal:
            self._note_other_key(refusal, event.state)
            raise
        if node is not None and keys:
            node = replace(node, public_key=keys[0])
        if node is None or node == self.nodes.get(name):
            return None
        if known is None and (name in self.nodes or self._roll.is_expected(name)):
            self._lives.take_place(_row(node))  # what the device before has signed counts no more
            self._unproved.add(name)
        return node

    def _keep_states(self, found: dict[str, fleet.Node]) -> None:
        """Make durable what these nodes report, then go by it."""
        new = [node for name, node in found.items() if not _says_the_same(node, self.nodes.get(name))]
        if new:
            self._store.upsert_nodes([_row(node) for node in new])
        now = int(self._clock())
        for name, node in found.items():
            known, self.nodes[name] = self.nodes.get(name), node
            self._heard.add(name)
            if node.state.cohort is not None:
                self._cohorts.named.take(name, node.state.cohort, now=now)
            if known is not None and known.other_key is not None and node.other_key is None:
                self._lives.drop_other_key(name)
            self._report_silence(node, now)
        self._take_early([one for one in self._early if one.node in found and self.nodes[one.node].public_key])
        found.clear()

    def _note_other_key(self, refusal: Refused, state: State) -> None:
        """Keep that a device speaks with another key than the one that counts, until the one that counts is heard again."""
        node, key = self.nodes.get(state.node), sha256(state.public_key)
        if refusal.code is Code.RECEIPT_KEY_CHANGED and node is not None and node.other_key != key:
            self._lives.put_other_key(OtherKey(state.node, int(self._clock()), key))
            self.nodes[state.node] = replace(node, other_key=key)

    def _report_forgotten(self, name: str, *, speaks: bool) -> None:
        """Report once that a forgotten node still speaks; what the broker kept of it is no sign of that."""
        life = self._roll.forgotten(name)
        if life is not None and life.reported_at is None and speaks:
            now = int(self._clock())
            self._roll.take_life(replace(life, reported_at=now))
            text = f"node {name} was forgotten and still speaks: switch the device off, or let it in by `fleetcast nodes replace {name}`"
            self._notes.alert(Alert(kind="refused", at=now, node=name, code=str(Code.NODE_FORGOTTEN), text=text, actor=life.actor))
            self._lives.mark_reported(name)  # After the alert: a hub that ends in between raises it again.

    def _report_ledger(self, after: State) -> None:
        """Report a privacy ledger that has shrunk: it only grows, so an old copy was put back, with its witness, unknown to the node."""
        before = self.nodes.get(after.node)
        if before is None or before.state.telemetry is None or after.telemetry is None or after.at <= before.state.at:
            return
        had, has = before.state.telemetry.ledger_entries or 0, after.telemetry.ledger_entries or 0
        if has > had - LEDGER_STEP:  # A node that was brought up to date, or back, says the same number in another way.
            self._rolled_back.discard(after.node)
        elif after.node not in self._rolled_back:
            self._rolled_back.add(after.node)
            text = f"the privacy ledger of node {after.node} had {had} entries and has {has}: an old copy was put back on it"
            code = str(Code.LEDGER_ROLLED_BACK)
            self._notes.alert(Alert(kind="refused", at=int(self._clock()), node=after.node, cohort=after.cohort, code=code, text=text))

    # Receipts

    def receipts(self, events: Sequence[ReceiptArrived]) -> None:
        """Take receipts: what is believed is durable when this returns, in one transaction, and the rest is noted."""
        taken: list[tuple[Receipt, SealedReceipt]] = []
        early: list[ReceiptArrived] = []
        for event in events:
            try:
                self._check(event.node)
                node = self.nodes.get(event.node)
                if node is not None and node.public_key:
                    taken.append((self._checked(node, event.sealed), event.sealed))
                else:
                    early.append(event)
            except Refused as refusal:
                if refusal.code in {Code.DISK_FULL, Code.DATABASE_DAMAGED}:
                    raise  # nothing is wrong with the receipt
                self._notes.refusal(refusal, event.message.topic)
        self._keep_receipts(taken)
        self._take_aside(early)

    def _take_aside(self, events: Sequence[ReceiptArrived]) -> None:
        """Keep receipts of nodes that have not said what their key is, all in one transaction."""
        if not events:
            return
        rows = [(check_name("node", event.node), codec.encode(event.sealed)) for event in events]
        kept = self._store.add_early_receipts(rows, at_most=EARLY_RECEIPTS_MAX)
        self._early = self._early_receipts()
        for event in events[kept:]:
            self._notes.refusal(_unknown(event.node), event.message.topic)

    def _checked(self, node: fleet.Node, sealed: SealedReceipt) -> Receipt:
        receipt = self._verified(node, sealed)
        if receipt.node != node.name:
            raise mismatch(Code.RECEIPT_SIGNATURE, "node of a receipt", expected=node.name, actual=receipt.node)
        return receipt

    def _keep_receipts(self, taken: Sequence[tuple[Receipt, SealedReceipt]]) -> None:
        now = int(self._clock())
        heard_at = self._listening.seconds if self._listening.runs else None
        kept = self._store.add_receipts([_receipt_row(receipt, sealed, now) for receipt, sealed in taken]) if taken else []
        late = set[str]()  # Nodes of which a receipt came after newer ones, or took another's place.
        for (receipt, _), one in zip(taken, kept, strict=True):
            known = self.nodes.get(receipt.node)  # it may have been revoked a moment ago
            if known is None or one.epoch is None:
                continue
            # One that is in the database counts where this hub has not folded it: its node was away from the roll for a while.
            is_newest = receipt.model is not None and fleet.is_newest(known, receipt, epoch=one.epoch)
            if one.replaces or (one.is_fresh and receipt.model is not None and not is_newest):
                late.add(receipt.node)
            if one.is_fresh or is_newest:
                node = fleet.fold_receipt(known, receipt, received_at=now, heard_at=heard_at, epoch=one.epoch)
                self.nodes[receipt.node] = node
                self._heard.add(receipt.node)
                self._unproved.add(receipt.node)
                if receipt.code == Code.NODE_DUPLICATE:
                    self._duplicates.sign(receipt.node)
                elif receipt.outcome == "refused":
                    self._notes.node_refusal(node=receipt.node, code=receipt.code, model=receipt.model, reason=receipt.reason)
        for name in late & self.nodes.keys():
            self.nodes[name] = folded_again(self._store, self.nodes[name])
            self._unproved.add(name)

    def _check(self, name: str) -> None:
        if not self._roll.counts(name):
            self._look()
        self._report_forgotten(name, speaks=self._listening.runs)
        self._roll.check(name)

    def _verified(self, node: fleet.Node, sealed: SealedReceipt) -> Receipt:
        keys = self._roll.keys(node.name) or (node.public_key,)
        try:
            return _verified_by(keys, sealed)
        except Refused:
            self._look()  # it has perhaps had a new key for a moment
            renewed = self._roll.keys(node.name)
            if not renewed or renewed == keys:
                raise
            return _verified_by(renewed, sealed)

    def _take_early(self, found: Sequence[EarlyReceiptRow]) -> None:
        """Take receipts that have waited for their nodes' keys, all in one transaction."""
        taken: list[tuple[Receipt, SealedReceipt]] = []
        for one in found:
            try:
                sealed = codec.decode(SealedReceipt, one.sealed)
                taken.append((self._checked(self.nodes[one.node], sealed), sealed))
            except Refused as refusal:
                self._notes.refusal(refusal, self._topic_of(one.node))
        self._keep_receipts(taken)
        self._drop_early(found)

    def _drop_early(self, found: Sequence[EarlyReceiptRow]) -> None:
        ids = {one.id for one in found}
        self._store.drop_early_receipts(sorted(ids))
        self._early = [one for one in self._early if one.id not in ids]

    # Windows

    def windows(self, events: Sequence[WindowArrived]) -> None:
        """Take windows: those that are believed, or wait for the clock or for their cohort's name, are durable when this returns."""
        early: list[tuple[str, str, Window]] = []
        rows: list[WindowRow] = []
        self._undated.look()
        for event, found in self._believed(events):
            if isinstance(found, Refused):
                self._undated.refused(event, found)
            elif self._counts(event):
                self._expect(found)
                rows.append(found)
            else:
                early.append((event.model, event.cohort, event.window))
        self._add(rows)
        self._cohorts.wait(early)
        self._undated.keep()

    def _expect(self, row: WindowRow) -> None:
        """Count its interval before the next window is looked at: how many there may be is bounded."""
        self._open[row.model, row.cohort].add((row.release, row.start))

    def _add(self, rows: Sequence[WindowRow]) -> None:
        if rows:
            fresh = self._store.add_windows(rows)
            log.debug("windows.taken", windows=sum(fresh), twice=len(fresh) - sum(fresh))

    def _counts(self, event: WindowArrived) -> bool:
        return (event.model, event.cohort) in self._open or self._cohorts.counts(event.cohort)

    def _take_waiting(self) -> None:
        """Count the windows whose cohort was named meanwhile; what was refused since is not told twice."""
        due = self._cohorts.due()[:AT_ONCE_MAX]
        if not due:
            return
        events = [WindowArrived(one.model, one.cohort, codec.decode(Window, one.window), _ACKNOWLEDGED) for one in due]
        rows: list[WindowRow] = []
        for _, found in self._believed(events):
            if isinstance(found, WindowRow):
                self._expect(found)
                rows.append(found)
        self._add(rows)
        self._cohorts.done([one.id for one in due])

    def _take_undated(self) -> None:
        """Judge the windows that have waited for the clock, as though they had come now."""
        due = self._undated.due()
        if due:
            self.windows([WindowArrived(one.model, one.cohort, codec.decode(Window, one.window), _ACKNOWLEDGED) for one in due])
            self._undated.done(due)

    def _believed(self, events: Sequence[WindowArrived]) -> Iterator[tuple[WindowArrived, WindowRow | Refused]]:
        """Yield each window as it is counted, or why it is not."""
        by_release: dict[tuple[bytes, About | None], list[WindowArrived]] = {}
        for event in events:
            by_release.setdefault((event.window.release, event.window.about), []).append(event)
        for (prefix, about), those in by_release.items():
            try:
                digest, reader = self._reader(prefix, about)
            except Refused as refusal:
                yield from ((event, refusal) for event in those)
                continue
            for event, taken in zip(those, reader.read_many([one.window for one in those], now=int(self._clock())), strict=True):
                try:
                    found: WindowRow | Refused = self._accept(event, digest, reader, taken)
                except Refused as refusal:
                    found = refusal
                yield event, found

    def _accept(self, event: WindowArrived, digest: bytes, reader: Reader, taken: Taken | Refused) -> WindowRow:
        if reader.manifest.model != event.model:
            raise mismatch(Code.WINDOW_RELEASE, "model of a window's release", expected=event.model, actual=reader.manifest.model)
        if isinstance(taken, Refused):
            raise taken
        window = event.window
        if window.about is not None:
            accuracy.check_answers(taken, windows.watched(reader.manifest)[1])
        key = (event.model, check_name("cohort", event.cohort))
        mine = self._open.get(key, set())
        if (digest, window.start) not in mine and len(mine) >= OPEN_INTERVALS_MAX:
            what = f"untested intervals of {event.model}, cohort {event.cohort}"
            raise mismatch(Code.WINDOW_ABSURD, what, expected=f"at most {OPEN_INTERVALS_MAX}", actual="one more")
        return WindowRow(
            window.id,
            digest,
            event.model,
            event.cohort,
            window.start,
            window.seconds,
            taken.counts,
            rows=taken.rows,
            calibrated=taken.calibrated,
            reference_rows=taken.reference_rows,
            noise_units=taken.noise_units,
            group=blake2b(window.id, key=self._group_key, digest_size=1).digest()[0],
        )

    def _reader(self, prefix: bytes, about: About | None) -> tuple[bytes, Reader]:
        """Return the reader of a release's windows, and the name of their stream: the release's digest, or what stands for its accuracy."""
        if (prefix, about) not in self._readers:
            try:
                digest, manifest = self._releases.find(prefix)
            except Refused:
                raise Refused(Code.WINDOW_RELEASE, f"there is no release {prefix.hex()}") from None
            if about is not None:
                digest, manifest = accuracy.stream_of(digest), accuracy.of_accuracy(manifest)
            while len(self._readers) >= READERS_KEPT:
                del self._readers[next(iter(self._readers))]
            self._readers[prefix, about] = digest, self._reader_of(manifest)
        return self._readers[prefix, about]

    def _reader_of(self, manifest: Manifest) -> Reader:
        return Reader(manifest, rows_max=self._window_rows_max, age_days_max=self._window_age_days_max)

    def settled(self, model: str, cohort: str, release: bytes, start: int) -> None:
        """Close an interval that was tested."""
        self._open[model, cohort].discard((release, start))

    # Time

    def tick(self) -> None:
        """Give up receipts whose node never came, report nodes that fell silent, keep when nodes were seen."""
        now = self._clock()
        late = [one for one in self._early if one.at + EARLY_SECONDS <= now][:AT_ONCE_MAX]
        for early in late:
            self._notes.refusal(_unknown(early.node), self._topic_of(early.node))
        self._drop_early(late)
        self._duplicates.tick()
        self._take_waiting()
        self._take_undated()
        if self._listening.seconds - self._looked_at >= LOOK_SECONDS:
            silent = self._fell_silent()
            for node in silent:
                self._report_silence(node, int(now))
            for flaps in self._flapping.due(self._listening.seconds):
                self._report_flaps(flaps, int(now))
            if len(silent) < AT_ONCE_MAX:
                self._looked_at = self._listening.seconds
        if self._listening.seconds - self._saved_at >= SAVE_SECONDS or len(self._unproved) >= UNPROVED_MAX:
            self._saved_at = self._listening.seconds
            self.save()

    def save(self) -> None:
        """Keep when nodes were last seen, and what their receipts prove, without waiting for the disk: a crash costs a minute of it."""
        self._hearing.keep_heard({name: (self.nodes[name].heard_at, self.nodes[name].last_seen) for name in sorted(self._heard)})
        self._heard.clear()
        self._store.keep_proofs({name: proof_of(self.nodes[name]) for name in sorted(self._unproved)})
        self._unproved.clear()

    def _fell_silent(self) -> list[fleet.Node]:
        """Return nodes whose silence was not reported yet, as many as one turn has time for."""
        silent = {name: node for name, node in self.nodes.items() if self._is_silent(node)}
        self._silent &= silent.keys()
        return [node for name, node in silent.items() if name not in self._silent][:AT_ONCE_MAX]

    def _report_silence(self, node: fleet.Node, now: int) -> None:
        """Raise one alert an episode: from the first moment that a node is lost or silent until it is heard again."""
        if not self._is_silent(node):
            self._silent.discard(node.name)
        elif node.name not in self._silent:
            self._silent.add(node.name)
            if not self._flapping.lost(node.name, self._listening.seconds):
                return  # It is counted.
            silent = int(self._listening.seconds - node.heard_at)
            why = "has lost its connection" if node.status == "lost" else f"was not heard from for {silent} s"
            code = "lost" if node.status == "lost" else "silent"
            cohort = node.state.cohort
            self._notes.alert(Alert(kind="node_silent", at=now, node=node.name, cohort=cohort, code=code, text=f"node {node.name} {why}"))

    def _report_flaps(self, flaps: Flaps, now: int) -> None:
        """Raise one alert about all losses of a node that followed a loss that was reported."""
        node = self.nodes[flaps.node]
        times = "once more" if flaps.losses == 1 else f"{flaps.losses} times more"
        there = "is not heard now" if self._is_silent(node) else "is back"
        text = f"node {node.name} came back and was lost {times} within {max(1, round(flaps.seconds / 60))} min, and {there}"
        self._notes.alert(Alert(kind="node_silent", at=now, node=node.name, cohort=node.state.cohort, code="flapping", text=text))

    def _is_silent(self, node: fleet.Node) -> bool:
        listened, silent_seconds = self._listening.seconds, self._silent_seconds
        is_heard = fleet.heard(node, listened=listened, silent_seconds=silent_seconds) or node.other_key is not None  # That has an alert.
        return node.status == "lost" or not is_heard


def _verified_by(keys: Sequence[bytes], sealed: SealedReceipt) -> Receipt:
    *others, last = keys
    for key in others:  # a device that has a new key may have signed what comes with the one before
        with suppress(Refused):
            return verify_receipt(sealed, key)
    return verify_receipt(sealed, last)


def _unknown(node: str) -> Refused:
    return Refused(Code.RECEIPT_UNKNOWN_NODE, f"a receipt of node {node!r}, which has not said what its key is")


def _row(node: fleet.Node) -> NodeRow:
    state = codec.encode(node.state)
    return NodeRow(node.name, node.session, node.status, node.last_seen, state, node.public_key, node.state.cohort or "")


def _says_the_same(node: fleet.Node, known: fleet.Node | None) -> bool:
    """Return whether a report says nothing new but when it was made: that is kept with when the node was heard."""
    if known is None or (node.session, node.status, node.public_key) != (known.session, known.status, known.public_key):
        return False
    return node.state.model_copy(update={"at": known.state.at}) == known.state


def _receipt_row(receipt: Receipt, sealed: SealedReceipt, now: int) -> ReceiptRow:
    return ReceiptRow(
        node=receipt.node,
        sequence=receipt.sequence,
        received_at=now,
        at=receipt.at,
        outcome=receipt.outcome,
        model=receipt.model,
        version=receipt.version,
        digest=receipt.digest,
        since=receipt.since,
        code=receipt.code,
        reason=receipt.reason,
        sealed=codec.encode(sealed),
    )
