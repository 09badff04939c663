"""Dozens of swaps leave the agent where it was. bench/node.py measures how exactly."""

import asyncio
import gc
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from node.core.inference.tensors import raw_of
from node.workers.worker_handle import Load, Worker

SWAPS, SETTLED = 45, 15
GROWTH_BYTES_MAX = 6 * 2**20  # of thirty swaps: a leaked worker's buffers or a model kept once each would be five times that


def anonymous_bytes() -> int:
    gc.collect()
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.timeout(600)
def test_swaps_leave_no_memory_descriptor_thread_or_process(running: Any, stage: Callable[..., Any], regressors: Any) -> None:
    releases = [stage("1.0.0", regressors.linear.onnx), stage("2.0.0", regressors.forest.onnx)]
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [64, 5], "data": np.ones(320).tolist()}]}
    loaded: list[tuple[int, int, int]] = []
    running.serve(releases[0])
    with httpx.Client(base_url=running.url) as client:
        for number in range(SWAPS):
            old, new = releases[number % 2], releases[(number + 1) % 2]
            running.serve(replace(new))
            running.server.retire(old.digest)
            assert client.post("/v2/models/delay/infer", json=body).status_code == 200
            running.observations.clear()
            if number >= SETTLED:
                loaded.append((anonymous_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()))  # noqa: PTH208
    memory, descriptors, threads = zip(*loaded, strict=True)

    assert max(memory[-10:]) - max(memory[:10]) < GROWTH_BYTES_MAX
    assert min(descriptors[-10:]) <= max(descriptors[:10])
    assert min(threads[-10:]) <= max(threads[:10])
    assert len(running.server.loaded()) == 1


def resident_mib(process_id: int) -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def test_a_worker_gives_back_what_a_large_request_took(tmp_path: Path, regressors: Any) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(regressors.linear.onnx)
    rows = np.ones((1_500_000, 5), np.float32)

    async def held() -> tuple[float, float]:
        worker = await Worker.start(Load(path))
        await worker.infer([raw_of("X", rows[:1])])
        before = resident_mib(worker.process_id)
        for _ in range(2):
            await worker.infer([raw_of("X", rows)])
        await worker.memory_bytes()  # Answered once the last answer's memory is gone.
        after = resident_mib(worker.process_id)
        await worker.close()
        return before, after

    before, after = asyncio.run(held())

    assert after - before < 8  # One such request alone is 29 MiB.
