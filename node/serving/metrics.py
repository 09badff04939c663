"""Expose what the node counts in the Prometheus text format. Every label is a model or release that is loaded here, or a word of a closed
list: clients cannot make series.
"""

import os
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address
from itertools import accumulate
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.core.doctor.agent_health import AgentStatus
from node.serving.request_telemetry import Observing, resident_bytes
from node.serving.traffic import LATENCY_SECONDS
from node.serving.worker_pool import WorkerPool

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def metrics_route(
    pool: WorkerPool, observing: Observing, status: Callable[[], AgentStatus | None], *, software: str, shows_all: bool = False
) -> Route:
    """Return what to mount. `status` is the agent's last report about itself, at most a few seconds old.

    The counts of what was asked here are exact, where what the hub learns of it has noise: so a scraper on another machine gets them, and
    what telemetry spent of its budget, only where `shows_all`.
    """
    collector = Collector(pool, observing, status, software)

    async def metrics(request: Request) -> Response:
        """Answer GET /metrics."""
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415  # 1.3 MiB that a node nobody scrapes does without
        from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415

        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector if shows_all or is_local(request.client.host if request.client else "") else collector.without_traffic)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return Route("/metrics", metrics)


def is_local(address: str) -> bool:
    """Return whether a scraper is on this device: it came by a Unix socket, or from a loopback address."""
    if not address:
        return True
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


class WithoutTraffic:
    """Collect what a scraper on another machine may have: how the node is, and nothing of what was asked there."""

    def __init__(self, collector: "Collector") -> None:
        self._collector = collector

    def collect(self) -> "Iterator[Metric]":
        """Return the families."""
        yield from self._collector.health()


class Collector:
    """Collect every metric family; called for each scrape, on the loop that also serves."""

    def __init__(self, pool: WorkerPool, observing: Observing, status: Callable[[], AgentStatus | None], software: str) -> None:
        self._pool, self._observing, self._status, self._software = pool, observing, status, software

    def collect(self) -> "Iterator[Metric]":
        """Return the families."""
        yield from self._requests()
        yield from self.health()
        yield from self._telemetry()

    @property
    def without_traffic(self) -> WithoutTraffic:
        """Return the same without counts of what was asked."""
        return WithoutTraffic(self)

    def health(self) -> "Iterator[Metric]":
        """Return what says nothing of what was asked, nor of what telemetry made of it."""
        yield from self._releases()
        yield from self._agent()

    def _requests(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        traffic = self._observing.traffic
        traffic.forget_others(self._pool.slots)
        requests = CounterMetricFamily(
            "fleetcast_requests",
            "Requests for a model by outcome; failed: the release's fault, refused: the client's.",
            labels=["model", "outcome"],
        )
        rows = CounterMetricFamily("fleetcast_rows", "Rows of answered requests.", labels=["model"])
        latency = HistogramMetricFamily(
            "fleetcast_request_seconds", "Time from a request's first byte to its answer, of answered requests.", labels=["model"]
        )
        waiting = GaugeMetricFamily("fleetcast_requests_waiting", "Requests that have begun and are not answered yet.", labels=["model"])
        for model, slot in sorted(self._pool.slots.items()):
            one = traffic.of(model)
            for outcome, count in one.outcomes.items():
                requests.add_metric([model, outcome], count)
            rows.add_metric([model], one.rows)
            bounds = [*(str(bound) for bound in LATENCY_SECONDS), "+Inf"]
            latency.add_metric([model], list(zip(bounds, accumulate(one.latencies), strict=True)), one.seconds)
            waiting.add_metric([model], slot.waiting)
        unmatched = CounterMetricFamily("fleetcast_requests_unmatched", "Requests that named no model of this node, or could not be read.")
        unmatched.add_metric([], traffic.unmatched)
        yield from (requests, rows, latency, waiting, unmatched)

    def _releases(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

        labels = ["model", "version"]
        info = GaugeMetricFamily("fleetcast_release_info", "Loaded releases, by digest and role.", labels=[*labels, "digest", "role"])
        live = GaugeMetricFamily("fleetcast_release_live", "Whether the release can be asked.", labels=labels)
        deaths = GaugeMetricFamily("fleetcast_worker_deaths", "How often in a row its worker ended by itself.", labels=labels)
        memory = GaugeMetricFamily("fleetcast_worker_memory_bytes", "Resident memory of the release's worker.", labels=labels)
        for model, slot in sorted(self._pool.slots.items()):
            for loaded in slot.loaded.values():
                values = [model, loaded.staged.version]
                role = "serving" if loaded is slot.current else "compared" if loaded is slot.beside else "held"
                info.add_metric([*values, loaded.staged.digest.hex()[:16], role], 1)
                live.add_metric(values, loaded.live)
                deaths.add_metric(values, loaded.deaths)
                if (held := self._observing.memory_bytes(loaded)) is not None:
                    memory.add_metric(values, held)
        coming = GaugeMetricFamily("fleetcast_release_coming", "First releases of models that are on their way here.", labels=labels)
        for model, one in sorted(self._pool.coming.items()):
            coming.add_metric([model, one.version], 1)
        yield from (info, live, deaths, memory, coming)

    def _agent(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

        info = GaugeMetricFamily("fleetcast_node_info", "This node.", labels=["software"])
        info.add_metric([self._software], 1)
        yield info
        yield _gauge("agent_memory_bytes", "Resident memory of the agent.", resident_bytes(os.getpid()) or 0)
        status = self._status()
        if status is None:
            return
        yield _gauge("connected", "Whether the node is connected to the broker.", status.online)
        yield _gauge("connection_changed_seconds", "When it was connected, or lost its connection, in Unix time.", status.since)
        yield _gauge("findings", "Things that are wrong with the node now, as the hub sees them.", len(status.findings))
        yield _gauge("read_only", "Whether the disk takes nothing.", bool(status.read_only))
        if status.expires is not None:
            yield _gauge("metadata_expires_seconds", "When the first role of the signed metadata expires, in Unix time.", status.expires)
        if status.certificate_expires is not None:
            yield _gauge("certificate_expires_seconds", "When the device's certificate expires, in Unix time.", status.certificate_expires)

    def _telemetry(self) -> "Iterator[Metric]":
        """Return what telemetry spent and kept back: it is computed from rows, and stays on the device (docs/security.md)."""
        status = self._status()
        if status is not None and (budget := status.telemetry) is not None:
            yield _gauge("telemetry_rho_spent", "Privacy budget (zCDP rho) that today's windows have spent.", budget.rho_spent)
            yield _gauge("telemetry_rho_day_max", "Privacy budget (zCDP rho) of a day.", budget.rho_day_max)
            yield _gauge("telemetry_windows_waiting", "Windows that wait to be sent.", budget.windows_waiting)
            withheld = "Windows that were not sent, because the budget was spent."
            yield _gauge("telemetry_windows_withheld", withheld, budget.windows_withheld)


def _gauge(name: str, help: str, value: float) -> "Metric":
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

    return GaugeMetricFamily(f"fleetcast_{name}", help, value=value)
