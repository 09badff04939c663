"""A worker process answers in order, fails alone, and never outlives its agent."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.core.inference.tensors import array_of, raw_of
from node.workers import worker_handle as workers
from node.workers.worker_handle import Load, Worker, WorkerLost
from schemas.errors import Code, Refused
from tests.hub.hubs import until


@pytest.fixture
def model_path(tmp_path: Path, regressors: Any) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(regressors.linear.onnx)
    return path


def running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_pipelined_requests_each_get_their_own_answer(model_path: Path, regressors: Any) -> None:
    async def ask() -> list[np.ndarray]:
        worker = await Worker.start(Load(model_path))
        answers = await asyncio.gather(*(worker.infer([raw_of("X", regressors.rows[n : n + 1])]) for n in range(50)))
        await worker.close()
        return [array_of(answer[0]) for answer in answers]

    np.testing.assert_allclose(np.concatenate(asyncio.run(ask())), regressors.linear.predict(regressors.rows[:50]), rtol=1e-4)


@pytest.mark.parametrize("content", [b"this is no ONNX", b""])
def test_a_file_that_is_no_model_is_refused_and_leaves_no_process(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    with pytest.raises(Refused, match="ONNX Runtime cannot load the model") as caught:
        asyncio.run(Worker.start(Load(path)))

    assert caught.value.code is Code.MODEL_LOAD
    assert subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "node.worker"], capture_output=True, check=False).stdout == b""


def test_a_worker_that_does_not_start_in_time_is_hung(model_path: Path) -> None:
    with pytest.raises(Refused, match=r"no answer from the worker in 0.01 seconds") as caught:
        asyncio.run(Worker.start(Load(model_path, start_seconds=0.01)))

    assert caught.value.code is Code.WORKER_HUNG


def test_a_stopped_worker_is_killed_and_reported_as_hung(model_path: Path, regressors: Any) -> None:
    exits: list[tuple[Code, str]] = []

    async def ask() -> int:
        worker = await Worker.start(Load(model_path, request_seconds=0.3))
        worker.watch(lambda code, reason: exits.append((code, reason)))
        os.kill(worker.process_id, signal.SIGSTOP)
        with pytest.raises(WorkerLost) as caught:
            await worker.infer([raw_of("X", regressors.rows[:1])])
        assert caught.value.code is Code.WORKER_HUNG
        return worker.process_id

    process_id = asyncio.run(ask())

    assert [code for code, _ in exits] == [Code.WORKER_HUNG]
    assert not running(process_id)


def test_when_a_worker_is_killed_only_the_oldest_request_is_suspect(model_path: Path, regressors: Any) -> None:
    exits: list[tuple[Code, str]] = []

    async def ask() -> list[Any]:
        worker = await Worker.start(Load(model_path))
        worker.watch(lambda code, reason: exits.append((code, reason)))
        os.kill(worker.process_id, signal.SIGSTOP)
        asks = [asyncio.create_task(worker.infer([raw_of("X", regressors.rows[:1])])) for _ in range(3)]
        await asyncio.sleep(0)
        os.kill(worker.process_id, signal.SIGKILL)
        return await asyncio.gather(*asks, return_exceptions=True)

    lost = asyncio.run(ask())

    assert [error.suspect for error in lost] == [True, False, False]
    assert exits == [(Code.WORKER_CRASHED, "the worker process was killed by SIGKILL")]


def test_a_model_error_is_an_answer_and_the_worker_lives(model_path: Path, regressors: Any) -> None:
    async def ask() -> np.ndarray:
        worker = await Worker.start(Load(model_path))
        with pytest.raises(Refused) as caught:
            await worker.infer([raw_of("X", np.zeros((1, 4), np.float32))])
        assert caught.value.code is Code.REQUEST_INVALID
        (answer,) = await worker.infer([raw_of("X", regressors.rows[:1])])
        await worker.close()
        return array_of(answer)

    np.testing.assert_allclose(asyncio.run(ask()), regressors.linear.predict(regressors.rows[:1]), rtol=1e-4)


def test_a_worker_sees_nothing_of_the_agents_environment(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLEETCAST_PASSPHRASE_FILE", "FLEETCAST_NODE_TLS_KEY", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD", "HOME"):
        monkeypatch.setenv(name, "secret")

    async def environment() -> bytes:
        worker = await Worker.start(Load(model_path))
        seen = Path(f"/proc/{worker.process_id}/environ").read_bytes()
        await worker.close()
        return seen

    seen = asyncio.run(environment())

    names = {entry.partition(b"=")[0].decode() for entry in seen.split(b"\0") if entry}
    assert names == {"PATH", "LANG", "PYTHONPATH", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    assert b"secret" not in seen


def test_a_worker_ignores_the_signals_that_stop_its_agent(model_path: Path, regressors: Any) -> None:
    async def ask() -> int:
        worker = await Worker.start(Load(model_path))
        os.kill(worker.process_id, signal.SIGTERM)
        os.kill(worker.process_id, signal.SIGINT)
        answer = await worker.infer([raw_of("X", regressors.rows[:1])])
        await worker.close()
        return len(answer)

    assert asyncio.run(ask()) == 1


AGENT = """
import asyncio, sys
from contextlib import suppress
from pathlib import Path
from node.workers.worker_handle import Load, Worker

