"""Convert tensors of the Open Inference Protocol to numpy and back, checked against a signature. Knows no HTTP, socket or runtime.

Binary tensors stay the bytes that arrived: little-endian, row-major, no padding; BYTES is a 4-byte length before each element
(OIP binary tensor data extension). JSON tensors are flat or nested lists and are taken strictly: a number in a string, a fraction for an
integer, a bool for a number, NaN or an infinity is refused, where numpy alone would convert it silently.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np

from fleetcast.tensor_shapes import shape_fault
from schemas import limits
from schemas.errors import Code, Refused, mismatch

Buffer = bytes | bytearray | memoryview
Array = np.ndarray[Any, np.dtype[Any]]

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES: Final = {dtype: name for name, dtype in DTYPES.items()}
LENGTH: Final = struct.Struct("<I")  # before each element of a BYTES tensor
# Bytes at whose multiples a tensor's memory begins: a cache line, and more than any processor's widest vector. Kernels add up in an order
# that depends on where a tensor begins, so that the same tensor elsewhere may have another last digit; some processors fault.
ALIGNMENT: Final = 64
ELEMENTS_MAX: Final = 2**31  # so that a shape's product is a size before it is a promise of memory
JSON_TYPES: Final[dict[str, set[type]]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}


class Spec(NamedTuple):
    """Describe what a model takes or gives under a name; -1 is a free axis. `datatype` is OIP's name, or the runtime's own for what is no
    tensor.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}{list(self.shape)}"


class Raw(NamedTuple):
    """Hold a tensor as its binary wire form."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


def refuse_request(reason: str) -> Refused:
    """Return the refusal of a client's wrong request."""
    return Refused(Code.REQUEST_INVALID, reason)


def check_shape(spec: Spec, shape: object) -> tuple[int, ...]:
    """Return `shape` as a tuple if it fits `spec`.

    Raises:
        Refused: not a list of sizes, another rank, or another size on a fixed axis.
    """
    if not isinstance(shape, (list, tuple)) or len(shape) > limits.TENSOR_RANK_MAX or not all(type(axis) is int for axis in shape):
        raise refuse_request(f"{spec.name}: shape must be a list of at most {limits.TENSOR_RANK_MAX} integers")
    if not all(-1 <= axis <= ELEMENTS_MAX for axis in shape) or math.prod(shape) > ELEMENTS_MAX:
        raise refuse_request(f"{spec.name}: shape: expected at most {ELEMENTS_MAX} elements, found axes of more, or below -1")
    if fault := shape_fault(spec.shape, shape):
        raise refuse_request(f"{spec.name}: shape: {fault}")
    return tuple(shape)


def raw_from_binary(spec: Spec, shape: tuple[int, ...], data: Buffer) -> Raw:
    """Return the tensor whose binary data arrived as `data`; nothing is copied.

    Raises:
        Refused: the bytes do not make up exactly `shape`.
    """
    if spec.datatype == "BYTES":
        found = sum(1 for _ in _elements(spec.name, data))
        if found != math.prod(shape):
            raise mismatch(Code.REQUEST_INVALID, f"{spec.name}: elements for shape {list(shape)}", expected=math.prod(shape), actual=found)
    else:
        expected = math.prod(shape) * DTYPES[spec.datatype].itemsize
        if len(data) != expected:
            what = f"{spec.name}: bytes of {spec.datatype}{list(shape)}"
            raise mismatch(Code.REQUEST_INVALID, what, expected=expected, actual=len(data))
        if spec.datatype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:  # numpy and C disagree on what other bytes mean
            raise refuse_request(f"{spec.name}: a BOOL is the byte 0 or 1")
    return Raw(spec.name, spec.datatype, shape, data)


