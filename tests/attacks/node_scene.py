"""A real node beside a broker, a hub's word by hand, and the attacker who has the broker and some stolen keys."""

import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from onnx import TensorProto, helper

from fleetcast.mqtt_connection import Message
from hub.core.delivery.encode import encode_block
from hub.signing.envelopes import seal
from node.trust.tuf_client import ROLES_COPIES
from schemas import codec
from schemas.block_request import Want
from schemas.bundle import ModelBundle, TrustRoles, TrustTime
from schemas.deployment_index import index_of
from schemas.deployments import DEFAULT, Deployment, Deployments, Envelope, in_order
from schemas.errors import Refused
from schemas.manifest import File, Index, Manifest, Tensor, Variant
from schemas.names import sha256
from schemas.rollout import ReleaseRef
from schemas.topics import Topics
from tests.attacks.processes import Process, until
from tests.broker.client import Client
from tests.brokers import FLEET, Broker, free_port
from tests.trust_fleet import DAY, Fleet, signed

BIN = Path(sys.executable).parent
NODE, MODEL, HONEST = "n1", "delay", "1.0.0"
BLOCK_BYTES = 60_000


def affine(slope: float, *, operators: tuple[Any, ...] = ()) -> bytes:
    """A graph that multiplies, or of these operators, X to Y."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 5]) for name in ("X", "Y")]
    constant = helper.make_tensor("slope", TensorProto.FLOAT, [1], [slope])
    graph = helper.make_graph(operators or [helper.make_node("Mul", ["X", "slope"], ["Y"])], "g", sides[:1], sides[1:], [constant])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("stranger", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


class BlockServer(threading.Thread):
    """Answer the node's wants as a hub does, or as an attacker who has the broker."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(daemon=True)
        self.client, self.topics = Client.of(broker, "hub", client_id="hub" if broker.kind == "mosquitto" else "hub-blocks"), Topics(FLEET)
        self.payloads: dict[bytes, bytes] = {}
        self.manifests: dict[bytes, Manifest] = {}
        self.wants: list[Want] = []
        self.damage: Callable[[bytes, bytes], list[bytes]] = lambda digest, payload: [payload]
        self._stopped = threading.Event()
        self.client.open()
        self.client.subscribe(self.topics.filter("want"))

    def run(self) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Empty):
                event = self.client.inbox.get(timeout=0.1)
                if isinstance(event, Message):
                    self._serve(codec.decode(Want, event.payload))
                    self.client.link.ack(event)

    def _serve(self, want: Want) -> None:
        self.wants.append(want)
        manifest = self.manifests.get(want.release)
        if manifest is None:
            return
        file = manifest.variants[0].files[0]
        blocks = file.index if want.index else file.blocks or codec.decode(Index, self.payloads[file.index[0].digest]).blocks
        for first, length in want.ranges:
            for block in blocks[first : first + length]:
                digest = want.payload_of(block).digest
                for data in self.damage(digest, self.payloads.get(digest, b"")):
                    self.client.link.publish(self.topics.block(digest), data)

    def stop(self) -> None:
        self._stopped.set()
        self.join(60)
        self.client.link.close()


