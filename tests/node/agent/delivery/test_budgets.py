"""Budgets, priorities and rates over a real broker: a hard stop is hard, says why, and ends when it may."""

import time
from pathlib import Path
from random import Random

import pytest

from node.core.delivery.byte_quota import Policy
from schemas.encoding import DECODABLE
from schemas.errors import Code
from schemas.manifest import Block, Payload, cheapest
from schemas.names import sha256
from schemas.rollout import Carriage
from tests.brokers import Broker
from tests.node.agent.hubs import BLOCK, Hub, Node, release, serving, target

DAY = 86_400


def test_a_day_s_budget_stops_the_transfer_at_the_byte_and_the_next_day_goes_on(mosquitto: Broker, tmp_path: Path) -> None:
    data = Random(1).randbytes(10 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(mosquitto, tmp_path, policies={"metered": Policy(bytes_day_max=4 * BLOCK + 17)})
        node.link_file.write_text("metered\n")

        node.fetch(manifest)
        node.until(lambda: node.stalled)
        for _ in range(30):
            node.turn()

        assert [event.code for event in node.stalled] == [Code.BUDGET_DAY]
        assert node.store.usage_of(target(manifest).digest).received == 4 * BLOCK
        node.wall += DAY
        node.until(lambda: len(node.stalled) == 3)  # goes on, stops again
        assert [event.code for event in node.stalled] == [Code.BUDGET_DAY, None, Code.BUDGET_DAY]
        assert node.store.usage_of(target(manifest).digest).received == 8 * BLOCK
        node.wall += DAY
        node.until(lambda: node.ended)

        assert node.file(manifest) == data
        assert [count for _, link, count in node.store.days() if link == "metered"] == [2 * BLOCK, 4 * BLOCK, 4 * BLOCK]
        node.die()


def test_a_kill_does_not_give_the_day_s_budget_back(mosquitto: Broker, tmp_path: Path) -> None:
    manifest, payloads = release(Random(2).randbytes(6 * BLOCK))
    policies = {"free": Policy(bytes_day_max=2 * BLOCK)}
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(mosquitto, tmp_path, policies=policies)
        node.fetch(manifest)
        node.until(lambda: node.stalled)
        node.die()

        again = Node(mosquitto, tmp_path, policies=policies)
        again.fetch(manifest)
        again.until(lambda: again.stalled)

        assert again.store.usage_of(target(manifest).digest).received == 2 * BLOCK
        again.die()


def test_a_road_that_begins_to_cost_too_much_is_left_and_taken_up_again(mosquitto: Broker, tmp_path: Path) -> None:
    data = Random(3).randbytes(8 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(mosquitto, manifest, payloads)) as hub:
        node = Node(mosquitto, tmp_path, policies={"roaming": Policy(bytes_day_max=0)})
        node.link_file.write_text("roaming")

        node.fetch(manifest)
        node.until(lambda: node.stalled)

        assert node.stalled[0].code is Code.BUDGET_DAY
        assert not hub.published  # not one byte
        node.link_file.write_text("free")
        node.wall += 60
        node.until(lambda: node.ended)
        assert node.file(manifest) == data
        node.die()


def test_a_word_that_is_no_link_class_counts_as_the_dearest(mosquitto: Broker, tmp_path: Path) -> None:
    node = Node(mosquitto, tmp_path)
    node.link_file.write_text("5G!!")

    assert node.quota.link == "roaming"
    node.die()


def test_a_rollout_s_cap_stops_before_the_first_byte(mosquitto: Broker, tmp_path: Path) -> None:
    manifest, payloads = release(Random(4).randbytes(4 * BLOCK))
    with serving(Hub(mosquitto, manifest, payloads)) as hub:
        node = Node(mosquitto, tmp_path)

        node.fetch(manifest, carriage=Carriage(bytes_max=4 * BLOCK - 1))
        node.until(lambda: node.stalled)
        for _ in range(20):
            node.turn()

        assert node.stalled[0].code is Code.BUDGET_ROLLOUT
        assert not hub.published
        node.delivery.cancel("m")
        node.fetch(manifest, carriage=Carriage(bytes_max=4 * BLOCK))
        node.until(lambda: node.ended)
        assert node.ended[0].refusal is None
        node.die()


def test_a_delta_without_its_parent_is_no_full_download_unless_the_rollout_says_so(mosquitto: Broker, tmp_path: Path) -> None:
    data = Random(5).randbytes(2 * BLOCK)
    manifest, payloads = release(data)
    file = manifest.variants[0].files[0]
    blocks = tuple(
        Block(one.digest, one.bytes, (Payload("delta", sha256(b"d" + one.digest), 50, (sha256(b"gone"),)),)) for one in file.blocks
    )
    variant = manifest.variants[0].model_copy(update={"files": (file.model_copy(update={"blocks": blocks}),)})
    manifest = manifest.model_copy(update={"variants": (variant,)})
    assert [cheapest(block, DECODABLE).encoding for block in blocks] == ["raw", "raw"]
    with serving(Hub(mosquitto, manifest, payloads)) as hub:
        node = Node(mosquitto, tmp_path)
        node.link_file.write_text("metered")

        node.fetch(manifest, follows=True)
        node.until(lambda: node.stalled)

        assert node.stalled[0].code is Code.BUDGET_FULL
        assert not hub.published
        node.delivery.cancel("m")
        node.fetch(manifest, follows=True, carriage=Carriage(full_download=True))
        node.until(lambda: node.ended)
        assert node.file(manifest) == data
        node.die()


def test_the_first_release_of_a_model_comes_whole_on_any_road(mosquitto: Broker, tmp_path: Path) -> None:
    data = Random(6).randbytes(2 * BLOCK)
    manifest, payloads = release(data)
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(mosquitto, tmp_path)
        node.link_file.write_text("metered")
        node.fetch(manifest)
        node.until(lambda: node.ended)
        assert node.file(manifest) == data
        node.die()


def test_a_rate_is_kept_on_average(mosquitto: Broker, tmp_path: Path) -> None:
    manifest, payloads = release(Random(7).randbytes(10 * BLOCK))
    with serving(Hub(mosquitto, manifest, payloads)):
        node = Node(mosquitto, tmp_path, rate=4.0 * BLOCK)
        node.until(lambda: node.connected)
        began = time.monotonic()

        node.fetch(manifest)
        node.until(lambda: node.ended)

        assert time.monotonic() - began >= (10 - 4) / 4 * 0.9  # a burst of four, then four a second
        node.die()


def test_the_urgent_transfer_passes_the_one_that_began_earlier(mosquitto: Broker, tmp_path: Path) -> None:
    large, more = release(Random(8).randbytes(40 * BLOCK), model="large")
    small, few = release(Random(9).randbytes(8 * BLOCK), model="small")
    with serving(Hub(mosquitto, large, {**more, **few}, others=(small,))):
        node = Node(mosquitto, tmp_path, rate=20.0 * BLOCK)
        node.fetch(large, carriage=Carriage(priority=1))
        node.until(lambda: node.store.usage_of(target(large).digest).received >= 2 * BLOCK)

        node.fetch(small, carriage=Carriage(priority=9))
        node.until(lambda: len(node.ended) == 2)

        assert [outcome.model for outcome in node.ended] == ["small", "large"]
        node.die()


@pytest.mark.parametrize("bound", [3 * BLOCK, 8 * BLOCK])
def test_a_disk_quota_parks_the_release_and_room_lets_it_go_on(
    mosquitto: Broker, tmp_path: Path, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.agent.delivery.transfers.PARKED_SECONDS", 0.2)
    old, payloads = release(Random(10).randbytes(4 * BLOCK))
    new, more = release(Random(11).randbytes(5 * BLOCK))
    with serving(Hub(mosquitto, new, {**payloads, **more}, others=(old,))):
        node = Node(mosquitto, tmp_path)
        node.fetch(old)
        node.until(lambda: node.ended)
        node.ended.clear()
        node.delivery._disk_bytes_max = bound

        node.fetch(new)
        node.until(lambda: node.stalled)
        assert node.stalled[0].code is Code.DISK_QUOTA
        node.until(lambda: node.refused)

        node.artifacts.remove(target(old).digest)
        if bound < 5 * BLOCK:
            node.delivery._disk_bytes_max = 5 * BLOCK
        node.until(lambda: node.ended)
        assert node.ended[0].refusal is None
        assert node.stalled[-1].code is None
        node.die()
