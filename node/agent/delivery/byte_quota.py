"""Work out what the node's transfers may spend now: its policy for the present road, what has come today, and how fast it may come."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import structlog

from node.agent.delivery.transfer_job import TransferJob
from node.core.delivery.byte_quota import Claim, Policy, TransferUsage, allowance, shares
from node.core.delivery.token_bucket import TokenBucket
from node.core.delivery.transfer import Transfer
from node.core.trust.clock import MonotonicSeconds, WallClock, WallSeconds
from node.storage.store import NodeStore
from schemas.errors import Code
from schemas.limits import BLOCK_BYTES_MAX
from schemas.state import LinkClass
from schemas.windows import is_open

log = structlog.get_logger()

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
    ) -> None:
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
            try:
                stated = self._link_file.read_text()[:64].strip()
            except OSError:
                stated = self._given
            link: LinkClass = stated if stated in {"free", "metered", "roaming"} else "roaming"  # type: ignore[assignment]
            if link != self._link:
                log.info("link.changed", link=link, stated=stated)
            self._link = link
        return self._link

    def spend(self, size_bytes: int, now: MonotonicSeconds) -> None:
        """Count payload bytes that came."""
        if self._rate is not None:
            self._rate.spend(size_bytes, now)
        if size_bytes:
            self._store.add_day_bytes(self._day_and_minute()[0], self.link, size_bytes)

    def divide(self, jobs: Sequence[TransferJob], window_bytes: int, now: MonotonicSeconds) -> list[tuple[int, tuple[Code, str] | None]]:
        """Return for each job how many bytes it may have in flight, and why it has to wait when its budget says so."""
        day, minute = self._day_and_minute()
        link = self.link
        policy = self._policies.get(link) or Policy.default(link)
        in_flight = sum(job.transfer.in_flight_bytes for job in jobs if job.transfer is not None)
        today = self._store.day_bytes(day, link) + in_flight
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
                minute=minute,
                is_window_open=job.carriage.fetch is None or is_open(job.carriage.fetch, float(self._wall())),
            )
            stops.append((found.code, found.reason) if found.code is not None else None)
            # One whose blocks do not come keeps nobody else waiting.
            allowed = 0 if transfer.stalled and len(jobs) > 1 else found.bytes
            claims.append(Claim(job.carriage.priority, use.missing_bytes, transfer.in_flight_bytes, allowed))
        if self._rate is not None:
            window_bytes = min(window_bytes, max(0, int(self._rate.level(now))))
        return list(zip(shares(claims, window_bytes), stops, strict=True))

    def _day_and_minute(self) -> tuple[int, int]:
        local = datetime.fromtimestamp(float(self._wall())).astimezone()
        return local.toordinal(), local.hour * 60 + local.minute


def _use(job: TransferJob, transfer: Transfer, store: NodeStore) -> TransferUsage:
    ledger = store.usage_of(job.target.digest)
    return TransferUsage(
        received_bytes=ledger.received + ledger.wasted,
        in_flight_bytes=transfer.in_flight_bytes,
        missing_bytes=transfer.missing_bytes,
        instead_bytes=job.instead_bytes,
    )
