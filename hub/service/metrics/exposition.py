"""Write a hub's figures in the Prometheus text format. Every label is a model, a deployment, or a word of a closed list, never a node."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from hub.service.metrics.figures import Figures

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PREFIX = "fleetcast_hub"
Series = Mapping[tuple[str, ...], float]


def encode(figures: Figures, *, software: str, fleet: str, turned_at: float, accept: str) -> tuple[bytes, str]:
    """Return the figures as a scraper accepts them, and their content type. `turned_at`: when the loop last ended a turn."""
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415  # most hubs are not scraped, and do without
    from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(lambda: families(figures, software=software, fleet=fleet, turned_at=turned_at)))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class _Collector:
    def __init__(self, collect: "Callable[[], Iterator[Metric]]") -> None:
        self.collect = collect


def families(figures: Figures, *, software: str, fleet: str, turned_at: float) -> "Iterator[Metric]":
    """Return every metric family."""
    yield _labelled("info", "This hub.", ("software", "fleet"), {(software, fleet): 1})
    yield from _of_process(figures, turned_at)
    yield from _of_connection(figures)
    yield from _of_rollouts(figures)
    yield from _of_messages(figures)
    expires = "When a role of the signed metadata expires, in Unix time; `model`: the first of all models' roles."
    yield _labelled("metadata_expires_seconds", expires, ("role",), {(role,): at for role, at in figures.expires.items()})


def _of_process(figures: Figures, turned_at: float) -> "Iterator[Metric]":
    yield _gauge("turned_seconds", "When the hub's loop last ended a turn, in Unix time: one that hangs ends none.", turned_at)
    yield _gauge("gathered_seconds", "When these figures were gathered, in Unix time.", figures.gathered_at)
    yield _gauge("memory_bytes", "Resident memory of the hub.", figures.memory_bytes)
    yield _counter("cpu_seconds", "Processor time that the hub has used.", figures.cpu_seconds)
    if figures.database_bytes is not None:
        yield _gauge("database_bytes", "Size of the database's file; absent for a database server.", figures.database_bytes)
    yield _gauge("disk_free_bytes", "Free space where the fleet's folder is.", figures.disk_free_bytes)


def _of_connection(figures: Figures) -> "Iterator[Metric]":
    yield _gauge("connected", "Whether the hub is connected to the broker.", figures.connected)
    changed = "When it was connected, or lost its connection, in Unix time."
    yield _gauge("connection_changed_seconds", changed, figures.connection_changed_at)
    listening = "Whether the hub hears its nodes now: it is connected and subscribed, and has read what had come before."
    yield _gauge("listening", listening, figures.listening)
    yield _by(
        "nodes", "Nodes by their last report; `silent`: online, and not heard for silent_seconds of listening.", "status", figures.nodes
    )
    yield _by("node_findings", "Nodes that report something that is wrong with them, by its code.", "code", figures.findings)


def _of_rollouts(figures: Figures) -> "Iterator[Metric]":
    place = ("model", "deployment")
    rows = figures.rollouts
    info: Series = {(one.model, one.deployment, one.version, one.rollout, one.state): 1.0 for one in rows}
    yield _labelled(
        "rollout_info",
        "A deployment's present rollout, by its id, as logs and traces have it.",
        (*place, "version", "rollout", "state"),
        info,
    )
    percent: Series = {(one.model, one.deployment): float(one.percent) for one in rows}
    yield _labelled("rollout_percent", "Share of the deployment's nodes that the present stage reaches.", place, percent)
    stage: Series = {(one.model, one.deployment): float(one.stage) for one in rows}
    yield _labelled("rollout_stage", "Number of the present stage, from 1.", place, stage)
    classes: Series = {(one.model, one.deployment, name): float(count) for one in rows for name, count in one.classes.items()}
    yield _labelled("rollout_nodes", "Nodes that a rollout has reached, by class.", (*place, "class"), classes)
    yield _gauge("rollouts_left_out", "Rollouts that are not shown here, because there are too many.", figures.rollouts_left_out)


def _of_messages(figures: Figures) -> "Iterator[Metric]":
    yield _by("messages", "Messages that were read, by lane.", "lane", figures.messages, counts=True)
    yield _by("messages_waiting", "Messages that wait to be read, by lane.", "lane", figures.waiting)
    yield _by("messages_dropped", "Messages that were let go because too many came, by lane.", "lane", figures.dropped, counts=True)
    yield _by("messages_refused", "Messages that the hub refused, by code.", "code", figures.refused, counts=True)
    yield _by("alerts", "Alerts that were raised, by kind.", "kind", figures.alerts, counts=True)
    yield _by("drift_tests", "Intervals that were tested for drift, by whether they alarmed.", "alarm", figures.tests, counts=True)
    yield _counter("wants", "Requests for blocks that were taken.", figures.wants)
    yield _counter("blocks_published", "Blocks that were published.", figures.blocks)
    yield _counter("block_bytes_published", "Bytes of blocks that were published.", figures.block_bytes)
    yield _gauge("blocks_waiting", "Blocks that wait to be published.", figures.blocks_waiting)


def _gauge(name: str, about: str, value: float) -> "Metric":
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

    return GaugeMetricFamily(f"{PREFIX}_{name}", about, value=value)


def _counter(name: str, about: str, value: float) -> "Metric":
    from prometheus_client.metrics_core import CounterMetricFamily  # noqa: PLC0415

    return CounterMetricFamily(f"{PREFIX}_{name}", about, value=value)


def _by(name: str, about: str, label: str, values: Mapping[str, float], *, counts: bool = False) -> "Metric":
    return _labelled(name, about, (label,), {(key,): value for key, value in sorted(values.items())}, counts=counts)


def _labelled(name: str, about: str, labels: tuple[str, ...], values: Series, *, counts: bool = False) -> "Metric":
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    kind = CounterMetricFamily if counts else GaugeMetricFamily
    found: CounterMetricFamily | GaugeMetricFamily = kind(f"{PREFIX}_{name}", about, labels=labels)
    for key, value in values.items():
        found.add_metric(list(key), value)
    return found
