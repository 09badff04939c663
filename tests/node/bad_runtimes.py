"""Runtimes that misbehave for real, in real worker processes. A row that begins with a number below does what the number stands for."""

import ctypes
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from node.runtimes import Options, Signature, Spec

SEGFAULT, HANG, RAISE, GREEDY, SHAPE, COUNT, EXIT, DATATYPE = 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0


def misbehave(how: float) -> None:
    if how == SEGFAULT:
        ctypes.string_at(0)
    if how == HANG:
        time.sleep(3600)
    if how == RAISE:
        raise ZeroDivisionError("a bug of the runtime's")
    if how == GREEDY:
        held = []
        while True:
            held.append(np.ones(10_000_000))
    if how == EXIT:
        os._exit(3)


class Fragile:
    """The sum of each row; the file says what happens at load."""

    def load(self, path: Path, options: Options) -> None:
        misbehave(float(path.read_text() or 0))

    def describe(self) -> Signature:
        return Signature((Spec("X", "FP32", (-1, 5)),), (Spec("variable", "FP32", (-1, 1)),), "fragile", rows_apart=True)

    def infer(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
        rows = inputs["X"]
        for how in rows[:, 0]:
            misbehave(float(how))
        answer = rows.sum(axis=1, keepdims=True, dtype=np.float32)
        if (rows[:, 0] == SHAPE).any():
            return [answer[:, 0]]
        if (rows[:, 0] == COUNT).any():
            return [answer, answer]
        if (rows[:, 0] == DATATYPE).any():
            return [answer.astype(np.float64)]
        return [answer]

    def close(self) -> None:
        pass


class Unlinked(Fragile):
    """Opens a library of a device's maker only when a model is loaded, and does not find it."""

    def load(self, path: Path, options: Options) -> None:
        ctypes.CDLL("libgomq.so.1")


class Counting(Fragile):
    """How many rows each question held, so that a test sees what was joined; 20 ms a question, so that others come meanwhile."""

    def infer(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
        time.sleep(0.02)
        rows = inputs["X"]
        (answer,) = super().infer(inputs, parameters)
        asked_alone = rows[:, 1] == 0  # golden rows do not ask
        return [np.where(asked_alone[:, None], answer, np.float32(len(rows)))]


class Running(Fragile):
    """A sum over all rows so far: the first axis is time, though nothing in the signature says so."""

    def infer(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
        return [np.cumsum(inputs["X"].sum(axis=1, keepdims=True, dtype=np.float32), axis=0, dtype=np.float32)]


class Talking:
    """Holds conversations without a language model: says the last message back, word by word."""

    def load(self, path: Path, options: Options) -> None:
        pass

    def describe(self) -> Signature:
        return Signature((Spec("prompt", "BYTES", (1,)),), (Spec("text", "BYTES", (1,)),), "talking")

    def infer(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
        return [inputs["prompt"]]

    def chat(self, body: Mapping[str, Any], parameters: Mapping[str, Any], say: Any) -> Mapping[str, Any]:
        text, said = str(body["messages"][-1]["content"]), []
        pause = float(body.get("temperature", 0.0))
        if text == "segfault":
            ctypes.string_at(0)
        if text == "raise":
            raise ZeroDivisionError("a bug of the runtime's")
        Path(f"{body['user']}.begun").touch() if "user" in body else None
        for number, word in enumerate(text.split() * int(body.get("max_tokens", 1))):
            time.sleep(pause)
            said.append(word)
            if text == "segfault half way" and number == 2:
                ctypes.string_at(0)
            delta = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            if not say({"id": "1", "object": "chat.completion.chunk", "choices": [delta]} if body["stream"] else {}):
                break
        Path(body["user"]).write_text(str(len(said))) if "user" in body else None
        message = {"role": "assistant", "content": " ".join(said)}
        usage = {"prompt_tokens": len(text.split()) + 1, "completion_tokens": len(said), "total_tokens": len(text.split()) + 1 + len(said)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}

    def close(self) -> None:
        pass


class Scaled(Fragile):
    """Says that it keeps rows apart, and rounds each sum by the largest value of all rows, as dynamic quantisation does."""

    def infer(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
        rows = inputs["X"]
        step = np.abs(rows).max() / 127
        return [(np.round(rows / step) * step).sum(axis=1, keepdims=True, dtype=np.float32)]


class ScaledCounts(Fragile):
    """Says that it keeps rows apart, and adds up whole numbers in steps of a millionth of the largest of all rows."""

    def describe(self) -> Signature:
        return Signature((Spec("X", "INT64", (-1, 5)),), (Spec("variable", "INT64", (-1,)),), "counted", rows_apart=True)

    def infer(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
        step = max(1, int(inputs["X"].max()) // 1_000_000)
        return [(inputs["X"] // step * step).sum(axis=1)]


class Placed:
    """Answers where each tensor begins in memory, behind the last multiple of 64."""

    def load(self, path: Path, options: Options) -> None:
        self._names = ["x" * length for length in range(1, 17)]

    def describe(self) -> Signature:
        return Signature(tuple(Spec(name, "FP64", (-1,)) for name in self._names), (Spec("at", "INT64", (16,)),), "placed")

    def infer(self, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
        assert all(array.flags.aligned for array in inputs.values())
        return [np.array([inputs[name].ctypes.data % 64 for name in self._names])]

    def close(self) -> None:
        pass
