"""A node sends windows again that a broker lost with the hub's session: the same bytes, once a request, and at no cost of privacy."""

import itertools
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fleetcast.mqtt_connection import Cleared, Message
from node.agent.reports.reporter import Reporter
from node.broker.mqtt import NodeLink, ReceiptsAsked, WindowsAsked
from node.core.telemetry import privacy_accountant
from node.core.telemetry.privacy_accountant import START, Witness
from node.core.telemetry.sent_again import ANSWER_SECONDS, ASKED_MAX
from node.core.trust.clock import MonotonicSeconds, WallSeconds
from node.enrol.identity import Identity
from node.storage.outbox import SENT_KEPT
from node.storage.store import NodeStore
from schemas.window_request import WindowRequest
from tests.brokers import FLEET

NODE = "n1"


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    made = NodeStore.of_agent(tmp_path / "node.sqlite")
    yield made
    made.close()


@pytest.fixture
def reporter_of(tmp_path: Path, now: list[float]) -> Callable[[NodeStore], Reporter]:
    identity = Identity.load_or_create(tmp_path / "key.pem")

    def made(store: NodeStore, *, windows: bool = True) -> Reporter:
        return Reporter(
            node=NODE,
            store=store,
            link=NodeLink("mqtt://127.0.0.1:1", fleet=FLEET, node=NODE, inbox=queue.Queue[Any](), tls=None),
            identity=lambda: identity,
            wall=lambda: WallSeconds(0.0),
            monotonic=lambda: MonotonicSeconds(now[0]),
            rng=Random(0),
            windows=windows,
        )

    return made


@pytest.fixture
def reporter(store: NodeStore, reporter_of: Callable[..., Reporter]) -> Reporter:
    made = reporter_of(store)
    made.connected(session_present=True)
    return made


def take_all(store: NodeStore, reporter: Reporter) -> list[bytes]:
    """Have the broker take all that waits, and return it."""
    waiting = store.waiting(10_000)
    for mid, one in enumerate(waiting):
        reporter._sending[mid] = one.id
        reporter.published(mid)
    return [one.payload for one in waiting]


def sent(store: NodeStore, reporter: Reporter, *payloads: bytes) -> None:
    for payload in payloads:
        store.enqueue("window", "t", payload)
    take_all(store, reporter)


def test_the_same_bytes_are_sent_and_the_privacy_ledger_stays_as_it_is(store: NodeStore, reporter: Reporter, now: list[float]) -> None:
    end = Witness(0, START)
    with store.transaction():
        store.add_entry(privacy_accountant.following(end, at=1, days=[5], rho=0.1, what="window"), end.head)
        store.enqueue("window", "t", b"noisy")
    take_all(store, reporter)
    before = store.ledger(), store.spent_days()
    now[0] += 60

    reporter.send_windows_again(WindowRequest(1, 300, 30))

    assert take_all(store, reporter) == [b"noisy"]
    assert (store.ledger(), store.spent_days()) == before


def test_only_windows_of_the_time_that_was_lost_are_sent(store: NodeStore, reporter: Reporter, now: list[float]) -> None:
    for number in range(10):
        sent(store, reporter, b"%d" % number)
        now[0] += 60

    reporter.send_windows_again(WindowRequest(1, 310, 160))

    assert take_all(store, reporter) == [b"5", b"6", b"7"]


def test_a_repeated_request_is_answered_once_over_a_restart_too(
    tmp_path: Path, store: NodeStore, reporter: Reporter, reporter_of: Callable[..., Reporter], now: list[float]
) -> None:
    sent(store, reporter, b"1")
    reporter.send_windows_again(WindowRequest(7, None, 0))
    take_all(store, reporter)
    now[0] += 2 * ANSWER_SECONDS
    reporter.send_windows_again(WindowRequest(7, None, 0))
    again = reporter_of(store)
    again.connected(session_present=True)
    again.send_windows_again(WindowRequest(7, None, 0))

    assert store.waiting(10) == []


def test_hostile_requests_cost_at_most_twice_what_telemetry_costs(store: NodeStore, reporter: Reporter, now: list[float]) -> None:
    sent(store, reporter, *(b"%d" % number for number in range(SENT_KEPT)))
    came = list[int]()
    for number in range(1, 1000):
        reporter.send_windows_again(WindowRequest(number, None, 0))
        came.append(len(take_all(store, reporter)))
        now[0] += ANSWER_SECONDS / 10

    answered = [at for at, windows in enumerate(came) if windows]
    assert sum(came) == ASKED_MAX * SENT_KEPT
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(answered))


def test_a_node_that_has_sent_all_again_to_a_broker_that_forgot_sends_nothing(
    store: NodeStore, reporter: Reporter, now: list[float]
) -> None:
    sent(store, reporter, b"1", b"2")
    now[0] += 60  # The broker dies and forgets; the hub is back, and then this node.
    reporter.connected(session_present=False)
    now[0] += 1
    assert take_all(store, reporter) == [b"1", b"2"]
    now[0] += 19

    reporter.send_windows_again(WindowRequest(1, None, 21))

    assert store.waiting(10) == []


def test_a_window_that_an_earlier_process_sent_is_sent_again(
    store: NodeStore, reporter: Reporter, reporter_of: Callable[..., Reporter], now: list[float]
) -> None:
    sent(store, reporter, b"1")
    now[0] = 5.0  # The device was off, and its clock begins anew.
    again = reporter_of(store)
    again.connected(session_present=True)
    now[0] += 30

    again.send_windows_again(WindowRequest(1, 86_400, 3600))

    assert take_all(store, again) == [b"1"]


def test_a_site_that_sends_no_telemetry_sends_none_on_request(
    store: NodeStore, reporter: Reporter, reporter_of: Callable[..., Reporter]
) -> None:
    sent(store, reporter, b"1")
    reporter.windows = False

    reporter.send_windows_again(WindowRequest(1, None, 0))
    assert store.waiting(10) == []

    reporter.windows = True  # The hub repeats it.
    reporter.send_windows_again(WindowRequest(1, None, 0))
    assert len(store.waiting(10)) == 1


def test_an_older_hubs_empty_message_means_receipts_and_a_newer_one_nothing() -> None:
    link = NodeLink("mqtt://127.0.0.1:1", fleet=FLEET, node=NODE, inbox=queue.Queue[Any](), tls=None)

    def heard(windows: str) -> object:
        return link.parse(Message(link.settings_topic, b"", False, 1, 1, 1, windows=windows))

    assert isinstance(heard(""), ReceiptsAsked)
    asked = heard("7 3600 20")
    assert isinstance(asked, WindowsAsked)
    assert asked.request == WindowRequest(7, 3600, 20)
    assert isinstance(heard("v2: whatever comes later"), Cleared)