class NodeScene:
    """What every attack finds: a node that serves an honest release and believes an honest hub."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        self.fleet = Fleet.make(folder / "fleet", models=(MODEL, "other"), now=datetime.now(UTC))
        self.topics = Topics(FLEET)
        self.blocks = BlockServer(broker)
        self.blocks.start()
        # The attacker has the broker: it may write every topic. On mosquitto that is the hub's certificate, under the hub's name.
        self.attacker = self.blocks.client if broker.kind == "mosquitto" else Client.of(broker, "attacker")
        if self.attacker is not self.blocks.client:
            self.attacker.open()
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.serial, self.settings_serial = 0, 0
        self.said: dict[str, Deployments] = {}
        self.envelope: Envelope | None = None
        self.add_release(HONEST, affine(2.0))
        self.add_release(HONEST, affine(3.0), model="other")
        self.fleet.roles(after=timedelta())
        self.deploy(HONEST)
        self.say_models()
        self.say_roles()
        self.node = self._start()

    # What a hub says

    def retain(self, topic: str, payload: bytes) -> None:
        """Publish, as the hub or the attacker does."""
        self.attacker.link.publish(topic, payload, retain=True)

    def manifest(self, version: str, onnx: bytes, *, model: str = MODEL, **changes: Any) -> Manifest:
        """A release of one file, whose payloads are served from now on."""
        blocks = []
        for at in range(0, max(1, len(onnx)), BLOCK_BYTES):
            block, payloads = encode_block(onnx[at : at + BLOCK_BYTES])
            blocks.append(block)
            self.blocks.payloads.update(payloads)
        file = File(path="model.onnx", bytes=len(onnx), digest=sha256(onnx), blocks=tuple(blocks))
        given = {
            "model": model,
            "version": version,
            "created": int(self.fleet.now.timestamp()),
            "inputs": (Tensor(name="X", datatype="FP32", shape=(-1, 5)),),
            "outputs": (Tensor(name="Y", datatype="FP32", shape=(-1, 5)),),
            "variants": (Variant(name="fp32", files=(file,)),),
            "limits": {"probation_seconds": 0},
            **changes,
        }
        return Manifest.model_validate(given)

    def add_release(self, version: str, onnx: bytes, *, model: str = MODEL, **changes: Any) -> Manifest:
        """Sign it as the team."""
        made = self.manifest(version, onnx, model=model, **changes)
        self.sign_release(version, codec.encode(made), model=model)
        self.blocks.manifests[sha256(codec.encode(made))] = made
        return made

    def sign_release(self, version: str, document: bytes, *, model: str = MODEL, key: str = "team") -> None:
        self.manifests[model, version] = document
        self.fleet.repository.add_release(model, version, document, team=self.fleet.keys[key], now=self.fleet.now)

    def statement(self, version: str, *, serial: int, model: str = MODEL, days: float = 7, digest: bytes = b"") -> Deployments:
        digest = digest or sha256(self.manifests.get((model, version), version.encode()))
        made = Deployment(
            name=DEFAULT, release=ReleaseRef(version, digest), state="done", rollout=os.urandom(16), started=int(self.fleet.now.timestamp())
        )
        expires = int((self.fleet.now + days * DAY).timestamp())
        return Deployments(model=model, serial=serial, expires=expires, deployments=tuple(in_order([made])))

    def sealed(self, said: Deployments, *, key: str = "rollouts") -> bytes:
        return codec.encode(seal("deployments", codec.encode(said), self.fleet.keys[key]))

    def deploy(self, version: str, *, model: str = MODEL) -> int:
        """Have the hub's newest statement name this release."""
        self.serial += 1
        said = self.statement(version, serial=self.serial, model=model)
        self.said[model] = said
        self.retain(self.topics.deploy(model), self.sealed(said))
        self.say_index()
        return self.serial

    def say_models(self, *versions: str) -> None:
        self.retain(self.topics.model(MODEL), codec.encode(self.models(*versions)))

    def models(self, *versions: str, model: str = MODEL) -> ModelBundle:
        return self.fleet.repository.model_bundle(model, versions or (HONEST,))

    def newer_roles(self) -> TrustRoles:
        """What the hub says next: every role is newer."""
        self.fleet.repository.renew_targets(targets=self.fleet.keys["targets"], now=self.fleet.now)
        return self.fleet.roles(after=timedelta())

    def say_roles(self, roles: TrustRoles | None = None) -> None:
        roles = roles if roles is not None else self.fleet.repository.trust_roles()
        self.retain(self.topics.trust_roles, codec.encode(roles))
        self.say_index()
        self.retain(self.topics.trust_time, codec.encode(TrustTime(timestamp=roles.timestamp)))

    def say_index(self) -> None:
        roles = self.fleet.repository.trust_roles()
        newest = {"root": signed(roles.roots[-1]).version, "targets": signed(roles.targets).version}
        self.retain(self.topics.deployed, codec.encode(index_of(self.said.values(), **newest)))

    # The node

    def _start(self) -> Process:
        tls, self.port = self.broker.tls(NODE), free_port()
        lines = [f'id = "{NODE}"', f'fleet = "{FLEET}"', f'broker = "{self.broker.url(NODE)}"', 'data = "data"', 'root = "root.json"']
        lines += [f"port = {self.port}", "telemetry = false", 'labels = {site = "a"}']
        if tls is not None:
            lines += [f'tls_ca = "{tls.ca}"', f'tls_certificate = "{tls.certificate}"', f'tls_key = "{tls.key}"']
        (self.folder / "node.toml").write_text("\n".join(lines) + "\n")
        (self.folder / "root.json").write_bytes(self.fleet.repository.root(1))
        node = Process([str(BIN / "fleetcast-node"), "run", "--settings", str(self.folder / "node.toml")], self.folder / "node.log")
        until("the honest release", lambda: self.served() == HONEST)
        return node

    def served(self) -> str | None:
        """The version that answers, by asking it."""
        row = np.arange(5, dtype=np.float32)
        tensor = {"name": "X", "datatype": "FP32", "shape": [1, 5], "data": row.tolist()}
        with suppress(httpx.TransportError):
            answer = httpx.post(f"http://127.0.0.1:{self.port}/v2/models/{MODEL}/infer", json={"inputs": [tensor]})
            if answer.status_code == 200:
                assert answer.json()["outputs"][0]["data"] == (row * 2).tolist()
                return str(answer.json()["model_version"])
        return None

    def settle(self) -> None:
        """Have the hub say everything anew, and wait until the node believes it: the attack before left nothing behind."""
        self.blocks.damage = lambda digest, payload: [payload]
        since = self.node.log_bytes
        roles = self.newer_roles()
        self.say_models()
        self.say_roles(roles)
        serial = self.deploy(HONEST)
        until("the hub's roles", lambda: self.believes(roles))
        until("the hub's statement", lambda: self.node.logged("deployments.accepted", since, model=MODEL, serial=serial))

    def descriptors(self) -> int:
        """How many the node has open."""
        return len(list(Path(f"/proc/{self.node.pid}/fd").iterdir()))

    def believes(self, roles: TrustRoles) -> bool:
        """Whether the node has taken these roles and nothing newer: it keeps them on disk before it goes by them."""
        for name in ROLES_COPIES:
            with suppress(FileNotFoundError, Refused):  # It is being written.
                kept = codec.decode(TrustRoles, (self.folder / "data" / "trust" / name).read_bytes())
                if kept.targets == roles.targets and kept.snapshot == roles.snapshot:
                    return True
        return False

    def wait(self, probe: Callable[[], Any]) -> None:
        """Wait within an attack that has several steps."""
        until("a step of the attack", probe, seconds=30)

    def codes(self, since: int) -> list[str]:
        """What the node has refused since."""
        found = []
        for line in self.node.lines(since):
            if line["event"] in {"message.refused", "request.refused"} and line.get("code"):
                found.append(str(line["code"]))
            if line["event"] == "receipt.signed" and line.get("outcome") in {"refused", "rolled_back"}:
                found.append(str(line["code"]))
            if line["event"] in {"slot.moved", "fetch.parked"} and line.get("code"):
                found.append(str(line["code"]))
        return found

    def stop(self) -> None:
        self.node.stop()
        self.blocks.stop()
        if self.attacker is not self.blocks.client:
            self.attacker.link.close()
