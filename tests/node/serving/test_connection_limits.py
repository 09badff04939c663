"""Clients that connect and do not ask, or ask and do not read: a server in a process of its own, measured by the kernel's figures."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from node.serving import connection_limits
from node.serving.connection_limits import ANSWERING, IDLE, WAITING, ConnectionLimits, connections_that_fit
from tests.hub.hubs import until
from tests.node.serving.served_process import MODEL, Victim, served_process

INFER = f"/v2/models/{MODEL}/infer"
ROWS = 1_500_000  # an answer of 6 MB, of which the kernel's buffers take half
DESCRIPTORS = 448  # 64 connections


def question(rows: int) -> tuple[bytes, dict[str, str]]:
    """A request with binary rows, whose answer is as large, and its headers."""
    parameters = {"binary_data_size": 4 * rows}
    tensor = {"name": "X", "datatype": "FP32", "shape": [rows], "parameters": parameters}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + np.zeros(rows, "<f4").tobytes(), {"inference-header-content-length": str(len(header))}


def raw_question(rows: int) -> bytes:
    body, headers = question(rows)
    fields = {"host": "localhost", "content-length": str(len(body)), **headers}
    return f"POST {INFER} HTTP/1.1\r\n{''.join(f'{name}: {value}{chr(13)}{chr(10)}' for name, value in fields.items())}\r\n".encode() + body


def connect(port: int, stack: ExitStack) -> socket.socket:
    raw = stack.enter_context(socket.socket())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(60)
    raw.connect(("127.0.0.1", port))
    return raw


def asks(victim: Victim, client: httpx.Client | None = None) -> float:
    """How long an inference takes; it must succeed."""
    body, headers = question(3)
    began = time.monotonic()
    answer = (client or httpx).post(f"http://127.0.0.1:{victim.port}{INFER}", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began


def idle_connections(victim: Victim, stack: ExitStack, count: int) -> list[socket.socket]:
    return [connect(victim.port, stack) for _ in range(count)]


def unread_answers(victim: Victim, stack: ExitStack, clients: int) -> None:
    """Have each of these ask for a large answer, and read nothing of it."""
    asked = raw_question(ROWS)
    for _ in range(clients):
        raw = connect(victim.port, stack)
        try:
            raw.sendall(asked)
        except OSError:  # it was one of too many
            continue


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with served_process(tmp_path_factory.mktemp("victim"), descriptors=DESCRIPTORS) as running:
        yield running


def test_idle_connections_beyond_the_bound_go_oldest_first_and_requests_are_answered(victim: Victim) -> None:
    with httpx.Client() as kept, ExitStack() as stack:
        asks(victim, kept)
        idle = idle_connections(victim, stack, 300)
        assert asks(victim) < 10

        assert victim.descriptors < 64 + 64
        assert idle[0].recv(1) == b""  # the oldest was closed
        idle[-1].sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert idle[-1].recv(12) == b"HTTP/1.1 200"
    asks(victim)


def test_answers_that_nobody_reads_are_bounded_and_their_memory_is_given_back(victim: Victim) -> None:
    before = victim.memory_mib()
    with ExitStack() as stack:
        unread_answers(victim, stack, 40)  # 120 MB would wait
        assert asks(victim) < 60

        until("the bound", lambda: victim.memory_mib() < before + 64 + 16)
    until("the memory", lambda: victim.memory_mib() < before + 16)


class Line:
    """A connection as the bounds see it."""

    def __init__(self, name: str, rank: int = IDLE, unread: int = 0) -> None:
        self.name, self.rank, self.unread_bytes, self.ended = name, rank, unread, False

    def end(self) -> None:
        self.ended, self.unread_bytes = True, 0


def on_loop(work: Any) -> Any:
    async def run() -> Any:
        return work()

    return asyncio.run(run())


def ended(*lines: Line) -> list[str]:
    return [line.name for line in lines if line.ended]


def test_the_connection_that_was_used_last_is_closed_last() -> None:
    def work() -> None:
        limits, lines = ConnectionLimits(connections_max=3), [Line(name) for name in "abcde"]
        for line in lines[:3]:
            assert limits.opened(line)
        limits.used(lines[0])
        assert all(limits.opened(line) for line in lines[3:])

        assert ended(*lines) == ["b", "c"]

    on_loop(work)


def test_whom_the_agent_waits_for_goes_before_who_waits_for_the_agent() -> None:
    def work() -> None:
        limits = ConnectionLimits(connections_max=2)
        first, second, third, fourth = Line("first", ANSWERING), Line("second", WAITING), Line("third", ANSWERING), Line("fourth")
        assert limits.opened(first)
        assert limits.opened(second)
        assert limits.opened(third)
        assert ended(first, second, third) == ["second"]
        assert not limits.opened(fourth)  # all others are being answered
        assert ended(first, third, fourth) == []

    on_loop(work)


def test_what_waits_to_be_read_has_one_bound_and_the_oldest_goes_first() -> None:
    def work() -> None:
        limits = ConnectionLimits(unread_bytes_max=100)
        lines = [Line(name, WAITING, 40) for name in "abc"]
        for line in lines:
            limits.opened(line)
            limits.stalled(line)
        assert ended(*lines) == ["a"]
        limits.flowing(lines[1])
        limits.stalled(alone := Line("alone", WAITING, 60))
        assert ended(*lines, alone) == ["a"]
        limits.stalled(large := Line("large", WAITING, 900))
        assert ended(*lines, alone, large) == ["a", "c", "alone"]  # an answer that is larger than the bound may wait alone

    on_loop(work)


def test_a_client_that_reads_nothing_for_a_while_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(connection_limits, "STALLED_SECONDS_MAX", 0.1)

    async def work() -> None:
        limits, silent, slow = ConnectionLimits(), Line("silent", WAITING, 50), Line("slow", WAITING, 10**6)
        limits.stalled(silent)
        limits.stalled(slow)
        async with asyncio.timeout(60):
            while not silent.ended:
                slow.unread_bytes -= 1
                await asyncio.sleep(0.01)

        assert not slow.ended

    asyncio.run(work())


@pytest.mark.parametrize(("soft", "fits"), [(1024, 512), (65_536, 512), (512, 128), (64, 16), (-1, 512)])
def test_the_bound_is_below_the_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch, soft: int, fits: int) -> None:
    monkeypatch.setattr(connection_limits.resource, "getrlimit", lambda _: (soft, soft))

    assert connections_that_fit() == fits


def test_connections_to_the_grpc_port_are_bounded_too(tmp_path: Path) -> None:
    with served_process(tmp_path, descriptors=256, grpc=True) as victim, ExitStack() as stack:
        for _ in range(400):
            connect(victim.grpc_port, stack)
        asks(victim)
        assert victim.descriptors < 200

        with grpc.insecure_channel(f"127.0.0.1:{victim.grpc_port}") as channel:  # The silent ones are let go after some seconds.
            ready = service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerReady
            assert ready(service_pb2.ServerReadyRequest(), wait_for_ready=True, timeout=60).ready
