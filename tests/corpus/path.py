"""The way of a model from its file to an answer: publish it, keep it as a device does, have it prove itself, and ask it over HTTP.

Every step is the product's: `hub.publish.builder` and its store, the blocks of the manifest, the node's store of artifacts, activation in
a worker process, and the server on loopback. Only the broker between them is left out, which cares for no model. The client is this
file's own: it shares no code with the server.
"""

import http.client
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fleetcast.golden_file import pack_golden
from hub.publish.block_store import BlockStore
from hub.publish.builder import BuiltRelease, build
from hub.publish.publish_request import PublishRequest
from node.serving.activation import Prepared, Staged
from node.serving.server import Listen, Server
from node.storage.artifacts import Artifacts
from schemas.errors import Refused
from schemas.manifest import Manifest, blocks_of
from tests.corpus.cases import Arrays, Case, Reference, equal

Step = Literal["publish", "activate", "binary", "json"]
SECONDS_MAX = 600.0  # on a machine that has much else to do
WORDS = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4",
    "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
DATATYPES = {np.dtype(word): name for name, word in WORDS.items()}


@dataclass(frozen=True)
class Refusal:
    """Where a test was refused, with the code (an HTTP status where a client asks) and the reason."""

    step: Step
    code: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of one test: answers that are equal in both forms, or refusals, or what differs."""

    name: str
    refusals: tuple[Refusal, ...] = ()
    wrong: str = ""
    near: bool = False  # It differs, and by no more than ONNX Runtime's own answers differ among themselves.

    @property
    def served(self) -> bool:
        """Whether it was served, and at least its binary answer was right."""
        return not self.wrong and all(one.step == "json" for one in self.refusals)


class Way:
    """One hub's store and one node's server, through which models are pushed one after the other."""

    def __init__(self, folder: Path, server: Server, store: BlockStore) -> None:
        self._folder, self._server, self._store = folder, server, store
        self._artifacts = Artifacts(folder / "node")
        self._client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS_MAX)

    def push(self, case: Case, known: Reference) -> Outcome:
        """Push a test along the whole way. Golden inputs are the test's own, with ONNX Runtime's answers, where a file can hold them."""
        name = f"{zlib.crc32(case.name.encode()):08x}-{case.operator.lower()}"[:64]
        try:
            built = self._publish(name, case, known)
        except Refused as refusal:
            return Outcome(case.name, (Refusal("publish", refusal.code, refusal.reason),))
        refused = self.serve(built.manifest, built.digest)
        if refused is not None:
            return Outcome(case.name, (Refusal("activate", refused.code, refused.reason),))
        try:
            if case.inputs is None or known.outputs is None:
                return Outcome(case.name, wrong=f"it is served, and ONNX Runtime does not run it: {known.reason}")
            return self._asked(case.name, name, case.inputs, known)
        finally:
            self._server.forget(name)

    def serve(self, manifest: Manifest, digest: bytes) -> Refused | None:
        """Have the node serve a release of the hub's store; returns why it does not."""
        staged = self._staged(manifest, digest)
        outcome = self._prepared(staged)
        if isinstance(outcome, Refused):
            return outcome
        self._server.switch(manifest.model, digest)
        return None

    @property
    def url(self) -> str:
        """Where the node's server answers."""
        return f"http://127.0.0.1:{self._server.port}"

    def file(self, manifest: Manifest, digest: bytes, path: str) -> Path:
        """Where a file of a release stands on the node's disk."""
        variant = manifest.variants[0]
        (file,) = (one for one in manifest.files_of(variant.name) if one.path == path)
        return self._artifacts.path(self._artifacts.relative(digest, variant.name, file))

    def _publish(self, name: str, case: Case, known: Reference) -> BuiltRelease:
        model = self._folder / "model.onnx"
        model.write_bytes(case.model)
        golden = None
        if case.inputs is not None and known.outputs is not None:
            golden = self._folder / "golden.npz"
            golden.write_bytes(pack_golden(case.inputs, known.outputs))
        return build(PublishRequest(model, name, "1.0.0", golden_path=golden), self._store, now=1_700_000_000)

    def _staged(self, manifest: Manifest, digest: bytes) -> Staged:
        """Have the release on the node's disk as a transfer leaves it: each block at its place, each file verified."""
        variant = manifest.variants[0]
        place = lambda file: self._artifacts.relative(digest, variant.name, file)  # noqa: E731
        for file in manifest.files_of(variant.name):
            self._artifacts.allocate(place(file), file.bytes)
            at = 0
            for block in blocks_of(file, lambda part: self._store.read(part.digest)):
                self._artifacts.write([(place(file), at, self._store.read(block.digest))])
                at += block.bytes
            self._artifacts.verify(place(file), file)
        golden = manifest.golden_of(variant)
        return Staged(
            manifest.model,
            manifest.version,
            digest,
            manifest,
            self._artifacts.path(place(variant.files[0])),
            self._artifacts.path(place(golden.file)) if golden else None,
            runtime=variant.runtime,
            variant=variant.name,
        )

    def _prepared(self, staged: Staged) -> Prepared | Refused:
        done, outcomes = threading.Event(), list[Prepared | Refused]()

        def heard(outcome: Prepared | Refused) -> None:
            outcomes.append(outcome)
            done.set()

        self._server.prepare(staged, heard)
        assert done.wait(SECONDS_MAX), f"{staged.model} was never prepared"
        return outcomes[0]

    def _asked(self, test: str, name: str, inputs: Arrays, known: Reference) -> Outcome:
        assert known.outputs is not None
        refusals, near = list[Refusal](), False
        forms: tuple[tuple[Step, Callable[[str, Arrays], Arrays]], ...] = (("binary", self._ask_binary), ("json", self._ask_json))
        for form, ask in forms:
            try:
                answers = ask(name, inputs)
            except Refusing as refusing:
                refusals.append(Refusal(form, str(refusing.status), refusing.reason))
                continue
            wrong = difference(known.outputs, answers)
            if wrong and not alike(known, answers):
                return Outcome(test, tuple(refusals), f"{form}: {wrong}")
            near |= bool(wrong)
        return Outcome(test, tuple(refusals), near=near)

    def _ask_binary(self, name: str, inputs: Arrays) -> Arrays:
        parts = {key: _packed(array) for key, array in inputs.items()}
        listed = [_listed(key, inputs[key], parameters={"binary_data_size": len(part)}) for key, part in parts.items()]
        head = json.dumps({"inputs": listed, "parameters": {"binary_data_output": True}}).encode()
        body, header = self.post(name, head + b"".join(parts.values()), {"Inference-Header-Content-Length": str(len(head))})
        at, answers = header or len(body), Arrays()
        for tensor in json.loads(body[:at])["outputs"]:
            size = tensor["parameters"]["binary_data_size"]
            answers[tensor["name"]] = _unpacked(tensor, body[at : at + size])
            at += size
        assert at == len(body)
        return answers

    def _ask_json(self, name: str, inputs: Arrays) -> Arrays:
        listed = [_listed(key, array, data=array.ravel().tolist()) for key, array in inputs.items()]
        try:
            request = json.dumps({"inputs": listed}, allow_nan=False).encode()
        except ValueError:
            raise Refusing(0, "an input is NaN or infinite, which JSON cannot carry") from None
        body, _ = self.post(name, request, {})
        return {one["name"]: np.array(one["data"], _dtype(one["datatype"])).reshape(one["shape"]) for one in json.loads(body)["outputs"]}

    def post(self, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, int | None]:
        """Return the body of an answer, and how long its JSON part is where binary tensors follow it.

        Raises:
            Refusing: it is not 200.
        """
        self._client.request("POST", f"/v2/models/{name}/infer", body, {"Content-Type": "application/json", **headers})
        response = self._client.getresponse()
        answer = response.read()
        if response.status != 200:
            raise Refusing(response.status, str(json.loads(answer)["error"]))
        length = response.headers["Inference-Header-Content-Length"]
        return answer, int(length) if length else None


