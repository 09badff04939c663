"""Spans of a rollout's trace: ids that both sides derive, and a collector that cannot hold anybody up."""

import socket
import sys
import time
from collections.abc import Iterator

import pytest

from fleetcast import rollout_spans
from fleetcast.rollout_spans import NoSpans, Span, is_sampled, node_span_id, root_id, spans_of
from hub.core.rollouts.earlier_nodes import as_rollout
from schemas.deployments import Deployment, Deployments, attempt_id, back_id, rollout_of
from schemas.earlier_rollouts import as_deployments
from schemas.errors import Code, Refused
from schemas.rollout import ReleaseRef

ROLLOUT = bytes(range(16))


def test_ids_are_those_of_the_first_version_for_ever() -> None:
    assert root_id(ROLLOUT).hex() == "693bae4ca614c90e"
    assert node_span_id(ROLLOUT, "gate-1", "fetch").hex() == "c7c015186aaf01f7"
    assert node_span_id(ROLLOUT, "gate-1", "activate").hex() == "2767f2b840130ed5"


def test_the_sampled_share_of_nodes_is_as_asked_and_rises_with_it() -> None:
    nodes = [f"n{number}" for number in range(4000)]
    tenth = {node for node in nodes if is_sampled(ROLLOUT, node, 0.1)}

    assert len(tenth) == pytest.approx(400, abs=100)
    assert tenth < {node for node in nodes if is_sampled(ROLLOUT, node, 0.2)}
    assert all(is_sampled(ROLLOUT, node, 1.0) for node in nodes)


def test_every_attempt_and_the_way_back_belong_to_their_rollout() -> None:
    one = Deployment(name="default", release=ReleaseRef("1.0.0", bytes(32)), state="running", rollout=ROLLOUT, attempt=3, started=1)
    earlier = one.model_copy(update={"attempt": 1})

    assert {rollout_of([one], found) for found in (ROLLOUT, attempt_id(one), attempt_id(earlier), back_id(ROLLOUT))} == {ROLLOUT}
    assert rollout_of([one], bytes(16)) == bytes(16)


def test_a_node_of_the_version_before_deployments_has_the_same_id() -> None:
    one = Deployment(name="default", release=ReleaseRef("1.0.0", bytes(32)), state="running", rollout=ROLLOUT, started=1)
    earlier = as_rollout(Deployments(model="m", serial=1, expires=1, deployments=(one,)), [])

    assert earlier is not None
    assert [found.rollout for found in as_deployments(earlier, expires=1).deployments] == [ROLLOUT]


def test_without_a_url_nothing_of_opentelemetry_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fleetcast.otlp_spans", None)
    spans = spans_of("", service="s", instance="i", fleet="f")
    spans.record(Span(name="x", rollout=ROLLOUT, began=1, ended=2, parent=None))
    spans.stop()

    assert isinstance(spans, NoSpans)
    assert not spans.on
    with pytest.raises(Refused, match="extra `otel`") as refused:
        spans_of("http://127.0.0.1:1", service="s", instance="i", fleet="f")
    assert refused.value.code is Code.SETTINGS_INVALID


@pytest.fixture
def silent() -> Iterator[str]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"


def test_a_collector_that_never_answers_holds_up_neither_work_nor_end(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fleetcast import otlp_spans

    monkeypatch.setattr(otlp_spans, "STOP_SECONDS_MAX", 0.2)
    spans = rollout_spans.spans_of(silent, service="s", instance="i", fleet="f")
    began = time.monotonic()
    for number in range(otlp_spans.WAITING_MAX + 500):
        spans.record(Span(name="x", rollout=ROLLOUT, began=number, ended=number, parent=root_id(ROLLOUT), attributes={"n": number}))
    spans.record(Span(name="x", rollout=bytes(16), began=1, ended=1, parent=None))
    spans.stop()

    assert time.monotonic() - began < 10
