"""Bring payloads from the object store into the hub's folder, in threads beside the loop, so that the loop waits for no network.

What the store does not answer is asked for again with back-off, one payload at a time, and reported, as is a store that is slow
(hub/core/delivery/store_health.py). Nodes that wait get the blocks when the store is back.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from fleetcast.backoff import Backoff
from hub.core.delivery.store_health import StoreHealth
from hub.publish import object_store
from hub.publish.block_store import BlockStore
from hub.publish.shared_blocks import SharedBlocks
from hub.service.alerts.event_log import Notes
from hub.settings import HubSettings
from schemas.analytics_messages import Alert
from schemas.block_request import Want
from schemas.errors import Code, Refused, Unreachable
from schemas.manifest import Payload

log = structlog.get_logger()

THREADS: Final = 4
ASKED_MAX: Final = 4096  # Payloads that wait to be fetched; a node asks again for what is beyond.
PARKED_MAX: Final = 1024  # Requests that wait for a block list.
TRIM_BYTES: Final = 64 * 2**20  # The folder is measured after this much was fetched.
RETRY: Final = Backoff(0.5, 30.0)
PROBE_SECONDS: Final = 30.0  # After this a store in trouble that nobody waits for is tried, so that the trouble has an end.
REPORT_SECONDS: Final = 600.0  # Between two alerts about a store that stays away or slow, or about the same payload.


class BlockFetcher:
    """Fetch payloads; `ask`, `take` and `report` are called by the loop's thread alone."""

    def __init__(
        self,
        blocks: SharedBlocks,
        *,
        cache_bytes_max: int,
        notes: Notes,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        arrived: Callable[[], object],
    ) -> None:
        """Prepare; `arrived` is called by a thread when a payload is there."""
        self._blocks, self._cache_bytes_max = blocks, cache_bytes_max
        self._notes, self._wall, self._monotonic, self._woken = notes, wall, monotonic, arrived
        self._changed = threading.Condition()
        self._asked: deque[bytes] = deque()
        self._known: set[bytes] = set()  # Asked for, or being fetched.
        self._arrived: deque[bytes] = deque()
        self._failed: deque[tuple[bytes, Refused]] = deque()
        self._health, self._fetched_bytes = StoreHealth(), 0
        self._begun: dict[bytes, float] = {}  # When each request under way began.
        self._latest: bytes | None = None  # The last payload that was asked for.
        self._alone = threading.Lock()  # Held by the only thread that asks a store which has failed.
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        # What follows is touched by the loop's thread alone.
        self._payloads: dict[bytes, tuple[Payload, bool]] = {}
        self._wants: dict[bytes, list[tuple[str, Want]]] = {}
        self._reported_at: dict[str, float] = {}  # By the kind of trouble.
        self._damage_reported_at: dict[bytes, float] = {}
        self._full_reported_at, self._is_full_reported = float("-inf"), False

    def start(self) -> None:
        """Start the threads."""
        self._threads = [threading.Thread(target=self._run, name=f"blocks-{number}", daemon=True) for number in range(THREADS)]
        self._threads.append(threading.Thread(target=self._share, name="blocks-share", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; one that waits for the network is left behind, and ends with the process."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(0.2)

    # By the loop

    def absent(self, payloads: list[Payload]) -> list[Payload]:
        """Return those of these payloads that are not in the folder."""
        return [payload for payload in payloads if not self._blocks.is_local(payload.digest)]

    def ask(self, payload: Payload, *, again: bool) -> None:
        """Have a payload fetched; `take` returns it when it is there."""
        if self._ask(payload.digest):
            self._payloads[payload.digest] = (payload, again)

    def prefetch(self, digest: bytes) -> None:
        """Have a payload fetched that nobody is waiting for at this moment."""
        self._ask(digest)

    def park(self, part: bytes, node: str, want: Want) -> None:
        """Keep a request until a part of a block list is there."""
        if sum(map(len, self._wants.values())) < PARKED_MAX and self._ask(part):
            self._wants.setdefault(part, []).append((node, want))

    def take(self) -> tuple[list[tuple[Payload, bool]], list[tuple[str, Want]]]:
        """Return what has arrived since the last call: payloads, and requests whose block list is there now."""
        payloads: list[tuple[Payload, bool]] = []
        wants: list[tuple[str, Want]] = []
        while self._arrived:
            digest = self._arrived.popleft()
            if found := self._payloads.pop(digest, None):
                payloads.append(found)
            wants += self._wants.pop(digest, [])
        return payloads, wants

    @property
    def waiting(self) -> int:
        """Return how many payloads are waited for."""
        return len(self._known)

    @property
    def trouble(self) -> str:
        """Return what is wrong with the object store; empty while it is well."""
        return self._health.reason if self._health.trouble is not None else ""

    def report(self) -> None:
        """Alert that the object store is away, slow or has other bytes, or that our disk keeps none, and say when that is over."""
        now = self._monotonic()
        self._report_store(now)
        self._report_disk(now)
        while self._failed:
            digest, refusal = self._failed.popleft()
            self._payloads.pop(digest, None)
            self._wants.pop(digest, None)
            if now - self._damage_reported_at.get(digest, float("-inf")) >= REPORT_SECONDS:
                if len(self._damage_reported_at) >= ASKED_MAX:
                    self._damage_reported_at.clear()
                self._damage_reported_at[digest] = now
                text = f"a block cannot be served: {refusal.reason}"
                self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(refusal.code), text=text))

    def _report_store(self, now: float) -> None:
        with self._changed:
            oldest = min(self._begun.values(), default=now)
            self._health = health = self._health.waited(now - oldest, now=now)
        url = self._blocks.objects.url
        if health.trouble is None:
            if self._reported_at:
                self._reported_at.clear()
                for mended in (Code.BLOCKS_UNREACHABLE, Code.BLOCKS_SLOW):
                    self._notes.troubles.end(str(mended))
                self._notes.event("blocks.reachable", f"the object store {url} answers again")
            return
        if now - self._reported_at.get(health.trouble, float("-inf")) < REPORT_SECONDS:
            return
        self._reported_at[health.trouble] = now
        if health.trouble == "away":
            code, text = Code.BLOCKS_UNREACHABLE, f"blocks cannot be served until the object store is back: {health.reason}"
        else:
            code, text = Code.BLOCKS_SLOW, f"the object store {url} is slow: {health.reason}; blocks that the hub's folder lacks come late"
        self._notes.troubles.begin(str(code), text)
        self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(code), text=text))

    def _report_disk(self, now: float) -> None:
        trouble = self._blocks.not_kept
        if trouble and now - self._full_reported_at >= REPORT_SECONDS:
            self._full_reported_at, self._is_full_reported = now, True
            what = f"blocks cannot be kept in {trouble}; they are served from memory, and fetched from the object store again and again"
            text = f"{what}: make room there, or lower blocks_cache_bytes_max"
            log.error("blocks.not_kept", reason=trouble)
            self._notes.troubles.begin(str(Code.DISK_FULL), text, about="blocks")
            self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(Code.DISK_FULL), text=text))
        elif not trouble and self._is_full_reported:
            self._is_full_reported, self._full_reported_at = False, float("-inf")
            self._notes.troubles.end(str(Code.DISK_FULL), about="blocks")
            self._notes.event("blocks.kept", f"blocks are kept in {self._blocks.directory} again")

    def _ask(self, digest: bytes) -> bool:
        with self._changed:
            if digest not in self._known:
                if len(self._known) >= ASKED_MAX:
                    return False
                self._known.add(digest)
                self._asked.append(digest)
                self._changed.notify()
        return True

    # By the threads

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                while not self._asked and not self._stopping.is_set():
                    if not self._changed.wait(PROBE_SECONDS if self._health.trouble is not None else None):
                        break
                if self._stopping.is_set():
                    return
                digest = self._asked.popleft() if self._asked else None
                is_strained = self._health.is_strained
            if digest is None:
                self._try()
                continue
            if not is_strained:
                self._fetch(digest)
                continue
            with self._alone:  # A slow line is not divided, and a store that is away is not asked by all threads.
                if not self._stopping.is_set():
                    self._fetch(digest)

    def _fetch(self, digest: bytes) -> None:
        try:
            size = self._fetched(digest) if not self._blocks.intact(digest) else 0
        except Unreachable as error:
            wait = self._not_answered(str(error))
            with self._changed:
                self._asked.append(digest)  # behind the others
            self._stopping.wait(wait)
            return
        except Refused as refusal:
            self._failed.append((digest, refusal))
        except Exception:  # a bug of ours must not end the thread
            log.exception("block.fetch_failed", digest=digest.hex())
        else:
            self._arrived.append(digest)
            self._woken()
            self._trim(size)
        with self._changed:
            self._known.discard(digest)

    def _try(self) -> None:
        """Ask a store in trouble for something that nobody waits for, unless somebody waits for another thread's answer."""
        with self._changed:
            digest = self._latest
            if self._begun or self._health.trouble is None:
                return
            self._begun[digest or b""] = self._monotonic()  # So that one thread does.
        try:
            if digest is not None:
                self._fetched(digest)
            else:
                began = self._monotonic()
                self._blocks.objects.check()
                self._answered(self._monotonic() - began)
        except Unreachable as error:
            self._not_answered(str(error))
        except Refused as refusal:
            log.warning("block.refused", code=str(refusal.code), reason=refusal.reason)
        finally:
            with self._changed:
                self._begun.pop(digest or b"", None)

    def _fetched(self, digest: bytes) -> int:
        """Fetch a payload, and return its bytes."""
        began = self._monotonic()
        with self._changed:
            self._begun[digest], self._latest = began, digest
            patience = object_store.TIMEOUT_SECONDS if self._health.is_strained else None
        try:
            size = len(self._blocks.fetch(digest, stall_seconds=patience))
        except Refused:  # It has answered.
            self._answered(self._monotonic() - began)
            raise
        finally:
            with self._changed:
                self._begun.pop(digest, None)
        self._answered(self._monotonic() - began)
        return size

    def _not_answered(self, reason: str) -> float:
        with self._changed:
            if self._health.trouble != "away":
                log.error("blocks.unreachable", reason=reason)
            self._health = self._health.failed(reason, now=self._monotonic())
            return RETRY.after(self._health.failures).seconds

    def _answered(self, seconds: float) -> None:
        with self._changed:
            self._health = self._health.answered(seconds, now=self._monotonic())

    def _trim(self, size: int) -> None:
        """Bring the folder to its bound again, after enough was added to it."""
        with self._changed:
            self._fetched_bytes += size
            if self._fetched_bytes < TRIM_BYTES:
                return
            self._fetched_bytes = 0
        try:
            self._blocks.trim(self._cache_bytes_max)
        except Unreachable as error:
            self._not_answered(str(error))
        except Refused as refusal:  # The thread goes on: nodes wait for what it fetches.
            log.error("blocks.not_trimmed", code=str(refusal.code), reason=refusal.reason)

    def _share(self) -> None:
        """Bring to the object store what only the folder has: all of it, where the fleet had no object store before."""
        while not self._stopping.is_set():
            try:
                shared = self._blocks.share()
                self._answered(0.0)
            except Unreachable as error:
                self._stopping.wait(self._not_answered(str(error)))
                continue
            except Refused as refusal:
                log.error("blocks.not_shared", code=str(refusal.code), reason=refusal.reason)
                return
            if shared:
                log.info("blocks.shared", payloads=shared)
            with self._changed:
                self._fetched_bytes = TRIM_BYTES
            self._trim(0)
            return


def fetcher_of(
    blocks: BlockStore,
    settings: HubSettings,
    notes: Notes,
    wall: Callable[[], float],
    monotonic: Callable[[], float],
    *,
    arrived: Callable[[], object],
) -> BlockFetcher | None:
    """Return what fetches these blocks; None where there is no object store behind them."""
    if not isinstance(blocks, SharedBlocks):
        return None
    size = settings.blocks_cache_bytes_max
    return BlockFetcher(blocks, cache_bytes_max=size, notes=notes, wall=wall, monotonic=monotonic, arrived=arrived)
