"""Bytes of updates and of first installs, beside what other tools make of the same files in the same run; speed and memory of the codec."""

import multiprocessing
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.figures import Figure
from bench.pairs import Pair, models, pairs
from hub.core.delivery.chunker import TENSOR_BYTES_MIN, TensorSpan, tensors
from hub.core.delivery.delta_base import Earlier, ancestor, plan
from hub.core.delivery.encode import Ancestor, encode_block
from schemas import codec
from schemas.encoding import DECODABLE, decode_payload
from schemas.limits import BLOCK_BYTES_MAX, INDEX_PART_BLOCKS_MAX, MIB
from schemas.manifest import Block, Index, Payload, cheapest
from schemas.names import sha256

COMMAND = "python -m bench.encodings"
BSDIFF_BYTES_MAX = 32 * MIB  # it takes 17 times the file in memory, and minutes
GOALS = {"finetuned-fp32": 0.75, "silero-vad-5.1.2-6.0.0": 0.95}
GOAL_ELSE = 1.02


class Ours(NamedTuple):
    """Bytes that a node with the parent fetches, and bytes of the whole block list, as an index carries it."""

    payload_bytes: int
    list_bytes: int
    blocks: int


def measure() -> list[Figure]:
    """All of them; minutes, most of it the peers'."""
    figures: list[Figure] = []
    worst = (0.0, "")
    for pair in pairs():
        ours, peers = _update(pair), _peers(pair)
        peer, least = min(peers.items(), key=lambda one: one[1])
        ratio = ours.payload_bytes / max(least, 1)
        goal = GOALS.get(pair.name, GOAL_ELSE)
        figures += [
            Figure(f"delivery.update_ratio.{pair.name}", ratio, "ours / best peer", f"<= {goal}", peer, 1.0, COMMAND),
            Figure(f"delivery.update_bytes.{pair.name}", ours.payload_bytes, "bytes", "", peer, least, COMMAND),
            Figure(f"delivery.update_list_bytes.{pair.name}", ours.list_bytes, "bytes", "", f"{ours.blocks} blocks fetched", None, COMMAND),
        ]
        worst = max(worst, (ratio, pair.name))
        others = ", ".join(f"{name} {size}" for name, size in sorted(peers.items(), key=lambda one: one[1]))
        print(
            f"  {pair.name}: ours {ours.payload_bytes} + list {ours.list_bytes}; {others}; ratio {ratio:.3f}", file=sys.stderr, flush=True
        )
    figures.append(Figure("delivery.update_ratio.worst", worst[0], "ours / best peer", f"<= {GOAL_ELSE}", worst[1], 1.0, COMMAND))
    for name, data in models().items():
        with ThreadPoolExecutor(2) as both:
            peer_bytes, own = both.submit(_zstd, data), both.submit(_install, data)
            ratio = own.result() / peer_bytes.result()
        goal = "<= 0.95" if "fp32" in name else "<= 1.02"
        figures.append(Figure(f"delivery.first_install_ratio.{name}", ratio, "ours / peer", goal, "zstd -19", 1.0, COMMAND))
        print(f"  first install of {name}: ours {own.result()}, zstd -19 {peer_bytes.result()}: {ratio:.3f}", file=sys.stderr, flush=True)
    return figures + _speed() + _peaks()


# Ours


def _dtype(spans: Sequence[TensorSpan], at: int) -> str | None:
    inside = (one.dtype for one in spans if one.length >= TENSOR_BYTES_MIN and one.offset <= at < one.offset + one.length)
    return next(inside, None)


def _earlier(data: bytes) -> Earlier:
    spans = tensors(data)
    cuts = plan(data, spans).cuts
    return Earlier(cuts, [sha256(data[at : at + size]) for at, size in cuts], spans, lambda at, size: data[at : at + size])


def _update(pair: Pair) -> Ours:
    """What a node fetches; every payload is decoded and compared."""
    earlier = _earlier(pair.before)
    held = set(earlier.digests)
    spans = tensors(pair.after)
    planned = plan(pair.after, spans, [earlier])
    total, listed, fetched = 0, [], 0
    for (at, size), likeness in zip(planned.cuts, planned.likenesses[0], strict=True):
        data = pair.after[at : at + size]
        if sha256(data) in held:
            listed.append(Block(sha256(data), size))
            continue
        parent = ancestor(likeness, earlier)
        block, payloads = encode_block(data, dtype=_dtype(spans, at), parents=[parent])
        chosen = cheapest(block, DECODABLE, held.__contains__)
        if decode_payload(chosen, block, payloads[chosen.digest], parent.data if chosen.parents else b"") != data:
            raise AssertionError(f"{pair.name}: block at {at} does not come back")
        total, fetched = total + chosen.bytes, fetched + 1
        listed.append(block)
    return Ours(total, _list_bytes(listed), fetched)


def _list_bytes(blocks: Sequence[Block]) -> int:
    parts = (Index(blocks=tuple(blocks[at : at + INDEX_PART_BLOCKS_MAX])) for at in range(0, len(blocks), INDEX_PART_BLOCKS_MAX))
    return sum(len(codec.encode(part)) for part in parts)


def _install(data: bytes) -> int:
    spans = tensors(data)
    seen: dict[bytes, int] = {}
    for at, size in plan(data, spans).cuts:
        part = data[at : at + size]
        if sha256(part) not in seen:
            seen[sha256(part)] = cheapest(encode_block(part, dtype=_dtype(spans, at))[0], DECODABLE).bytes
    return sum(seen.values())


# Peers


def _run(*command: object) -> str:
    return subprocess.run([str(one) for one in command], check=True, timeout=1800, capture_output=True, text=True).stdout


