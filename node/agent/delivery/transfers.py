"""Run transfers: what `node.core.delivery.transfer` decides, done to the broker and the disk, in the order that survives any crash.

Of each payload that arrives: verify, decode, verify, write, record, and only then acknowledge. A kill loses no block; what a power cut
takes is found by its hash and fetched again; the whole is synced and verified before anything loads it.
"""

from collections.abc import Callable, Sequence
from random import Random

import structlog

from node.agent.activation.rollout_traces import RolloutTraces
from node.agent.delivery.block_sources import BlockSources
from node.agent.delivery.byte_quota import ByteQuota
from node.agent.delivery.transfer_job import TransferJob
from node.agent.events import TransferEnded, TransferStalled
from node.broker.mqtt import BlockArrived, NodeLink
from node.core.activation.lifecycle import Target
from node.core.delivery import transfer as core
from node.core.delivery.byte_quota import BUDGET_CODES
from node.core.trust.clock import NEVER, MonotonicSeconds
from node.storage.artifacts import Artifacts
from node.storage.rows import StoredBlock
from node.storage.store import NodeStore
from schemas.encoding import DECODABLE, decode_payload
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.manifest import Block, File, Manifest, blocks_of
from schemas.names import sha256
from schemas.rollout import Carriage

log = structlog.get_logger()

SCAN_BYTES = 16 * 1024 * 1024  # looked at on disk between two turns of the loop, so that it stays responsive
RECENT_MAX = 1024  # payloads remembered, so that a second copy is counted as waste
PARKED_SECONDS = 60.0  # a full disk is looked at again after this
DISK_CODES = frozenset({Code.DISK_FULL, Code.DISK_QUOTA, Code.DISK_DAMAGED})