def raw_from_json(spec: Spec, shape: tuple[int, ...], data: object) -> Raw:
    """Return the tensor whose elements arrived as a JSON list, flat or nested as `shape` is.

    Raises:
        Refused: another number of elements, another nesting, an element of another type, or one that does not fit the datatype.
    """
    flat = _flatten(spec.name, shape, data)
    if spec.datatype == "BYTES":
        _check_types(spec, flat, {str})
        try:
            return Raw(spec.name, "BYTES", shape, pack_strings(flat))
        except UnicodeEncodeError:  # JSON can escape half of a surrogate pair
            raise refuse_request(f"{spec.name}: an element is not UTF-8") from None
    dtype = DTYPES[spec.datatype]
    _check_types(spec, flat, JSON_TYPES[dtype.kind])
    try:
        with np.errstate(over="raise"):
            array = np.array(flat, dtype)
    except (OverflowError, FloatingPointError):
        raise refuse_request(f"{spec.name}: an element does not fit {spec.datatype}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        what = f"element {at} is {'NaN' if np.isnan(array[at]) else 'infinite, or too large for any float'}"
        raise refuse_request(f"{spec.name}: {what}; JSON has no such number: send it as binary data")
    return Raw(spec.name, spec.datatype, shape, array.tobytes())


def aligned_room(size: int) -> memoryview:
    """Return memory for so many bytes that begins where a tensor may begin."""
    room = np.empty(size + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    return room.data[begin : begin + size]


def aligned_array(raw: Raw) -> Array:
    """Return the tensor as `array_of` does, for a model: where its bytes begin anywhere, a copy that begins where a tensor may begin.

    Raises:
        Refused: as `array_of`.
    """
    array = array_of(raw)
    if raw.datatype == "BYTES" or array.ctypes.data % ALIGNMENT == 0:
        return array
    room = aligned_room(array.nbytes)
    room[:] = raw.data
    return array_of(raw._replace(data=room.toreadonly()))


def array_of(raw: Raw) -> Array:
    """Return the tensor as an array of `raw.shape`: a read-only view of its bytes, or for BYTES an object array of str.

    Raises:
        Refused: an element of a BYTES tensor is not UTF-8.
    """
    if raw.datatype != "BYTES":
        return np.frombuffer(raw.data, DTYPES[raw.datatype]).reshape(raw.shape)
    array = np.empty(math.prod(raw.shape), object)
    try:
        array[:] = [bytes(element).decode() for element in _elements(raw.name, raw.data)]
    except UnicodeDecodeError:
        raise refuse_request(f"{raw.name}: an element is not UTF-8") from None
    return array.reshape(raw.shape)


def raw_of(name: str, array: Array) -> Raw:
    """Return the array's binary form; numbers keep their width, strings (str, bytes or objects) become BYTES.

    Raises:
        Refused: OIP has no datatype for the array.
    """
    if array.dtype.kind in "OUS":
        return Raw(name, "BYTES", array.shape, pack_strings(array.ravel().tolist()))
    datatype = DATATYPES.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise Refused(Code.MODEL_SIGNATURE, f"{name}: {array.dtype} has no datatype in the Open Inference Protocol")
    little = np.ascontiguousarray(array, dtype=DTYPES[datatype])
    return Raw(name, datatype, array.shape, little.data.cast("B") if little.size else b"")


def json_elements(raw: Raw) -> list[Any]:
    """Return the tensor's elements, flat and row-major, as JSON can carry them."""
    elements: list[Any] = array_of(raw).ravel().tolist()
    return elements


def pack_strings(elements: Iterable[str | bytes]) -> bytes:
    """Return the binary form of a BYTES tensor."""
    encoded = (element.encode() if isinstance(element, str) else element for element in elements)
    return b"".join(part for element in encoded for part in (LENGTH.pack(len(element)), element))


def rows_of(specs: Sequence[Spec], raws: Sequence[Raw]) -> int:
    """Return how many rows a request holds: the first axis of its first input, when the model leaves that axis free."""
    if specs and raws and specs[0].shape[:1] == (-1,):
        return raws[0].shape[0]
    return 1


def check_signature(side: str, *, declared: Sequence[Spec], found: Sequence[Spec]) -> None:
    """Check whether the loaded model takes or gives what the manifest says; the order does not matter.

    An output's free axis agrees with a fixed one, because runtimes refine what they infer; an input's does not.

    Raises:
        Refused: MODEL_SIGNATURE, naming both.
    """
    by_name = {spec.name: spec for spec in found}
    agrees = len(declared) == len(found) and all(
        spec.name in by_name and _agree(spec, by_name[spec.name], refined=side == "outputs") for spec in declared
    )
    if not agrees:
        names = [", ".join(str(spec) for spec in sorted(specs))[: limits.TEXT_MAX // 3] or "none" for specs in (declared, found)]
        raise mismatch(Code.MODEL_SIGNATURE, f"{side} of the model", expected=names[0], actual=names[1])


def _agree(declared: Spec, found: Spec, *, refined: bool) -> bool:
    if declared.datatype != found.datatype or len(declared.shape) != len(found.shape):
        return False
    pairs = zip(declared.shape, found.shape, strict=True)
    return all(want == have or (refined and -1 in (want, have)) for want, have in pairs)


def _elements(name: str, data: Buffer) -> Iterable[Buffer]:
    view, at = memoryview(data), 0
    while at < len(view):
        start = at + LENGTH.size
        if start > len(view) or start + LENGTH.unpack_from(view, at)[0] > len(view):
            raise refuse_request(f"{name}: an element of the BYTES tensor is cut off")
        at = start + LENGTH.unpack_from(view, at)[0]
        yield view[start:at]


def _flatten(name: str, shape: tuple[int, ...], data: object) -> list[Any]:
    if not isinstance(data, list):
        raise refuse_request(f"{name}: data must be a list")
    flat, depth = data, 0
    while flat and type(flat[0]) is list and depth < len(shape):
        depth += 1
        width = shape[depth] if depth < len(shape) else -1
        if not all(type(part) is list and len(part) == width for part in flat):
            raise refuse_request(f"{name}: data is nested otherwise than its shape {list(shape)}")
        flat = list(chain.from_iterable(flat))
    if len(flat) != math.prod(shape):
        raise mismatch(Code.REQUEST_INVALID, f"{name}: elements for shape {list(shape)}", expected=math.prod(shape), actual=len(flat))
    return flat


def _check_types(spec: Spec, flat: list[Any], allowed: set[type]) -> None:
    wrong = set(map(type, flat)) - allowed
    if wrong:
        names = sorted({"NoneType": "null", "str": "string"}.get(kind.__name__, kind.__name__) for kind in wrong)
        raise mismatch(Code.REQUEST_INVALID, f"{spec.name}: elements", expected=spec.datatype, actual=", ".join(names))