def _zstd(data: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a").write_bytes(data)
        _run("zstd", "-q", "-19", Path(folder, "a"), "-o", Path(folder, "a.zst"))
        return Path(folder, "a.zst").stat().st_size


def _peers(pair: Pair) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, new = folder / "old", folder / "new"
        old.write_bytes(pair.before)
        new.write_bytes(pair.after)
        ways: dict[str, Callable[[Path, Path, Path], int]] = {
            "zstd -19 --long --patch-from": _patch_from,
            "xdelta3 -9 -S lzma": _xdelta,
            "casync": _casync,
            "zchunk": _zchunk,
        }
        if len(pair.after) <= BSDIFF_BYTES_MAX:
            ways["bsdiff"] = _bsdiff
        return {peer: way(old, new, folder) for peer, way in ways.items()}


def _patch_from(old: Path, new: Path, folder: Path) -> int:
    _run("zstd", "-q", "-19", "--long=27", f"--patch-from={old}", new, "-o", folder / "p.zst")
    return (folder / "p.zst").stat().st_size


def _xdelta(old: Path, new: Path, folder: Path) -> int:
    _run("xdelta3", "-9", "-S", "lzma", "-B", max(old.stat().st_size, MIB), "-e", "-f", "-s", old, new, folder / "p.xd")
    return (folder / "p.xd").stat().st_size


def _bsdiff(old: Path, new: Path, folder: Path) -> int:
    _run("bsdiff", old, new, folder / "p.bs")
    return (folder / "p.bs").stat().st_size


def _casync(old: Path, new: Path, folder: Path) -> int:
    """Its new chunks, compressed; its index, as our block list, is not counted."""
    stores = [folder / "store-old", folder / "store-new"]
    for file, store in zip((old, new), stores, strict=True):
        _run("casync", "make", f"--store={store}", folder / f"{file.name}.caibx", file)
    before, after = ({one.name: one.stat().st_size for one in store.rglob("*.cacnk")} for store in stores)
    return sum(size for chunk, size in after.items() if chunk not in before)


def _zchunk(old: Path, new: Path, folder: Path) -> int:
    """Its new chunks, by its own account."""
    for file in (old, new):
        _run("zck", "-o", folder / f"{file.name}.zck", file)
    if shutil.which("zck_delta_size") is None:
        return sys.maxsize
    told = _run("zck_delta_size", folder / "old.zck", folder / "new.zck")
    found = re.search(r"[Ww]ould download (\d+) of", told)
    return int(found[1]) if found else sys.maxsize


# Speed and memory


def _sample(blocks: int = 16) -> list[tuple[bytes, Ancestor]]:
    """Blocks of trained-like weights with small changes: full blocks, so that memory is what it can be."""
    rng = np.random.default_rng(0)
    sample = []
    for _ in range(blocks):
        before = rng.normal(0, 0.05, BLOCK_BYTES_MAX // 4).astype(np.float32)
        after = (before + rng.normal(0, 1e-4, before.shape).astype(np.float32)).astype(np.float32)
        sample.append((after.tobytes(), Ancestor((sha256(before.tobytes()),), before.tobytes())))
    return sample


def _coded() -> list[tuple[Block, Payload, bytes, bytes]]:
    """Deltas of the sample, with what decodes them."""
    found = []
    for data, parent in _sample():
        block, payloads = encode_block(data, dtype="float32", parents=[parent])
        delta = next(one for one in block.payloads if one.encoding == "delta")
        found.append((block, delta, payloads[delta.digest], parent.data))
    return found


def _speed() -> list[Figure]:
    sample, coded, rates = _sample(), _coded(), {"encode": [], "decode": []}  # type: ignore[var-annotated]
    for _ in range(3):
        begin = time.perf_counter()
        for data, parent in sample:
            encode_block(data, dtype="float32", parents=[parent])
        rates["encode"].append(len(sample) * BLOCK_BYTES_MAX / 1e6 / (time.perf_counter() - begin))
        begin = time.perf_counter()
        for block, payload, packed, before in coded:
            decode_payload(payload, block, packed, before)
        rates["decode"].append(len(coded) * BLOCK_BYTES_MAX / 1e6 / (time.perf_counter() - begin))
    goals = {"encode": ">= 5", "decode": ">= 100"}
    return [
        Figure(f"codec.{side}_mb_s", statistics.median(values), "MB/s, one core", goals[side], "", None, COMMAND)
        for side, values in rates.items()
    ]


def _peak(side: str) -> float:
    """By how much a process grows while it codes, in MiB; run in a process of its own."""
    coded, sample = _coded()[:4] if side == "decode" else [], _sample(4)
    # ru_maxrss will not do: a child inherits its parent's, and what made the sample counts too.
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water_kib()
    for _ in range(8):
        for data, parent in sample if side == "encode" else ():
            encode_block(data, dtype="float32", parents=[parent])
        for block, payload, packed, held in coded:
            decode_payload(payload, block, packed, held)
    return (_high_water_kib() - before) / 1024


def _high_water_kib() -> int:
    """The most that this process held since it was last asked to forget."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def _peaks() -> list[Figure]:
    figures = []
    for side in ("encode", "decode"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures.append(Figure(f"codec.peak_mib.{side}", pool.apply(_peak, (side,)), "MiB", "<= 32", "", None, COMMAND))
    return figures


def main() -> None:
    """Measure and print; `python -m bench` also keeps the figures."""
    for figure in measure():
        print(f"{figure.name:50} {figure.value:12.4f} {figure.unit:18} goal {figure.goal:8} peer {figure.peer} {figure.peer_value}")


if __name__ == "__main__":
    main()