async def main():
    worker = await Worker.start(Load(Path(sys.argv[1])))
    print(worker.process_id, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_a_worker_ends_when_its_agent_is_killed(model_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", AGENT, str(model_path)], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        process_id = int(agent.stdout.readline())
        assert running(process_id)
        os.kill(process_id, signal.SIGSTOP)  # so that it cannot notice the closed socket: the kernel must end it
        agent.kill()

    until("the worker's end", lambda: not running(process_id))


def test_a_device_without_an_idle_moment_loads_in_spite_of_it(model_path: Path, regressors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "QUIET_SECONDS_MAX", 0.01)  # the quiet attempt cannot succeed in that

    async def ask() -> int:
        worker = await Worker.start(Load(model_path))
        answer = await worker.infer([raw_of("X", regressors.rows[:1])])
        await worker.close()
        return len(answer)

    assert asyncio.run(ask()) == 1


def test_a_worker_holds_no_descriptor_of_the_agents_and_leaves_no_core_file(model_path: Path, tmp_path: Path) -> None:
    async def look() -> tuple[set[str], str]:
        with (tmp_path / "key").open("wb"):
            worker = await Worker.start(Load(model_path))
            opened = {str(one.readlink()) for one in Path(f"/proc/{worker.process_id}/fd").iterdir()}
            limits = Path(f"/proc/{worker.process_id}/limits").read_text()
            await worker.close()
            return opened, next(line for line in limits.splitlines() if line.startswith("Max core file size"))

    opened, core = asyncio.run(look())

    assert not any("key" in name for name in opened)
    assert sum(name.startswith("socket:") for name in opened) == 1
    assert core.split()[4:6] == ["0", "0"]


def test_a_worker_runs_on_the_cores_it_is_given_and_no_others(model_path: Path) -> None:
    async def look() -> set[int]:
        worker = await Worker.start(Load(model_path, cores=(0,)))
        cores = os.sched_getaffinity(worker.process_id)
        await worker.close()
        return cores

    assert asyncio.run(look()) == {0}


def test_loading_is_done_by_a_thread_that_waits_for_an_idle_processor_and_serving_is_not(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "QUIET_SECONDS_MAX", 60.0)

    async def look() -> tuple[set[int], int]:
        seen: set[int] = set()
        starting = asyncio.create_task(Worker.start(Load(model_path)))
        while not starting.done():
            for child in subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "node.worker"], capture_output=True, check=False
            ).stdout.split():
                with suppress(OSError):
                    seen |= {os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{int(child)}/task").iterdir()}
            await asyncio.sleep(0)
        worker = starting.result()
        serving = os.sched_getscheduler(worker.process_id)
        await worker.close()
        return seen, serving

    seen, serving = asyncio.run(look())

    assert os.SCHED_IDLE in seen
    assert serving == os.SCHED_OTHER
