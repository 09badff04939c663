"""Parse and encode inference requests and responses of the Open Inference Protocol v2 over REST, with the binary tensor extension. Knows
no server.

A body is a JSON object, and behind it the binary tensors in the order in which the object names them; `Inference-Header-Content-Length`
then says where the object ends (KServe: Open Inference Protocol, Binary Tensor Data Extension).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from node.core.inference.json_body import json_object
from node.core.inference.tensors import Buffer, Raw, Spec, check_shape, json_elements, raw_from_binary, raw_from_json, refuse_request
from schemas import limits
from schemas.errors import Code, Refused, mismatch

BODY_BYTES_MAX: Final = 64 * limits.MIB  # ten uncompressed full-HD images in float32 have their own protocol
JSON_BYTES_MAX: Final = 8 * limits.MIB  # parsing it holds up every other request; larger tensors travel as binary
ELEMENTS_MAX: Final = 2**20  # Elements of all outputs in JSON: making more of it would hold up every other request, too
ID_CHARACTERS_MAX: Final = 256
EVENT_TIME_MAX: Final = 2**40  # as schemas.quantities.Seconds: beyond it a client has sent milliseconds, or nonsense
MODEL_NAME: Final = "model_name"  # KServe's client sends it beside the path, which says which model is asked.
FIELDS: Final = frozenset({"id", "parameters", "inputs", "outputs", MODEL_NAME})
REQUEST_PARAMETERS: Final = ("binary_data_output", "event_time")
INPUT_PARAMETERS: Final = ("binary_data_size",)
OUTPUT_PARAMETERS: Final = ("binary_data",)
SHARED_MEMORY: Final = "shared_memory"
SEQUENCE: Final = "sequence_"
NOTHING_IF_FALSE: Final = {  # Triton's parameters that ask for nothing where they are 0, empty or false
    *("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "classification"),
}
HEADS_KEPT: Final = 64  # Checked heads of requests for one model: a client asks for one thing in several ways.
KEPT_BYTES_MAX: Final = 2048  # a longer one takes long to look up, and many would take memory


@dataclass(frozen=True, slots=True)
class Request:
    """Describe what a client asks for, checked against the model's signature. `outputs` pairs each name with whether it is to be binary."""

    id: str | None
    inputs: tuple[Raw, ...]
    outputs: tuple[tuple[str, bool], ...]
    event_time: float | None


def parse_request(
    body: bytes,
    *,
    header_bytes: int | None,
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    fed: Mapping[str, Raw] = MappingProxyType({}),
) -> Request:
    """Return the request that a body holds; binary tensors are views of it. `fed` are inputs that a request may leave out.

    Raises:
        Refused: REQUEST_INVALID, naming what was expected and found; SCHEMA_TOO_LARGE for a JSON part beyond `JSON_BYTES_MAX`.
    """
    return _located(body, header_bytes, inputs, outputs, fed)[0]


