"""Deltas over a real broker: against the release on disk, whatever has become of it meanwhile."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from hub.core.delivery.encode import Ancestor, encode_block
from node.core.delivery.byte_quota import Policy
from schemas import codec
from schemas.encoding import DECODABLE
from schemas.errors import Code
from schemas.limits import BLOCK_BYTES_MAX
from schemas.manifest import Block, File, Manifest, Tensor, Variant, cheapest
from schemas.names import sha256
from schemas.rollout import Carriage
from tests.brokers import Broker
from tests.node.agent.hubs import Hub, Node, release, serving, target

COUNT = 12
SIZE = BLOCK_BYTES_MAX


def weights(seed: int) -> bytes:
    return np.random.default_rng(seed).normal(size=COUNT * SIZE // 4).astype("<f4").tobytes()


def tuned(data: bytes) -> bytes:
    values = np.frombuffer(data, "<f4")
    moved = np.random.default_rng(9).normal(size=len(values)) * 1e-4
    return (values + moved).astype("<f4").tobytes()


def cut(data: bytes, size: int = SIZE) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def manifest_of(version: str, blocks: list[Block], data: bytes, parents: tuple[bytes, ...] | None = None) -> Manifest:
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, 1))
    file = File(path="model.onnx", bytes=len(data), digest=sha256(data), blocks=tuple(blocks))
    variants = (Variant(name="v", files=(file,)),)
    return Manifest(model="m", version=version, created=1, parents=parents, inputs=(tensor,), outputs=(tensor,), variants=variants)


def two_releases() -> tuple[Manifest, Manifest, dict[bytes, bytes], bytes, bytes]:
    old, payloads = weights(1), {}
    new = tuned(old)
    first, second = [], []
    for before, after in zip(cut(old), cut(new), strict=True):
        block, found = encode_block(before, dtype="float32")
        first.append(block)
        payloads.update(found)
        block, found = encode_block(after, dtype="float32", parents=[Ancestor((sha256(before),), before)])
        second.append(block)
        payloads.update(found)
    one = manifest_of("1.0.0", first, old)
    return one, manifest_of("2.0.0", second, new, (target(one).digest,)), payloads, old, new


def wire(manifest: Manifest, holds: set[bytes]) -> int:
    return sum(cheapest(block, DECODABLE, holds.__contains__).bytes for block in manifest.variants[0].files[0].blocks)


def test_an_update_comes_as_a_delta_and_a_fresh_node_takes_the_whole(broker: Broker, tmp_path: Path) -> None:
    first, second, payloads, _, new = two_releases()
    held = {block.digest for block in first.variants[0].files[0].blocks}
    with serving(Hub(broker, second, payloads, others=(first,))):
        node, fresh = Node(broker, tmp_path / "a"), Node(broker, tmp_path / "b", name="node-b")
        node.fetch(first)
        node.until(lambda: node.ended)
        node.fetch(second, follows=True)
        node.until(lambda: len(node.ended) == 2)
        fresh.fetch(second)
        fresh.until(lambda: fresh.ended)

        assert (node.file(second), fresh.file(second)) == (new, new)
    delta, whole = (one.store.usage_of(target(second).digest).received for one in (node, fresh))
    assert (delta, whole) == (wire(second, held), wire(second, set()))
    assert delta < 0.75 * whole
    node.die()
    fresh.die()


def test_a_parent_that_rots_under_the_delta_asks_the_policy_and_not_the_road(mosquitto: Broker, tmp_path: Path) -> None:
    first, second, payloads, old, new = two_releases()
    with serving(Hub(mosquitto, second, payloads, others=(first,))) as hub:
        node = Node(mosquitto, tmp_path, policies={"metered": Policy(full_download=False)}, rate=3.0 * SIZE)
        node.link_file.write_text("metered")
        node.fetch(first)
        node.until(lambda: node.ended)
        node.fetch(second, follows=True)
        node.until(lambda: node.store.usage_of(target(second).digest).received > 0)
        path = node.artifacts.path(node.artifacts.relative(target(first).digest, "v", first.variants[0].files[0]))
        rotten = bytearray(old)
        rotten[11 * SIZE + 7] ^= 1  # the last block's parent
        path.write_bytes(rotten)

        node.until(lambda: any(event.code is Code.BUDGET_FULL for event in node.stalled))
        whole = second.variants[0].files[0].blocks[11]
        assert not hub.published[cheapest(whole, DECODABLE).digest]
        node.delivery.cancel("m")
        node.fetch(second, follows=True, carriage=Carriage(full_download=True))
        node.until(lambda: len(node.ended) == 2)

        assert node.file(second) == new
        ledger = node.store.usage_of(target(second).digest)
        assert ledger.planned == ledger.received + ledger.reused
        node.die()


def test_a_delta_that_does_not_give_its_block_is_the_publisher_s_fault_and_ends_the_release(mosquitto: Broker, tmp_path: Path) -> None:
    first, second, payloads, old, _ = two_releases()
    lying = [
        Block(sha256(b"not this"), block.bytes, block.payloads) if number == 3 else block
        for number, block in enumerate(second.variants[0].files[0].blocks)
    ]
    wrong = manifest_of("2.0.0", lying, tuned(old))
    with serving(Hub(mosquitto, wrong, payloads, others=(first,))):
        node = Node(mosquitto, tmp_path)
        node.fetch(first)
        node.until(lambda: node.ended)

        node.fetch(wrong, follows=True)
        node.until(lambda: len(node.ended) == 2)

        refusal = node.ended[1].refusal
        assert refusal is not None
        assert refusal.code in {Code.BLOCK_PARENT, Code.BLOCK_DIGEST, Code.BLOCK_DECODE}
        assert node.file(first) == old  # nothing of what served is touched
        node.die()


def test_a_newer_release_cancels_the_older_transfer_and_uses_its_blocks(mosquitto: Broker, tmp_path: Path) -> None:
    data = Random(1).randbytes(20 * 60_000)
    old, payloads = release(data)
    changed = data[: 15 * 60_000] + Random(2).randbytes(5 * 60_000)
    new, more = release(changed)
    with serving(Hub(mosquitto, new, {**payloads, **more}, others=(old,), mute_after=10)) as hub:
        node = Node(mosquitto, tmp_path)
        node.fetch(old)
        node.until(lambda: node.store.usage_of(target(old).digest).received >= 8 * 60_000)
        got = node.store.usage_of(target(old).digest).received
        hub.mute_after = 10**9

        node.fetch(new)
        node.until(lambda: node.ended)

        assert node.file(new) == changed
        assert [outcome.target for outcome in node.ended] == [target(new)]
        assert node.store.usage_of(target(new).digest).reused >= got
        node.die()


def test_a_manifest_says_of_a_delta_whose_it_is_and_of_nothing_else() -> None:
    _, second, _, _, _ = two_releases()
    block = second.variants[0].files[0].blocks[0]
    delta = next(one for one in block.payloads if one.encoding == "delta")
    bad = [
        block._replace(payloads=(delta._replace(parents=None),)),
        block._replace(payloads=(delta._replace(parents=(block.digest,)),)),
        block._replace(payloads=(delta._replace(encoding="zstd"),)),
    ]
    for one in bad:
        with pytest.raises(ValueError, match="parent"):
            File(path="m", bytes=block.bytes, digest=bytes(32), blocks=(one,))
    assert codec.decode(Manifest, codec.encode(second)) == second


def test_blocks_that_are_each_other_s_parents_come_whole(mosquitto: Broker, tmp_path: Path) -> None:
    one, two = cut(weights(3))[:2]
    first, found = encode_block(one, dtype="float32", parents=[Ancestor((sha256(two),), two)])
    near = tuned(one + two)[: len(one)]
    second, more = encode_block(near, dtype="float32", parents=[Ancestor((sha256(one),), one)])
    circle = first._replace(payloads=(*first.payloads, second.payloads[-1]._replace(parents=(second.digest,))))
    manifest = manifest_of("1.0.0", [circle, second], one + near)
    with serving(Hub(mosquitto, manifest, {**found, **more})) as hub:
        node = Node(mosquitto, tmp_path)
        node.fetch(manifest)
        node.until(lambda: node.ended)

        assert node.file(manifest) == one + near
        assert second.payloads[-1].encoding == "delta"
        assert not hub.published[second.payloads[-1].digest]
        node.die()


def test_blocks_that_never_come_are_told_and_taken_when_they_do(mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.core.delivery.transfer.GIVE_UP_SECONDS", 0.5)
    monkeypatch.setattr("node.core.delivery.transfer.QUIET_SECONDS_MIN", 0.2)
    monkeypatch.setattr("node.core.delivery.transfer.QUIET_SECONDS_MAX", 0.4)
    data = Random(3).randbytes(6 * 60_000)
    manifest, payloads = release(data)
    with serving(Hub(mosquitto, manifest, payloads, mute_after=3)) as hub:
        node = Node(mosquitto, tmp_path)
        node.fetch(manifest)
        node.until(lambda: node.stalled)

        assert (node.stalled[0].code, node.refused) == (Code.BLOCK_TIMEOUT, [Code.BLOCK_TIMEOUT])
        assert node.store.usage_of(target(manifest).digest).received == 3 * 60_000
        hub.mute_after = 10**9
        node.until(lambda: node.ended)

        assert node.file(manifest) == data
        assert node.stalled[-1].code is None
        node.die()
