"""Runs transfers: what `node.core.transfer` decides, done to the broker and the disk, in the order that survives any crash.

Of each payload that arrives: verify, decode, verify, write, record, and only then acknowledge. A kill loses none of it; what a power cut
takes is found by its hash and fetched again; the whole is synced and verified before anything loads it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import structlog

from node.core import transfer as core
from node.core.lifecycle import Target
from node.files import Artifacts
from node.mqtt import BlockArrived, NodeLink
from node.store import Held, NodeStore
from schemas import codec
from schemas.encoding import DECODABLE, decode_payload
from schemas.errors import Code, Refused, Unreachable
from schemas.manifest import Block, File, Index, Manifest
from schemas.want import Want

log = structlog.get_logger()

SCAN_BYTES = 16 * 1024 * 1024  # looked at on disk between two turns of the loop, so that it stays responsive
RECENT_MAX = 1024  # payloads remembered, so that a second copy is counted as waste
PARKED_SECONDS = 60.0  # a full disk is looked at again after this


@dataclass(slots=True)
class Job:
    """One release on its way to disk: first its block lists, where they are too long for the manifest, then its files."""

    model: str
    target: Target
    manifest: Manifest
    variant: str
    files: tuple[File, ...]
    in_index: bool = True
    paths: list[str] = field(default_factory=list)
    scan: Iterator[core.Piece] | None = None
    missing: list[core.Piece] = field(default_factory=list)
    transfer: core.Transfer | None = None
    parked_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended; `refusal` is None when every file is on disk and verified."""

    model: str
    target: Target
    refusal: Refused | None