class Delivery:
    """Run all transfers of a node."""

    def __init__(
        self,
        *,
        store: NodeStore,
        artifacts: Artifacts,
        link: NodeLink,
        sources: BlockSources,
        quota: ByteQuota,
        window_bytes: int,
        filters_per_subscribe: int,
        window_blocks_max: int = core.WINDOW_PIECES_MAX,
        rng: Random,
        post: Callable[[TransferEnded | TransferStalled], None],
        refused: Callable[[Refused, str], None],
        make_room: Callable[[], None] = lambda: None,
        disk_bytes_max: int | None = None,
        traces: RolloutTraces | None = None,
    ) -> None:
        self._store, self._artifacts, self._link, self._sources, self._quota = store, artifacts, link, sources, quota
        self._window_bytes, self._filters, self._rng = window_bytes, filters_per_subscribe, rng
        self._window_blocks_max = window_blocks_max
        self._post, self._refused, self._make_room, self._disk_bytes_max = post, refused, make_room, disk_bytes_max
        self._traces = traces or RolloutTraces()
        self._jobs: dict[str, TransferJob] = {}
        self._recent: dict[bytes, bytes] = {}  # payloads just taken, and for which release: a second copy is waste
        self._granting: dict[int, tuple[str, tuple[bytes, ...]]] = {}
        self._online = False

    @property
    def busy(self) -> bool:
        """Return whether something is under way that wants frequent turns."""
        return any(job.scan is not None for job in self._jobs.values())

    @property
    def fetching(self) -> bool:
        """Return whether any release is on its way."""
        return bool(self._jobs)

    def start(
        self,
        model: str,
        target: Target,
        manifest: Manifest,
        variant: str,
        now: MonotonicSeconds,
        *,
        carriage: Carriage | None = None,
        follows: bool = False,
    ) -> None:
        """Bring a release to disk; whatever is there already is used. `follows`: another one of this model is here already."""
        self.cancel(model)
        job = TransferJob(model, target, manifest, variant, manifest.files_of(variant), carriage or Carriage(), follows)
        self._jobs[model] = job
        job.rollout = self._traces.id_of(model, target)
        self._traces.fetching(model)
        log.info("fetch.started", model=model, version=target.version, rollout=job.rollout)
        self._guard(job, now, lambda: self._begin(job))

    def carry(self, model: str, carriage: Carriage | None) -> None:
        """Take in that the rollout says otherwise how the bytes of a transfer may travel."""
        if model in self._jobs:
            self._jobs[model].carriage = carriage or Carriage()

    def cancel(self, model: str) -> None:
        """Give a transfer up; its blocks stay for the next one."""
        job = self._jobs.pop(model, None)
        if job is not None and job.transfer is not None:
            self._run(job, job.transfer.cancel(), NEVER)

    def connected(self, *, session_present: bool, now: MonotonicSeconds) -> None:
        """Take in that the broker is there."""
        self._online = True
        self._granting.clear()
        self._share(now)
        for job in list(self._jobs.values()):
            if job.transfer is not None:
                self._run(job, job.transfer.connected(session_present=session_present, now=now), now)

    def disconnected(self) -> None:
        """Take in that the broker is gone."""
        self._online = False
        for job in self._jobs.values():
            if job.transfer is not None:
                job.transfer.disconnected()

    def granted(self, mid: int, now: MonotonicSeconds) -> None:
        """Take in that the broker confirmed a SUBSCRIBE."""
        model, digests = self._granting.pop(mid, ("", ()))
        job = self._jobs.get(model)
        if job is not None and job.transfer is not None:
            self._run(job, job.transfer.granted(digests, now=now), now)

    def arrived(self, blocks: Sequence[BlockArrived], now: MonotonicSeconds) -> None:
        """Take a batch of payloads: one write, one record, then their acknowledgements."""
        fresh: set[bytes] = set()
        for job in list(self._jobs.values()):
            if job.transfer is not None:
                mine = [block for block in blocks if job.transfer.piece(block.digest) is not None]
                fresh.update(block.digest for block in mine)
                if mine:
                    self._guard(job, now, lambda job=job, mine=mine: self._take(job, mine, now))  # type: ignore[misc]
        for block in blocks:
            if block.digest in self._recent and block.digest not in fresh:
                self._count(self._recent[block.digest], now, wasted=len(block.message.payload))
            self._link.ack(block.message)
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def tick(self, now: MonotonicSeconds) -> None:
        """Look at the disk, ask again, wake what was parked, let go on what a budget allows again."""
        for job in list(self._jobs.values()):
            if job.parked_until is not None and now >= job.parked_until:
                job.parked_until = None
                self._guard(job, now, lambda job=job: self._begin(job))  # type: ignore[misc]
            elif job.scan is not None:
                self._guard(job, now, lambda job=job: self._look(job, now))  # type: ignore[misc]
        self._share(now)
        for job in list(self._jobs.values()):
            if job.transfer is not None:
                self._run(job, job.transfer.tick(now), now)

    def carried(self, now: MonotonicSeconds) -> None:
        """Take in that something was carried here: whatever is missing may be in it."""
        for job in list(self._jobs.values()):
            if job.transfer is not None:
                self._again(job, now)

    # Phases of a job

    def _begin(self, job: TransferJob) -> None:
        indexed = [part for file in job.files for part in file.index]
        job.transfer, job.missing = None, []
        if indexed and job.in_index:
            lists: list[tuple[Block, ...]] = [(part,) for part in indexed]
            job.paths = [f"{job.target.digest.hex()}/index/{part.digest.hex()}" for part in indexed]
            sizes = [part.bytes for part in indexed]
        else:
            job.in_index = False
            lists = [self._blocks(job, file) for file in job.files]
            job.paths = [self._artifacts.relative(job.target.digest, job.variant, file) for file in job.files]
            sizes = [file.bytes for file in job.files]
        self._allocate(job, sizes)
        self._store.open_usage(job.target.digest)
        job.scan = iter(core.pieces(lists, DECODABLE, self._sources.records))

    def _allocate(self, job: TransferJob, sizes: list[int]) -> None:
        wanted = dict(zip(job.paths, sizes, strict=True))
        if self._disk_bytes_max is not None:
            more = sum(max(0, size - self._artifacts.size(path)) for path, size in wanted.items())
            if self._artifacts.used_bytes() + more > self._disk_bytes_max:
                self._make_room()
            used = self._artifacts.used_bytes()
            if used + more > self._disk_bytes_max:
                what = f"disk of {job.model} {job.target.version}: {used} bytes are used, {more} more are needed"
                raise mismatch(Code.DISK_QUOTA, what, expected=f"at most {self._disk_bytes_max}", actual=used + more)
        for path, size in wanted.items():
            self._artifacts.allocate(path, size)

    def _blocks(self, job: TransferJob, file: File) -> tuple[Block, ...]:
        def read(part: Block) -> bytes:
            data = self._artifacts.holds(f"{job.target.digest.hex()}/index/{part.digest.hex()}", 0, part.digest, part.bytes)
            if data is None:
                raise Refused(Code.DISK_DAMAGED, f"the block list of {file.path} has changed on disk")
            return data

        found = blocks_of(file, read)
        if sum(block.bytes for block in found) != file.bytes:
            raise Refused(Code.ARTIFACT_DIGEST, f"the block list of {file.path} does not add up to its {file.bytes} bytes")
        return found

    def _look(self, job: TransferJob, now: MonotonicSeconds) -> None:
        """Use what is on disk already, verified again, a bounded stretch at a time."""
        looked = 0
        for piece in job.scan or ():
            if not self._reuse(job, piece):
                job.missing.append(piece)
            looked += piece.block.bytes
            if looked >= SCAN_BYTES:
                return
        job.scan = None
        if not job.in_index:
            job.instead_bytes = sum(piece.payload.bytes for piece in job.missing if self._lacks_parent(piece)) if job.follows else 0
            self._store.plan_missing(job.target.digest, sum(piece.payload.bytes for piece in job.missing))
        job.transfer, commands = core.Transfer.start(
            job.missing, window_bytes=self._window_bytes, filters_per_subscribe=self._filters, rng=self._rng, now=now, online=False
        )
        log.info("fetch.planned", model=job.model, rollout=job.rollout, missing=len(job.missing), index=job.in_index)
        if not job.missing:
            self._finish(job)
            return
        self._run(job, commands, now)
        self._share(now)  # before anything is asked for: a budget is a hard stop
        if self._online and job.transfer is not None:
            self._run(job, job.transfer.connected(session_present=True, now=now), now)

    def _lacks_parent(self, piece: core.Piece) -> bool:
        """Return whether a delta would have been less, had its parent been here."""
        return any(payload.encoding == "delta" and payload.bytes < piece.payload.bytes for payload in piece.block.payloads)

    def _reuse(self, job: TransferJob, piece: core.Piece) -> bool:
        own = {(job.paths[place.file], place.offset) for place in piece.places}
        places: set[tuple[str, int]] = set()
        data = self._sources.read(piece.block.digest, places=places)
        if data is None:
            data = self._sources.unpack(piece.block)
        if data is None:
            return False
        lacking = own - places
        if lacking:
            self._artifacts.write((path, offset, data) for path, offset in lacking)
            with self._store.transaction():
                self._store.add_blocks(StoredBlock(piece.block.digest, path, offset, len(data)) for path, offset in lacking)
                if not own & places:  # taken from elsewhere; what we fetched ourselves is counted already
                    self._store.add_bytes(job.target.digest, reused=piece.payload.bytes)
        return True

    def _take(self, job: TransferJob, blocks: list[BlockArrived], now: MonotonicSeconds) -> None:
        transfer = job.transfer
        if transfer is None:
            return
        taken: dict[bytes, tuple[core.Piece, bytes]] = {}
        damaged: list[bytes] = []
        wasted = received = 0
        parent_gone = False
        for block in blocks:
            payload = block.message.payload
            piece = transfer.piece(block.digest)
            if piece is None or block.digest in taken:
                wasted += len(payload)
                continue
            parent = self._sources.join(piece.payload.parents or ())
            try:
                if parent is not None:
                    taken[block.digest] = piece, decode_payload(piece.payload, piece.block, payload, parent)
                    received += len(payload)
                    continue
            except Refused:
                if sha256(payload) == block.digest:  # it came as it was sent: the publisher's fault, and not the road's
                    raise
            wasted += len(payload)
            if sha256(payload) == block.digest:
                parent_gone = True
            else:
                damaged.append(block.digest)
        self._keep(job, list(taken.values()), now, received=received, wasted=wasted)
        self._run(job, transfer.allow(0, now=now), now)  # what these make room for is divided below, among all
        for digest in taken:
            self._recent[digest] = job.target.digest
            self._run(job, transfer.took(digest, now=now), now)
        for digest in damaged:
            self._refused(mismatch(Code.BLOCK_DIGEST, "payload", expected=digest.hex(), actual="other bytes"), job.model)
            self._run(job, transfer.rejected(digest, now=now), now)
        self._share(now)
        if parent_gone and self._jobs.get(job.model) is job:
            log.warning("fetch.parent_gone", model=job.model, rollout=job.rollout, version=job.target.version)
            self._again(job, now)  # what it costs without the parent is for the budget to allow

    def _keep(self, job: TransferJob, pieces: list[tuple[core.Piece, bytes]], now: MonotonicSeconds, *, received: int, wasted: int) -> None:
        """Write, then record."""
        places = [(piece, job.paths[place.file], place.offset, data) for piece, data in pieces for place in piece.places]
        self._artifacts.write((path, offset, data) for _, path, offset, data in places)
        with self._store.transaction(synced=False):
            self._store.add_blocks(StoredBlock(piece.block.digest, path, offset, len(data)) for piece, path, offset, data in places)
            self._count(job.target.digest, now, received=received, wasted=wasted)
        self._traces.blocks_taken(job.model, job.target, blocks=len(pieces), received=received, wasted=wasted)
        if job.code is Code.BLOCK_TIMEOUT and pieces:
            self._unpark(job)

    def _count(self, release: bytes, now: MonotonicSeconds, *, received: int = 0, wasted: int = 0) -> None:
        self._store.add_bytes(release, received=received, wasted=wasted)
        self._quota.spend(received + wasted, now)

    def _finish(self, job: TransferJob) -> None:
        if job.in_index:
            job.in_index = False
            self._begin(job)
            return
        try:
            for path, file in zip(job.paths, job.files, strict=True):
                self._artifacts.verify(path, file)
        except Refused as refusal:
            if damaged := self._damaged(job):
                raise Refused(Code.DISK_DAMAGED, f"{damaged} on this disk is not what was written there: it is fetched again") from refusal
            self._store.forget_blocks(job.target.digest.hex())  # whatever stands there is not what it was recorded as
            raise
        del self._jobs[job.model]
        log.info("fetch.completed", model=job.model, rollout=job.rollout, version=job.target.version)
        self._post(TransferEnded(job.model, job.target, None))

    def _damaged(self, job: TransferJob) -> str:
        """Return which file has another block than the one that was verified and written; "" where the manifest contradicts itself."""
        for path, file in zip(job.paths, job.files, strict=True):
            offset = 0
            for block in self._blocks(job, file):
                if self._artifacts.holds(path, offset, block.digest, block.bytes) is None:
                    return file.path
                offset += block.bytes
        return ""

    def _again(self, job: TransferJob, now: MonotonicSeconds) -> None:
        """Look at the disk once more and plan anew."""
        if job.transfer is not None:
            self._run(job, job.transfer.cancel(), now)
        self._guard(job, now, lambda: self._begin(job))

    # Budgets

    def _share(self, now: MonotonicSeconds) -> None:
        """Divide the window among the transfers, each within its budget."""
        running = [job for job in self._jobs.values() if job.transfer is not None and not job.transfer.complete]
        for job, (allowed_bytes, stop) in zip(running, self._quota.divide(running, self._window_bytes, now), strict=True):
            if job.transfer is not None:
                job.transfer.pieces_max = max(core.WINDOW_PIECES_MIN, self._window_blocks_max // len(running))
                self._run(job, job.transfer.allow(allowed_bytes, now=now), now)
            if stop is not None:
                if job.transfer is not None and not job.transfer.in_flight_bytes:  # what was asked for within the budget still comes
                    self._park(job, *stop)
            elif job.code in BUDGET_CODES:
                self._unpark(job)

    def _park(self, job: TransferJob, code: Code, reason: str) -> None:
        if job.code is not code:
            job.code = code
            log.warning("fetch.parked", model=job.model, rollout=job.rollout, code=code, reason=reason)
            self._post(TransferStalled(job.model, job.target, code, reason))

    def _unpark(self, job: TransferJob) -> None:
        job.code = None
        log.info("fetch.resumed", model=job.model, rollout=job.rollout)
        self._post(TransferStalled(job.model, job.target, None, ""))

    # The broker

    def _run(self, job: TransferJob, commands: list[core.Command], now: MonotonicSeconds) -> None:
        for command in commands:
            match command:
                case core.Subscribe(digests, only_if_new):
                    mid = self._link.subscribe_blocks(digests, only_if_new=only_if_new)
                    if mid is not None:
                        self._granting[mid] = (job.model, digests)
                case core.Unsubscribe(digests):
                    self._link.unsubscribe_blocks(digests)
                case core.Ask():
                    self._ask(job, command)
                case core.GaveUp():
                    refusal = Refused(Code.BLOCK_TIMEOUT, f"blocks of {job.model} {job.target.version} were asked for and never came")
                    self._park(job, refusal.code, refusal.reason)
                    self._refused(refusal, job.model)
                case core.Complete():
                    self._guard(job, now, lambda: self._finish(job))

    def _ask(self, job: TransferJob, ask: core.Ask) -> None:
        try:
            self._link.want(ask.want(job.target.digest, job.variant, index=job.in_index))
            self._traces.want_sent(job.model, job.target, blocks=sum(one.length for one in ask.ranges), again=ask.again)
        except Unreachable as error:
            log.warning("want.not_sent", model=job.model, rollout=job.rollout, reason=str(error))  # the quiet time asks again

    def _guard(self, job: TransferJob, now: MonotonicSeconds, do: Callable[[], None]) -> None:
        """Park the job where the disk is full, blocks kept; end it at any other refusal."""
        try:
            do()
        except Refused as refusal:
            if self._jobs.get(job.model) is not job:
                raise
            if refusal.code in DISK_CODES:
                if job.transfer is not None:
                    self._run(job, job.transfer.cancel(), now)
                job.transfer, job.scan, job.parked_until = None, None, now + PARKED_SECONDS
                self._park(job, refusal.code, refusal.reason)
                self._refused(refusal, job.model)
            else:
                self.cancel(job.model)
                self._post(TransferEnded(job.model, job.target, refusal))
        else:
            if job.code in DISK_CODES and job.parked_until is None:
                self._unpark(job)
