"""Define the spans of a rollout's trace, which hub and nodes add to without a word about it on the wire.

A rollout's id is 16 random bytes in the signed statement that every node verifies: it is the W3C trace id. The ids of the spans that others
hang theirs on are derived from it, from the attempt and from the node's name. So a span of the hub about a node's request has that node's
transfer as its parent, and nodes and hubs of earlier versions are simply absent from the trace.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from schemas.errors import Code, Refused

SPAN_ID_BYTES = 8
What = Literal["fetch", "activate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Hold a piece of work that has ended. Times are the wall clock's; `code` says why it failed."""

    name: str
    rollout: bytes  # The trace's id.
    began: float
    ended: float
    parent: bytes | None  # None for the trace's first span.
    id: bytes | None = None  # A random one, if None.
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    code: str = ""


class Spans(Protocol):
    """Take spans; called by a loop, so it must neither wait nor raise."""

    @property
    def on(self) -> bool:
        """Return whether spans go anywhere."""

    def record(self, span: Span) -> None:
        """Take one span."""

    def stop(self) -> None:
        """Send what waits, for a moment."""


class NoSpans:
    """Take spans and do nothing with them: the default."""

    on = False

    def record(self, span: Span) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


def root_id(rollout: bytes) -> bytes:
    """Return the id of the span with which a rollout begins."""
    return _derived(rollout, b"rollout")


def node_span_id(attempt: bytes, node: str, what: What) -> bytes:
    """Return the id of a node's span in one attempt of a rollout."""
    return _derived(attempt, f"{what} {node}".encode())


def is_sampled(rollout: bytes, node: str, share: float) -> bool:
    """Return whether this node is in the share of nodes that are traced. Hub and node find the same, where their shares are the same."""
    place = hashlib.blake2b(f"sampled {node}".encode(), key=rollout, digest_size=8).digest()
    return int.from_bytes(place, "big") < share * 2**64


def spans_of(url: str, *, service: str, instance: str, fleet: str) -> Spans:
    """Return what sends spans to an OTLP receiver at this URL; without one, what does nothing.

    Raises:
        Refused: SETTINGS_INVALID: OpenTelemetry is not installed.
    """
    if not url:
        return NoSpans()
    try:
        from fleetcast.otlp_spans import OtlpSpans  # noqa: PLC0415  # 20 MiB that only those who ask for it pay
    except ImportError as error:
        reason = f"traces_url needs OpenTelemetry, which is not installed ({error}): install fleetcast's extra `otel`"
        raise Refused(Code.SETTINGS_INVALID, reason) from None
    return OtlpSpans(url, service=service, instance=instance, fleet=fleet)


def _derived(key: bytes, what: bytes) -> bytes:
    return hashlib.blake2b(what, key=key, digest_size=SPAN_ID_BYTES).digest()