class Delivery:
    """All transfers of a node."""

    def __init__(
        self,
        *,
        store: NodeStore,
        artifacts: Artifacts,
        link: NodeLink,
        window_bytes: int,
        filters_per_subscribe: int,
        rng: Random,
        ended: Callable[[Outcome], None],
        refused: Callable[[Refused, str], None],
    ) -> None:
        self._store, self._artifacts, self._link = store, artifacts, link
        self._window_bytes, self._filters, self._rng = window_bytes, filters_per_subscribe, rng
        self._ended, self._refused = ended, refused
        self._jobs: dict[str, Job] = {}
        self._recent: dict[bytes, bytes] = {}  # payloads just taken, and for which release: a second copy is waste
        self._granting: dict[int, tuple[str, tuple[bytes, ...]]] = {}
        self._online = False

    @property
    def busy(self) -> bool:
        """Whether something is under way that wants frequent turns."""
        return any(job.scan is not None for job in self._jobs.values())

    @property
    def fetching(self) -> bool:
        """Whether any release is on its way."""
        return bool(self._jobs)

    def start(self, model: str, target: Target, manifest: Manifest, variant: str, now: float) -> None:
        """Bring a release to disk; whatever is there already is used."""
        self.cancel(model)
        files = manifest.files_of(variant)
        job = Job(model, target, manifest, variant, files)
        self._jobs[model] = job
        log.info("fetch.started", model=model, version=target.version)
        self._guard(job, now, lambda: self._begin(job, now))

    def cancel(self, model: str) -> None:
        """Give a transfer up; its blocks stay for the next one."""
        job = self._jobs.pop(model, None)
        if job is not None and job.transfer is not None:
            self._run(job, job.transfer.cancel(), 0.0)

    def connected(self, *, session_present: bool, now: float) -> None:
        """The broker is there."""
        self._online = True
        self._granting.clear()
        for job in list(self._jobs.values()):
            if job.transfer is not None:
                self._run(job, job.transfer.connected(session_present=session_present, now=now), now)

    def disconnected(self) -> None:
        """The broker is gone."""
        self._online = False
        for job in self._jobs.values():
            if job.transfer is not None:
                job.transfer.disconnected()

    def granted(self, mid: int, now: float) -> None:
        """The broker confirmed a SUBSCRIBE."""
        model, digests = self._granting.pop(mid, ("", ()))
        job = self._jobs.get(model)
        if job is not None and job.transfer is not None:
            self._run(job, job.transfer.granted(digests, now=now), now)

    def arrived(self, blocks: Sequence[BlockArrived], now: float) -> None:
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
                self._store.add_bytes(self._recent[block.digest], wasted=len(block.message.payload))
            self._link.ack(block.message)
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def tick(self, now: float) -> None:
        """Look at the disk, ask again, wake what was parked."""
        for job in list(self._jobs.values()):
            if job.parked_until and now >= job.parked_until:
                job.parked_until = 0.0
                self._guard(job, now, lambda job=job: self._begin(job, now))  # type: ignore[misc]
            elif job.scan is not None:
                self._guard(job, now, lambda job=job: self._look(job, now))  # type: ignore[misc]
            elif job.transfer is not None:
                self._run(job, job.transfer.tick(now), now)

    # Phases of a job

    def _begin(self, job: Job, now: float) -> None:
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
        for path, size in zip(job.paths, sizes, strict=True):
            self._artifacts.allocate(path, size)
        wanted = core.pieces(lists, DECODABLE)
        if not job.in_index:
            self._store.put_planned(job.target.digest, sum(piece.payload.bytes for piece in wanted))
        job.scan = iter(wanted)

    def _blocks(self, job: Job, file: File) -> tuple[Block, ...]:
        if file.blocks:
            return file.blocks
        found: list[Block] = []
        for part in file.index:
            data = self._artifacts.holds(f"{job.target.digest.hex()}/index/{part.digest.hex()}", 0, part.digest, part.bytes)
            if data is None:
                raise Refused(Code.ARTIFACT_DIGEST, f"the block list of {file.path} has changed on disk")
            found.extend(codec.decode(Index, data).blocks)
        if sum(block.bytes for block in found) != file.bytes:
            raise Refused(Code.ARTIFACT_DIGEST, f"the block list of {file.path} does not add up to its {file.bytes} bytes")
        return tuple(found)

    def _look(self, job: Job, now: float) -> None:
        """Use what is on disk already, verified again, a bounded stretch at a time."""
        looked = 0
        for piece in job.scan or ():
            if not self._reuse(job, piece):
                job.missing.append(piece)
            looked += piece.block.bytes
            if looked >= SCAN_BYTES:
                return
        job.scan = None
        job.transfer, commands = core.Transfer.start(
            job.missing, window_bytes=self._window_bytes, filters_per_subscribe=self._filters, rng=self._rng, now=now, online=self._online
        )
        log.info("fetch.planned", model=job.model, missing=len(job.missing), index=job.in_index)
        if not job.missing:
            self._finish(job, now)
        else:
            self._run(job, commands, now)

    def _reuse(self, job: Job, piece: core.Piece) -> bool:
        own = {(job.paths[place.file], place.offset) for place in piece.places}
        standing = set()
        data: bytes | None = None
        for held in self._store.held([piece.block.digest]).get(piece.block.digest, []):
            found = self._artifacts.holds(held.path, held.offset, piece.block.digest, piece.block.bytes)
            if found is not None:
                data = found
                standing.add((held.path, held.offset))
        if data is None:
            return False
        lacking = own - standing
        if lacking:
            self._artifacts.write((path, offset, data) for path, offset in lacking)
            with self._store.transaction():
                self._store.add_held(Held(piece.block.digest, path, offset, len(data)) for path, offset in lacking)
                if not job.in_index and not own & standing:  # taken from another release; what we fetched ourselves is counted already
                    self._store.add_bytes(job.target.digest, reused=piece.payload.bytes)
        return True

    def _take(self, job: Job, blocks: list[BlockArrived], now: float) -> None:
        transfer = job.transfer
        if transfer is None:
            return
        writes: list[tuple[str, int, bytes]] = []
        held: list[Held] = []
        taken: dict[bytes, int] = {}
        wasted = 0
        for block in blocks:
            piece = transfer.piece(block.digest)
            if piece is None or block.digest in taken:
                wasted += len(block.message.payload)
                continue
            try:
                data = decode_payload(piece.payload, piece.block, block.message.payload)
            except Refused as refusal:
                wasted += len(block.message.payload)
                self._refused(refusal, job.model)
                self._run(job, transfer.rejected(block.digest, now=now), now)
                continue
            taken[block.digest] = len(block.message.payload)
            for place in piece.places:
                writes.append((job.paths[place.file], place.offset, data))
                held.append(Held(piece.block.digest, job.paths[place.file], place.offset, len(data)))
        self._artifacts.write(writes)
        with self._store.transaction(synced=False):
            self._store.add_held(held)
            if not job.in_index:
                self._store.add_bytes(job.target.digest, received=sum(taken.values()), wasted=wasted)
        for digest in taken:
            self._recent[digest] = job.target.digest
            self._run(job, transfer.took(digest, now=now), now)

    def _finish(self, job: Job, now: float) -> None:
        if job.in_index:
            job.in_index = False
            self._begin(job, now)
            return
        try:
            for path, file in zip(job.paths, job.files, strict=True):
                self._artifacts.verify(path, file)
        except Refused:
            self._store.forget_held(job.target.digest.hex())  # whatever stands there is not what it was recorded as
            raise
        del self._jobs[job.model]
        log.info("fetch.complete", model=job.model, version=job.target.version)
        self._ended(Outcome(job.model, job.target, None))

    def _run(self, job: Job, commands: list[core.Command], now: float) -> None:
        for command in commands:
            match command:
                case core.Subscribe(digests):
                    mid = self._link.subscribe_blocks(digests)
                    if mid is not None:
                        self._granting[mid] = (job.model, digests)
                case core.Unsubscribe(digests):
                    self._link.unsubscribe_blocks(digests)
                case core.Ask():
                    self._ask(job, command)
                case core.Complete():
                    self._guard(job, now, lambda: self._finish(job, now))

    def _ask(self, job: Job, ask: core.Ask) -> None:
        want = Want(
            release=job.target.digest,
            variant=job.variant,
            ranges=ask.ranges,
            encodings=DECODABLE,
            index=job.in_index,
            again=ask.again,
            choice=ask.choice,
        )
        try:
            self._link.want(want)
        except Unreachable as error:
            log.warning("want.not_sent", model=job.model, reason=str(error))  # the quiet time asks again

    def _guard(self, job: Job, now: float, do: Callable[[], None]) -> None:
        """A full disk parks the job, blocks kept; any other refusal ends it."""
        try:
            do()
        except Refused as refusal:
            if refusal.code is Code.DISK_FULL:
                log.warning("fetch.parked", model=job.model, code=refusal.code, reason=refusal.reason)
                if job.transfer is not None:
                    self._run(job, job.transfer.cancel(), now)
                job.transfer, job.scan, job.parked_until = None, None, now + PARKED_SECONDS
                self._refused(refusal, job.model)
            else:
                self.cancel(job.model)
                self._ended(Outcome(job.model, job.target, refusal))
