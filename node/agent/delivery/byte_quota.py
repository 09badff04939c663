"""Work out what the node's transfers may spend now: its policy for the present road, what has come today, and how fast it may come."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import structlog

from node.agent.delivery.transfer_job import TransferJob
from node.core.delivery.byte_quota import Claim, Policy, TransferUsage, allowance, shares
from node.core.delivery.token_bucket import TokenBucket
from node.core.delivery.transfer import Transfer
from node.core.trust.clock import MonotonicSeconds, WallClock, WallSeconds
from node.storage.store import NodeStore
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX
from schemas.state import LinkClass
from schemas.windows import is_open

log = structlog.get_logger()

LINKS: tuple[LinkClass, ...] = ("free", "metered", "roaming")
LINK_BYTES_MAX = 64
LINK_READ_SECONDS = 5.0  # how often the file that says what the road costs is looked at


class ByteQuota:
    """Apply the byte budgets of a node."""

    def __init__(
        self,
        store: NodeStore,
        *,
        link: LinkClass,
        link_file: Path | None,
        policies: Mapping[LinkClass, Policy],
        rate_bytes_per_second_max: float | None,
        wall: WallClock,
        zone: tzinfo = UTC,
        found: Callable[[Sequence[Refused]], None] = lambda refusals: None,
    ) -> None:
        self._zone, self._found = zone, found
        self._store, self._given, self._link_file, self._policies, self._wall = store, link, link_file, policies, wall
        burst_bytes = max(BLOCK_BYTES_MAX, int(rate_bytes_per_second_max or 0))  # a second's worth, and a block in any case
        self._rate = TokenBucket(rate_bytes_per_second_max, burst_bytes) if rate_bytes_per_second_max else None
        self._link: LinkClass = link
        self._read_at = WallSeconds(0.0)

    @property
    def link(self) -> LinkClass:
        """Return what the present road costs, as the site says; what it says wrongly counts as the dearest."""
        if self._link_file is not None and abs(self._wall() - self._read_at) >= LINK_READ_SECONDS:
            self._read_at = self._wall()
            link, wrong = self._read(self._link_file)
            self._found([wrong] if wrong else [])
            if link != self._link:
                log.info("link.changed", link=link)
            self._link = link
        return self._link

    def _read(self, file: Path) -> tuple[LinkClass, Refused | None]:
        """Return the class of link that the file has, and what is wrong with the file."""
        try:
            with file.open("rb") as opened:
                said = opened.read(LINK_BYTES_MAX).decode(errors="replace").strip()
        except OSError as error:
            reason = f"link_file {file} cannot be read ({error.strerror}): the link counts as {self._given}, as `link` says"
            return self._given, Refused(Code.SETTINGS_INVALID, reason)
        for link in LINKS:
            if said.lower() == link:
                return link, None
        reason = f"link_file {file} has {said[:32]!r}, and not one of {', '.join(LINKS)}: the link counts as roaming, the dearest"
        return "roaming", Refused(Code.SETTINGS_INVALID, reason)

    def spend(self, size_bytes: int, now: MonotonicSeconds) -> None:
        """Count payload bytes that came."""
        if self._rate is not None:
            self._rate.spend(size_bytes, now)
        if size_bytes:
            self._store.add_day_bytes(self._local().toordinal(), self.link, size_bytes)

    def divide(self, jobs: Sequence[TransferJob], window_bytes: int, now: MonotonicSeconds) -> list[tuple[int, tuple[Code, str] | None]]:
        """Return for each job how many bytes it may have in flight, and why it has to wait when its budget says so."""
        local = self._local()
        link = self.link
        policy = self._policies.get(link) or Policy.default(link)
        in_flight = sum(job.transfer.in_flight_bytes for job in jobs if job.transfer is not None)
        today = self._store.day_bytes(local.toordinal(), link) + in_flight
        claims: list[Claim] = []
        stops: list[tuple[Code, str] | None] = []
        for job in jobs:
            transfer = job.transfer
            if transfer is None:
                raise ValueError("a job without a transfer has no share")
            use = _use(job, transfer, self._store)
            if not use.missing_bytes:
                stops.append(None)
                claims.append(Claim(job.carriage.priority, 0, transfer.in_flight_bytes, 0))
                continue
            found = allowance(
                policy,
                job.carriage,
                use,
                next_bytes=transfer.missing[0].payload.bytes,
                link=link,
                today_bytes=today,
                local=local,
                is_window_open=job.carriage.fetch is None or is_open(job.carriage.fetch, local.timestamp(), self._zone),
            )
            stops.append((found.code, found.reason) if found.code is not None else None)
            # One whose blocks do not come keeps nobody else waiting.
            allowed = 0 if transfer.stalled and len(jobs) > 1 else found.bytes
            claims.append(Claim(job.carriage.priority, use.missing_bytes, transfer.in_flight_bytes, allowed))
        if self._rate is not None:
            window_bytes = min(window_bytes, max(0, int(self._rate.level(now))))
        return list(zip(shares(claims, window_bytes), stops, strict=True))

    def _local(self) -> datetime:
        return datetime.fromtimestamp(float(self._wall()), self._zone)


def _use(job: TransferJob, transfer: Transfer, store: NodeStore) -> TransferUsage:
    ledger = store.usage_of(job.target.digest)
    return TransferUsage(
        received_bytes=ledger.received + ledger.wasted,
        in_flight_bytes=transfer.in_flight_bytes,
        missing_bytes=transfer.missing_bytes,
        instead_bytes=job.instead_bytes,
    )
