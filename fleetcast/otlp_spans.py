"""Send spans to an OpenTelemetry collector by OTLP over HTTP, from a thread of the SDK's: bounded, and lost where nobody takes them."""

import logging
import secrets
import threading

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context

from fleetcast.rollout_spans import SPAN_ID_BYTES, Span

WAITING_MAX = 2048  # Spans that wait to be sent; newer ones take the place of older ones.
SEND_SECONDS = 2.0  # Between two sendings.
REQUEST_SECONDS_MAX = 5.0
STOP_SECONDS_MAX = 2.0  # How long an end waits for a collector that does not answer.
SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class _GivenIds(IdGenerator):
    """Return the ids that the next span is to have. Spans are recorded by one thread."""

    trace, span = 0, 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span


class OtlpSpans:
    """Send spans."""

    on = True

    def __init__(self, url: str, *, service: str, instance: str, fleet: str) -> None:
        for name in ("opentelemetry.sdk", "opentelemetry.exporter"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # A collector that is away is no news of the fleet's.
        self._ids = _GivenIds()
        resource = {"service.name": service, "service.instance.id": instance, "service.namespace": fleet}
        # `ALWAYS_ON` and `SpanLimits` are given, so that no variable of the environment switches spans off or cuts them.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource(resource), shutdown_on_exit=False, id_generator=self._ids, span_limits=SpanLimits()
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=url, timeout=REQUEST_SECONDS_MAX),
                max_queue_size=WAITING_MAX,
                schedule_delay_millis=SEND_SECONDS * 1e3,
                max_export_batch_size=WAITING_MAX // 4,
            )
        )
        self._tracer = self._provider.get_tracer("fleetcast")

    def record(self, span: Span) -> None:
        """Take one span; a rollout without an id, which no hub makes, has no trace."""
        if not any(span.rollout):
            return
        self._ids.trace = int.from_bytes(span.rollout, "big")
        self._ids.span = int.from_bytes(span.id or secrets.token_bytes(SPAN_ID_BYTES), "big")
        context = None
        if span.parent is not None:
            parent = SpanContext(self._ids.trace, int.from_bytes(span.parent, "big"), is_remote=True, trace_flags=SAMPLED)
            context = set_span_in_context(NonRecordingSpan(parent))
        attributes = {f"fleetcast.{name}": value for name, value in span.attributes.items()}
        found = self._tracer.start_span(span.name, context=context, attributes=attributes, start_time=int(span.began * 1e9))
        if span.code:
            found.set_status(Status(StatusCode.ERROR, span.code))
        found.end(end_time=int(max(span.began, span.ended) * 1e9))

    def stop(self) -> None:
        """Send what waits, for a moment."""
        ending = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)  # It would wait for half a minute.
        ending.start()
        ending.join(STOP_SECONDS_MAX)