class Refusing(Exception):
    """A request that was not answered; status 0: it could not even be written."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@contextmanager
def opened(folder: Path, *, store: BlockStore | None = None) -> Iterator[Way]:
    """A way in this folder, with a server on a free port; the hub's store is there too, or is the one that is given."""
    server = Server(Listen(port=0), node="corpus", on_rows=lambda _: None)
    server.start()
    try:
        yield Way(folder, server, store or BlockStore(folder / "blocks"))
    finally:
        server.stop()


def difference(expected: Arrays, answers: Arrays) -> str:
    """Return what differs, in a line; nothing where all is equal."""
    if set(expected) != set(answers):
        return f"outputs: expected {sorted(expected)}, found {sorted(answers)}"
    for name, known in expected.items():
        want = known.astype(object) if known.dtype.kind in "OU" else known  # a text's width is numpy's own
        if not equal(want, answers[name]):
            found = answers[name]
            return f"{name}: expected {want.dtype}{list(want.shape)} {_few(want)}, found {found.dtype}{list(found.shape)} {_few(found)}"
    return ""


def alike(known: Reference, answers: Arrays) -> bool:
    """Return whether answers are as far from the known ones as ONNX Runtime's own may be: another order of adding up, or other draws."""
    assert known.outputs is not None
    if set(known.outputs) != set(answers) or not known.varies:
        return False
    pairs = [(array, answers[name]) for name, array in known.outputs.items()]
    if any(one.dtype != other.dtype or one.shape != other.shape for one, other in pairs):
        return False
    return known.varies == "call" or all(np.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True) for one, other in pairs)


def _few(array: np.ndarray) -> str:
    return str(array.ravel()[:6].tolist())


def _listed(name: str, array: np.ndarray, **more: Any) -> dict[str, Any]:
    datatype = "BYTES" if array.dtype.kind in "OUS" else DATATYPES[array.dtype]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), **more}


def _dtype(datatype: str) -> np.dtype:
    return np.dtype(object if datatype == "BYTES" else WORDS[datatype])


def _packed(array: np.ndarray) -> bytes:
    if array.dtype.kind not in "OUS":
        return array.tobytes()
    encoded = [str(text).encode() for text in array.ravel().tolist()]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def _unpacked(tensor: Mapping[str, Any], data: bytes) -> np.ndarray:
    if tensor["datatype"] != "BYTES":
        return np.frombuffer(data, WORDS[tensor["datatype"]]).reshape(tensor["shape"])
    texts, at = list[str](), 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        texts.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(tensor["shape"])
