"""A hub whose object store is slow: it trickles, hangs after the head of an answer, or answers late. All that needs no store goes on."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from bench.roads import Weather
from hub.core.delivery import store_health
from hub.core.rollouts import commands
from hub.publish import object_store
from hub.publish.blocks import open_blocks
from hub.publish.object_store import ObjectStore
from hub.publish.shared_blocks import SharedBlocks
from hub.service.delivery import block_fetcher
from schemas import codec
from schemas.errors import Unreachable
from schemas.manifest import Manifest
from schemas.names import sha256
from tests.brokers import Broker
from tests.hub.hubs import BLOCKS, Device, Fleet, until
from tests.hub.service.delivery.test_object_blocks import alerts
from tests.hub.service.telemetry.test_ingest import window_of
from tests.objects import Bucket

GOES_ON_SECONDS = 2.0
HEAD = b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nlast-modified: Mon, 30 Nov 2026 07:00:00 GMT\r\netag: "a"\r\n\r\nabc'


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (object_store, "TIMEOUT_SECONDS", 3.0),
        (object_store, "STALL_SECONDS", 1.5),
        (object_store, "RETRIES_MAX", 0),
        (block_fetcher, "RETRY", block_fetcher.Backoff(0.1, 0.2)),
        (block_fetcher, "PROBE_SECONDS", 0.3),
        (store_health, "SLOW_SECONDS", 0.5),
        (store_health, "WELL_SECONDS", 1.0),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def hanging() -> Iterator[int]:
    """A server that begins to answer, and never ends."""
    listener, taken = socket.create_server(("127.0.0.1", 0)), list[socket.socket]()

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            taken.append(near)
            near.recv(65536)
            near.sendall(HEAD)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for one in taken:
        one.close()


def slow_down(bucket: Bucket, how: str, hanging: int) -> None:
    if how == "hangs after the head":
        bucket.road.broker_port = hanging
    else:
        bucket.road.weather = Weather(rate=100) if how == "trickles" else Weather(latency=30)
    bucket.road.cut()


def speed_up(bucket: Bucket) -> None:
    bucket.road.weather = Weather()
    bucket.come_back()
    bucket.road.cut()


HOW = ("trickles", "hangs after the head", "answers late")


@pytest.mark.parametrize("how", [HOW[1], *(pytest.param(how, marks=pytest.mark.slow) for how in HOW if how != HOW[1])])
def test_a_hub_with_a_slow_object_store_goes_on_alerts_and_says_when_it_is_over(
    how: str, mosquitto: Broker, fleet: Fleet, bucket: Bucket, hanging: int
) -> None:
    blocks = open_blocks(fleet.directory, fleet.settings(None, **bucket.settings))
    away = fleet.publish("1.0.0", blocks=blocks)
    shutil.rmtree(fleet.directory / "blocks")
    local = fleet.publish("1.1.0", seed=2, blocks=blocks)
    slow_down(bucket, how, hanging)
    with fleet.hub(mosquitto, **bucket.settings):
        Device.connect("n1", mosquitto, fleet).want(away)
        until("an alert", lambda: alerts(fleet, "blocks.slow") or alerts(fleet, "blocks.unreachable"))

        def go_on(turn: int) -> None:
            device = Device.connect(f"n2-{turn}", mosquitto, fleet)
            for what, act in acts(fleet, device, local, turn):
                began = time.monotonic()
                until(what, act())
                assert time.monotonic() - began < GOES_ON_SECONDS, what

        go_on(1)
        until("a store that is away", lambda: alerts(fleet, "blocks.unreachable"))
        go_on(2)
        assert bucket.url in alerts(fleet, "blocks.unreachable")[0]
        assert (len(alerts(fleet, "blocks.slow")) <= 1, len(alerts(fleet, "blocks.unreachable"))) == (True, 1)

        speed_up(bucket)
        until("the blocks that were wanted", lambda: len(fleet.store.publish_counts()) == 2 * BLOCKS)
        until("the end of it", lambda: fleet.events("blocks.reachable"))


def acts(fleet: Fleet, device: Device, local: Manifest, turn: int) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    """What goes on beside a slow store: each begins by a call, and returns how to see that it is done."""

    def report() -> Callable[[], object]:
        device.say_state(cohort=f"cohort-{turn}")
        return lambda: (row := fleet.store.node(device.name)) is not None and row.cohort == f"cohort-{turn}"

    def want() -> Callable[[], object]:
        before = fleet.store.publish_counts()
        device.want(local, again=True)
        return lambda: all(
            fleet.store.publish_counts().get(block.digest, 0) > before.get(block.digest, 0) for block in local.variants[0].files[0].blocks
        )

    def measure() -> Callable[[], object]:
        window = window_of(local).model_copy(update={"id": os.urandom(16)})
        device.client.link.publish(fleet.topics.telemetry("delay", "nyc"), codec.encode(window))
        return lambda: sum(row.windows for row in fleet.store.intervals("delay")) == turn

    def halt() -> Callable[[], object]:
        number = fleet.store.add_command("delay", commands.read("halt", "{}"))
        return lambda: (row := fleet.store.command(number)) is not None and row.state != "open"

    yield from (("a report", report), ("a want of what is here", want), ("a window", measure), ("a command", halt))


class Narrow(ObjectStore):
    """A store with a line that carries one payload at a time: any other times out."""

    under_way = 0

    def bring(self, digest: bytes, read: Callable[[], bytes | None], *, is_new: bool) -> Future[None]:
        if self.under_way:
            late: Future[None] = Future()
            late.set_exception(Unreachable("it is too slow"))
            return late
        self.under_way += 1
        found = super().bring(digest, read, is_new=is_new)
        found.add_done_callback(self._ended)
        return found

    def _ended(self, _: object) -> None:
        self.under_way -= 1


def test_an_upload_that_is_too_slow_at_once_goes_on_one_by_one_and_tells(bucket: Bucket, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    objects = Narrow(bucket.url, "main", endpoint_url=bucket.endpoint_url)
    shared = SharedBlocks(tmp_path / "blocks", objects, tell=lambda *step: told.append(step))
    payloads = [bytes([number]) * 1000 for number in range(6)]

    with shared.batch() as batch:
        for data in payloads:
            batch.put(sha256(data), data)

    assert sorted(objects.digests()) == sorted(map(sha256, payloads))
    assert told[0] == (f"blocks to {bucket.url}", 0, 6)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("how", HOW)
def test_a_slow_store_ends_each_request_in_its_time(how: str, fleet: Fleet, bucket: Bucket, hanging: int) -> None:
    blocks = open_blocks(fleet.directory, fleet.settings(None, **bucket.settings))
    digest = fleet.publish("1.0.0", blocks=blocks).variants[0].files[0].blocks[0].digest
    slow_down(bucket, how, hanging)
    began = time.monotonic()

    with pytest.raises(Unreachable, match=r"does not answer|is too slow, \d+ bytes came"):
        blocks.fetch(digest)  # type: ignore[attr-defined]

    assert time.monotonic() - began < 3 + GOES_ON_SECONDS
