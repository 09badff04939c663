"""The `onnx` package's own backend tests of operators: each a model of one operator with inputs; and ONNX Runtime's answers to them.

The tests come from the installed package, which computes inputs from fixed seeds. Nothing of them is kept here.
"""

import importlib
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime

TENTH_SEED = 14
ALIGNMENT = 64  # bytes: how ONNX Runtime's own allocator lays out a tensor
ELSEWHERE = (1, 4, 8, 16, 32)  # bytes behind such an address: numpy's habit is 16, and a body of HTTP begins anywhere
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One backend test. `inputs` is None where an input is no tensor: a sequence, or an optional that is empty."""

    name: str
    operator: str
    model: bytes
    inputs: Arrays | None


Varies = Literal["", "address", "call"]


@dataclass(frozen=True)
class Reference:
    """What ONNX Runtime answers when it is called directly: `outputs`, or `reason` why it does not run the test.

    `varies`: on what its own answer depends besides the inputs. "address": where they lie in memory, by which some kernels choose the order
    in which they add up. "call": a second call of the same session answers otherwise, as random operators do.
    """

    outputs: Arrays | None
    reason: str = ""
    varies: Varies = ""


def collect() -> list[Case]:
    """Return all tests of the installed package, sorted by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute with NaN and overflows on purpose
        node = importlib.import_module("onnx.backend.test.case.node")
        return sorted((_case(one) for one in node.collect_testcases(None)), key=lambda case: case.name)


def tenth(cases: Sequence[Case], *, seed: int = TENTH_SEED) -> list[Case]:
    """Return a tenth of the tests: one of each operator in turn, until there are enough."""
    drawn, by_operator = random.Random(seed), defaultdict[str, list[Case]](list)
    for case in cases:
        by_operator[case.operator].append(case)
    for group in by_operator.values():
        drawn.shuffle(group)
    operators = sorted(by_operator)
    drawn.shuffle(operators)
    return list(_in_turn([by_operator[operator] for operator in operators]))[: len(cases) // 10]


def _in_turn(groups: Sequence[list[Case]]) -> Iterator[Case]:
    for turn in range(max(map(len, groups))):
        yield from (group[turn] for group in groups if turn < len(group))


def reference(case: Case) -> Reference:
    """Ask ONNX Runtime itself, set up as a worker sets it up, for inputs that lie as it lays out its own tensors."""
    try:
        if case.inputs is None:
            raise TypeError("an input is no tensor")
        session = _session(case)
        known = _answers(session, case.inputs, ALIGNMENT)
    except Exception as error:  # its errors have no common base
        return Reference(None, (str(error).strip().splitlines() or [type(error).__name__])[0])
    if not all(_same(known, _answers(session, case.inputs, ALIGNMENT)) for _ in ELSEWHERE):
        return Reference(known, varies="call")
    elsewhere = all(_same(known, _answers(session, case.inputs, offset)) for offset in ELSEWHERE)
    return Reference(known, varies="" if elsewhere else "address")


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two tensors are of one type and shape and hold the same bits; any NaN is like another."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind == "f":
        return bool(np.array_equal(one, other, equal_nan=True)) and bool((np.signbit(one) == np.signbit(other))[~np.isnan(one)].all())
    return bool(np.array_equal(one, other))


def _same(one: Arrays, other: Arrays) -> bool:
    return all(equal(one[name], other[name]) for name in one)


def _session(case: Case) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])


def _answers(session: onnxruntime.InferenceSession, inputs: Arrays, offset: int) -> Arrays:
    names = [one.name for one in session.get_outputs()]
    feeds = {name: _laid(array, offset) for name, array in inputs.items()}
    return {name: np.array(value) for name, value in zip(names, session.run(names, feeds), strict=True)}


def _laid(array: np.ndarray, offset: int) -> np.ndarray:
    """Return a copy that begins this many bytes behind an address that is a multiple of `ALIGNMENT`; texts as objects."""
    if array.dtype.kind in "OU":
        return array.astype(object)
    room = np.empty(array.nbytes + 2 * ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT + offset % ALIGNMENT
    placed = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


def _case(test: Any) -> Case:
    model = test.model
    names = [one.name for one in model.graph.input]
    values = test.data_sets[0][0]
    tensors = [_array(value) for value in values]
    whole = len(names) == len(values) and all(array is not None for array in tensors)
    inputs = {name: array for name, array in zip(names, tensors, strict=True) if array is not None} if whole else None
    return Case(test.name, model.graph.node[0].op_type, model.SerializeToString(), inputs)


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None