class Requests:
    """Read requests for a model of one signature, as `parse_request` does.

    Requests with binary tensors mostly begin with the same JSON as the one before: what was checked once is kept, only tensors are new.
    """

    def __init__(self, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._known: dict[tuple[int, bytes], tuple[Request, tuple[slice, ...]]] = {}

    def read(self, body: bytes, *, header_bytes: int | None, fed: Mapping[str, Raw] = MappingProxyType({})) -> Request:
        """Return the request that a body holds.

        Raises:
            Refused: as `parse_request`.
        """
        if header_bytes is None or fed or not 0 < header_bytes <= KEPT_BYTES_MAX:
            return parse_request(body, header_bytes=header_bytes, inputs=self._inputs, outputs=self._outputs, fed=fed)
        key = len(body), body[:header_bytes]  # what is behind the JSON are tensors, and fits it by its length alone
        known = self._known.get(key)
        if known is None:
            request, places = _located(body, header_bytes, self._inputs, self._outputs, fed)
            if all(places) and not any(raw.datatype in ("BYTES", "BOOL") for raw in request.inputs):  # Not every byte is one of these.
                if len(self._known) >= HEADS_KEPT:
                    self._known.clear()
                empty = tuple(raw._replace(data=b"") for raw in request.inputs)
                self._known[key] = replace(request, inputs=empty), tuple(place for place in places if place)
            return request
        view, (like, slices) = memoryview(body), known
        inputs = tuple([Raw(raw.name, raw.datatype, raw.shape, view[place]) for raw, place in zip(like.inputs, slices, strict=True)])
        return Request(like.id, inputs, like.outputs, like.event_time)


def _located(
    body: bytes, header_bytes: int | None, inputs: Sequence[Spec], outputs: Sequence[Spec], fed: Mapping[str, Raw]
) -> tuple[Request, tuple[slice | None, ...]]:
    """Return a request, and where in the body each of its inputs stands; None for one that is in the JSON, or is fed."""
    header, binary = _split(body, header_bytes)
    parameters = _parameters("the request", header, REQUEST_PARAMETERS)
    event_time = parameters.get("event_time")
    if event_time is not None and not (type(event_time) in (int, float) and 0 <= event_time <= EVENT_TIME_MAX):
        raise refuse_request(f"parameter event_time must be seconds since 1970, a number from 0 to {EVENT_TIME_MAX}")
    id = header.get("id")
    if id is not None and not (isinstance(id, str) and len(id) <= ID_CHARACTERS_MAX):
        raise refuse_request(f"id must be a string of at most {ID_CHARACTERS_MAX} characters")
    raws, places = _inputs(header.get("inputs"), binary, inputs, fed, begin=len(body) - len(binary))
    request = Request(
        id=id,
        inputs=raws,
        outputs=_outputs(header.get("outputs"), outputs, default_binary=_flag(parameters, "binary_data_output", default=False)),
        event_time=None if event_time is None else float(event_time),
    )
    return request, places


def encode_request(inputs: Sequence[Raw]) -> tuple[bytes, int]:
    """Return the body of a request for all outputs, every tensor binary, and the length of its JSON part."""
    listed = [
        {"name": raw.name, "datatype": raw.datatype, "shape": raw.shape, "parameters": {"binary_data_size": len(raw.data)}}
        for raw in inputs
    ]
    fields = {"inputs": listed, "parameters": {"binary_data_output": True}}
    header = json.dumps(fields, separators=(",", ":")).encode()
    return b"".join([header, *(raw.data for raw in inputs)]), len(header)


def encode_response(
    request: Request, *, model: str, version: str, answers: Sequence[Raw], parameters: Mapping[str, Any] = MappingProxyType({})
) -> tuple[list[Buffer], int | None]:
    """Return the body in pieces, and the length of its JSON part when binary tensors follow it; tensors are not copied.

    Raises:
        Refused: REQUEST_INVALID: an output holds a value that JSON cannot carry (NaN, an infinity), or the outputs hold more elements than
            JSON is made of, and were not asked for as binary.
    """
    by_name = {raw.name: raw for raw in answers}
    if request.id is None and not parameters and all(is_binary for _, is_binary in request.outputs):  # As most that ask for speed do.
        wanted = [by_name[name] for name, _ in request.outputs]
        head = _binary_head(model, version, tuple([(raw.name, raw.datatype, raw.shape, len(raw.data)) for raw in wanted]))
        return [head, *[raw.data for raw in wanted]], len(head) if wanted else None
    listed, binary = [], []
    elements = sum(math.prod(by_name[name].shape) for name, is_binary in request.outputs if not is_binary)
    if elements > ELEMENTS_MAX:
        what = "elements of outputs in JSON (ask for them with binary_data)"
        raise mismatch(Code.REQUEST_INVALID, what, expected=f"at most {ELEMENTS_MAX}", actual=elements)
    for name, is_binary in request.outputs:
        raw = by_name[name]
        tensor: dict[str, Any] = {"name": name, "datatype": raw.datatype, "shape": raw.shape}
        if is_binary:
            tensor["parameters"] = {"binary_data_size": len(raw.data)}
            binary.append(raw.data)
        else:
            tensor["data"] = json_elements(raw)
        listed.append(tensor)
    fields: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": listed}
    if request.id is not None:
        fields["id"] = request.id
    if parameters:
        fields["parameters"] = dict(parameters)
    try:
        header = json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise refuse_request("an output is NaN or infinite, which JSON cannot carry; ask for it with binary_data") from None
    return [header, *binary], len(header) if binary else None


@lru_cache(HEADS_KEPT)
def _binary_head(model: str, version: str, listed: tuple[tuple[str, str, tuple[int, ...], int], ...]) -> bytes:
    """Return the JSON of an answer whose tensors are all binary."""
    tensors = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
        for name, datatype, shape, size in listed
    ]
    return json.dumps({"model_name": model, "model_version": version, "outputs": tensors}, separators=(",", ":")).encode()


