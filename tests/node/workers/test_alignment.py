"""Tensors begin in memory where every processor and every kernel likes it, so that where they came from changes no answer."""

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import httpx
import numpy as np
import pytest

from node.core.inference.frames import encode
from node.core.inference.tensors import ALIGNMENT, Raw, aligned_array, array_of, raw_of
from node.workers import worker_handle
from node.workers.worker_main import read_frame
from schemas.manifest import Tensor


@pytest.mark.parametrize("length", range(1, 17))
def test_a_tensor_of_any_name_is_aligned_where_a_worker_reads_it(length: int) -> None:
    sent = [raw_of("x" * length, np.arange(3, dtype=dtype)) for dtype in (np.uint8, np.float64, np.float32)]
    empty = raw_of("none", np.zeros((0, 2), np.float64))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for fields in ({}, {"parameters": {"p" * length: 1}}):
            for raws in ([*sent, empty], [empty, *sent], [empty], []):
                ours.sendall(b"".join(encode(7, "infer", fields, raws)))
                found = read_frame(theirs)
                assert [(raw.name, bytes(raw.data)) for raw in found.tensors] == [(raw.name, bytes(raw.data)) for raw in raws]
                arrays = [array_of(raw) for raw in found.tensors if raw.data]
                assert all(array.flags.aligned and array.ctypes.data % ALIGNMENT == 0 for array in arrays)


def test_a_tensor_that_begins_anywhere_is_moved_and_an_aligned_one_is_not() -> None:
    whole = memoryview(bytearray(200))
    places = {aligned_array(Raw("x", "FP64", (2,), whole[at : at + 16])).ctypes.data % ALIGNMENT for at in range(70)}
    aligned = aligned_array(Raw("x", "FP64", (2,), whole[1:17]))

    assert places == {0}
    assert np.shares_memory(aligned_array(Raw("x", "FP64", (2,), aligned.data.cast("B"))), aligned)


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_one_tensor_has_one_place_whatever_the_request_is_called(
    isolation: Literal["process", "inline"], running: Any, stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {**worker_handle._runtimes(), "placed": "tests.node.bad_runtimes:Placed"}
    monkeypatch.setattr(worker_handle, "_runtimes", lambda: found)
    names = ["x" * length for length in range(1, 17)]
    tensors = {
        "inputs": tuple(Tensor(name=name, datatype="FP64", shape=(-1,)) for name in names),
        "outputs": (Tensor(name="at", datatype="INT64", shape=(16,)),),
    }
    running.serve(replace(stage("1.0.0", b"0", **tensors), runtime="placed", isolation=isolation))
    answers = []
    with httpx.Client(base_url=running.url) as client:
        for length in range(1, 17):
            for binary in (False, True):
                more: dict[str, Any] = {"parameters": {"binary_data_size": 24}} if binary else {"data": [1.0, 2.0, 3.0]}
                inputs = [{"name": name, "datatype": "FP64", "shape": [3], **more} for name in names]
                head = json.dumps({"id": "i" * length, "inputs": inputs}).encode()
                headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
                body = head + 16 * np.array([1.0, 2.0, 3.0]).tobytes() if binary else head
                answer = client.post("/v2/models/delay/infer", content=body, headers=headers if binary else {})
                answers.append(answer.json()["outputs"][0]["data"])

    assert answers == [[0] * 16] * 32