def model_metadata(
    *,
    model: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    parameters: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the body of `GET /v2/models/<model>`; `parameters` are the release's, as they are in force."""
    sides = {side: [spec._asdict() for spec in specs] for side, specs in (("inputs", inputs), ("outputs", outputs))}
    more = {"parameters": dict(parameters)} if parameters else {}
    return {"name": model, "versions": list(versions), "platform": platform, **sides, **more}


def _split(body: bytes, header_bytes: int | None) -> tuple[dict[str, Any], memoryview]:
    if header_bytes is not None and not 0 < header_bytes <= len(body):
        raise mismatch(Code.REQUEST_INVALID, "Inference-Header-Content-Length", expected=f"1 to {len(body)}", actual=header_bytes)
    json_bytes = len(body) if header_bytes is None else header_bytes
    if json_bytes > JSON_BYTES_MAX:
        raise Refused(Code.SCHEMA_TOO_LARGE, f"JSON of {json_bytes} bytes, at most {JSON_BYTES_MAX} are read; send tensors as binary data")
    header = json_object(body if header_bytes is None else body[:header_bytes])
    if not header.keys() <= FIELDS:
        _check_fields(header)
    return header, memoryview(body)[json_bytes:]


def _check_fields(header: Mapping[str, Any]) -> None:
    """Check that a request has no field that would be ignored. One that is null says nothing.

    Raises:
        Refused: REQUEST_INVALID, naming the fields.
    """
    strangers = [name[:64] for name, value in header.items() if name not in FIELDS and value is not None]
    if strangers:
        expected = f"some of {', '.join(sorted(FIELDS - {MODEL_NAME}))}"
        raise mismatch(Code.REQUEST_INVALID, "fields of the request", expected=expected, actual=", ".join(map(repr, strangers[:4])))


def _parameters(what: str, fields: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of a request or of one of its tensors. What would change an answer and is not offered is refused, and never
    ignored.

    Raises:
        Refused: REQUEST_INVALID, naming the parameter.
    """
    parameters = fields.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise refuse_request(f"parameters of {what[:64]} must be an object")
    if all(name in known for name in parameters):
        return parameters
    given = {name: value for name, value in parameters.items() if value is not None and (value or name not in NOTHING_IF_FALSE)}
    for name in given:
        if name.startswith(SHARED_MEMORY) or name == "classification":
            raise refuse_request(f"{what[:64]} asks for shared memory or classification, which are not offered here")
        if name.startswith(SEQUENCE):
            raise refuse_request(
                f"parameter {name[:64]} of {what[:64]}: no model here keeps anything of an earlier request, so there are no sequences; "
                "send the whole sequence in one request"
            )
        if name not in known:
            expected = f"some of {', '.join(known)}"
            raise mismatch(Code.REQUEST_INVALID, f"parameters of {what[:64]}", expected=expected, actual=repr(name[:64]))
    return given


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return a parameter that is true or false.

    Raises:
        Refused: it is neither.
    """
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise mismatch(Code.REQUEST_INVALID, f"parameter {name}", expected="true or false", actual=str(value)[:64])
    return default if value is None else value


def _inputs(
    listed: object, binary: memoryview, specs: Sequence[Spec], fed: Mapping[str, Raw], *, begin: int
) -> tuple[tuple[Raw, ...], tuple[slice | None, ...]]:
    """Return the inputs, and their places in a body whose binary tensors begin at `begin`."""
    tensors = _by_name("inputs", listed)
    wanted = {spec.name: spec for spec in specs}
    if set(tensors) != set(wanted) and set(tensors) | set(fed) != set(wanted):
        raise mismatch(Code.REQUEST_INVALID, "inputs", expected=sorted(wanted), actual=sorted(tensors))
    raws, at = dict(fed), 0
    places: dict[str, slice] = {}
    for name, tensor in tensors.items():  # in the request's order, which is that of the binary data
        spec = wanted[name]
        if tensor.get("datatype") != spec.datatype:
            raise mismatch(Code.REQUEST_INVALID, f"{name}: datatype", expected=spec.datatype, actual=str(tensor.get("datatype"))[:64])
        shape = check_shape(spec, tensor.get("shape"))
        size = _parameters(name, tensor, INPUT_PARAMETERS).get("binary_data_size")
        if size is None:
            raws[name] = raw_from_json(spec, shape, tensor.get("data"))
            continue
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            raise mismatch(Code.REQUEST_INVALID, f"{name}: binary_data_size", expected=f"at most {len(binary) - at}", actual=str(size)[:64])
        raws[name] = raw_from_binary(spec, shape, binary[at : at + size])
        places[name] = slice(begin + at, begin + at + size)
        at += size
    if at != len(binary):
        raise mismatch(Code.REQUEST_INVALID, "bytes behind the JSON object", expected=at, actual=len(binary))
    return tuple(raws[spec.name] for spec in specs), tuple(places.get(spec.name) for spec in specs)


def _outputs(listed: object, specs: Sequence[Spec], *, default_binary: bool) -> tuple[tuple[str, bool], ...]:
    if not listed:
        return tuple((spec.name, default_binary) for spec in specs)
    names = [spec.name for spec in specs]
    wanted = []
    for name, tensor in _by_name("outputs", listed).items():
        if name not in names:
            raise mismatch(Code.REQUEST_INVALID, "outputs", expected=names, actual=name[:64])
        wanted.append((name, _flag(_parameters(name, tensor, OUTPUT_PARAMETERS), "binary_data", default=default_binary)))
    return tuple(wanted)


def _by_name(side: str, listed: object) -> dict[str, dict[str, Any]]:
    if not isinstance(listed, list) or not 1 <= len(listed) <= limits.TENSORS_MAX or not all(isinstance(tensor, dict) for tensor in listed):
        raise refuse_request(f"{side} must be a list of 1 to {limits.TENSORS_MAX} tensors")
    found: dict[str, dict[str, Any]] = {}
    for tensor in listed:
        name = tensor.get("name")
        if not isinstance(name, str) or name in found:
            raise refuse_request(f"{side}: every tensor needs a name of its own")
        found[name] = tensor
    return found
