"""Blocks that a broker changes, and releases that a hostile team signs: what may come onto a device's disk, and what may run."""

import itertools
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import zstandard
from onnx import TensorProto, helper

from schemas import codec
from schemas.errors import Code
from schemas.manifest import Block, File, Manifest, Payload, Tensor, Variant
from schemas.names import sha256
from tests.attacks.catalogue import attack
from tests.attacks.node_scene import HONEST, MODEL, NodeScene, affine

_numbers = itertools.count(1)


def version() -> str:
    """A version that no attack had before."""
    return f"5.0.{next(_numbers)}"


def roll_out(scene: NodeScene, name: str) -> None:
    """Have the hub itself bring this release to the node: it is signed, listed and deployed."""
    roles = scene.newer_roles()
    scene.say_models(HONEST, name)
    scene.say_roles(roles)
    scene.deploy(name)


def deliver(scene: NodeScene, damage: Callable[[bytes, bytes], list[bytes]]) -> None:
    """Roll out a release of several blocks, over a broker that does this to each of them."""
    name = version()
    filling = np.random.default_rng(int(name.rpartition(".")[2])).bytes(150_000)
    graph = affine(6.0)
    scene.blocks.damage = damage
    scene.add_release(name, graph + b"\x32" + _varint(len(filling)) + filling)  # An unknown field, as far as ONNX is concerned.
    roll_out(scene, name)


def _varint(number: int) -> bytes:
    found = b""
    while number >= 0x80:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


# Blocks


@attack("transport", Code.BLOCK_DIGEST)
def flipped_block(scene: NodeScene) -> None:
    """Each block with one bit flipped."""
    deliver(scene, lambda digest, payload: [bytes([payload[0] ^ 1]) + payload[1:]])


@attack("transport", Code.BLOCK_DIGEST)
def truncated_block(scene: NodeScene) -> None:
    """Each block without its last half."""
    deliver(scene, lambda digest, payload: [payload[: len(payload) // 2]])


@attack("transport", Code.BLOCK_DIGEST)
def foreign_block(scene: NodeScene) -> None:
    """A genuine block of another release on each block's topic."""
    other = next(payload for payload in scene.blocks.payloads.values())
    deliver(scene, lambda digest, payload: [other])


@attack("transport", Code.BLOCK_DIGEST)
def bomb_in_a_blocks_place(scene: NodeScene) -> None:
    """A frame that expands to 256 MiB on each block's topic."""
    bomb = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(2**28))
    deliver(scene, lambda digest, payload: [bomb])


@attack("transport", Code.BLOCK_DIGEST)
def blocks_doubled_and_flipped(scene: NodeScene) -> None:
    """Each block several times, none of them genuine."""
    deliver(scene, lambda digest, payload: [payload[::-1]] * 20)


@attack("transport", Code.BLOCK_DIGEST)
def oversize_block(scene: NodeScene) -> None:
    """A megabyte where a block has at most 120 KiB."""
    deliver(scene, lambda digest, payload: [bytes(2**20)])


# What a hostile team encodes


def one_block(scene: NodeScene, name: str, size: int, payload: bytes, encoding: Any = "zstd", digest: bytes | None = None) -> None:
    """Sign a release of one block whose only payload is this."""
    digest = digest or sha256(name.encode())
    listed = Payload(encoding, sha256(payload), len(payload))
    scene.blocks.payloads[listed.digest] = payload
    scene.blocks.payloads[digest] = payload  # also where the node asks for the bytes as they are
    file = File(path="model.onnx", bytes=size, digest=digest, blocks=(Block(digest, size, (listed,)),))
    made = scene.manifest(name, b"x").model_copy(update={"variants": (Variant(name="fp32", files=(file,)),)})
    document = codec.encode(made)
    scene.sign_release(name, document)
    scene.blocks.manifests[sha256(document)] = made
    roll_out(scene, name)


@attack("transport", Code.BLOCK_DECODE, Code.BLOCK_DIGEST)
def signed_bomb(scene: NodeScene) -> None:
    """A block of 60 KB whose signed payload expands to 64 MiB."""
    one_block(scene, version(), 60_000, zstandard.ZstdCompressor(write_content_size=True).compress(bytes(2**26)))


@attack("transport", Code.BLOCK_DECODE, Code.BLOCK_DIGEST)
def signed_bomb_without_its_size(scene: NodeScene) -> None:
    """The same, in a frame that does not declare its size."""
    one_block(scene, version(), 60_000, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**26)))


@attack("transport", Code.BLOCK_DECODE, Code.BLOCK_DIGEST)
def signed_junk(scene: NodeScene) -> None:
    """A signed payload that is no frame."""
    one_block(scene, version(), 60_000, b"junk" * 100)


@attack("transport", Code.BLOCK_DIGEST)
def signed_payload_of_something_else(scene: NodeScene) -> None:
    """A signed payload that decodes to other bytes of the same size."""
    one_block(scene, version(), 60_000, zstandard.ZstdCompressor(write_content_size=True).compress(bytes(60_000)))


# What a hostile team puts into a manifest


def sign_raw(scene: NodeScene, change: Callable[[dict[str, Any]], None]) -> None:
    """Roll out a release whose manifest was changed past what our own tools write."""
    name = version()
    fields = msgpack.unpackb(codec.encode(scene.manifest(name, affine(6.0))))
    change(fields)
    scene.sign_release(name, msgpack.packb(fields))
    roll_out(scene, name)


def with_path(path: str) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        fields["variants"][0]["files"][0]["path"] = path

    return change


@attack("artifact", Code.SCHEMA_MALFORMED)
def path_that_climbs(scene: NodeScene) -> None:
    """A file named `../../status.json`."""
    sign_raw(scene, with_path("../../status.json"))


@attack("artifact", Code.SCHEMA_MALFORMED)
def absolute_path(scene: NodeScene) -> None:
    """A file named `/etc/cron.d/x`."""
    sign_raw(scene, with_path("/etc/cron.d/x"))


@attack("artifact", Code.SCHEMA_MALFORMED)
def path_with_a_nul(scene: NodeScene) -> None:
    """A file whose name ends early for the kernel."""
    sign_raw(scene, with_path("model.onnx\0.txt"))


@attack("artifact", Code.SCHEMA_MALFORMED)
def path_with_a_backslash(scene: NodeScene) -> None:
    """A file whose name climbs on other systems."""
    sign_raw(scene, with_path("..\\model.onnx"))


@attack("artifact", Code.SCHEMA_MALFORMED)
def case_folded_names(scene: NodeScene) -> None:
    """Two files that are one where case does not count."""

    def change(fields: dict[str, Any]) -> None:
        files = fields["variants"][0]["files"]
        files.append({**files[0], "path": files[0]["path"].upper()})

    sign_raw(scene, change)


@attack("artifact", Code.SCHEMA_MALFORMED)
def file_without_blocks_for_its_size(scene: NodeScene) -> None:
    """A file of 8 GiB with blocks of a few hundred bytes."""

    def change(fields: dict[str, Any]) -> None:
        fields["variants"][0]["files"][0]["bytes"] = 2**33

    sign_raw(scene, change)


@attack("artifact", Code.SCHEMA_MALFORMED, Code.SCHEMA_UNSUPPORTED)
def manifest_with_a_field_of_its_own(scene: NodeScene) -> None:
    """A field that no version of the format has, outside the section for newer ones."""

    def change(fields: dict[str, Any]) -> None:
        fields["aaa"] = 1

    sign_raw(scene, change)


@attack("artifact", Code.ARTIFACT_DIGEST)
def file_that_its_blocks_do_not_make(scene: NodeScene) -> None:
    """A file whose blocks are genuine, and whose own digest is another's."""
    name = version()
    made = scene.manifest(name, affine(6.0))
    file = made.variants[0].files[0].model_copy(update={"digest": bytes(32)})
    variant = made.variants[0].model_copy(update={"files": (file,)})
    lying = made.model_copy(update={"variants": (variant,)})
    scene.sign_release(name, codec.encode(lying))
    scene.blocks.manifests[sha256(codec.encode(lying))] = lying
    roll_out(scene, name)


# Models that attack what loads them


def model(scene: NodeScene, onnx: bytes, **changes: Any) -> Manifest:
    name = version()
    made = scene.add_release(name, onnx, **changes)
    roll_out(scene, name)
    return made


@attack("artifact", Code.MODEL_LOAD)
def malformed_protobuf(scene: NodeScene) -> None:
    """A model that is no protobuf."""
    model(scene, b"\xff" * 3000)


@attack("artifact", Code.MODEL_LOAD)
def truncated_model(scene: NodeScene) -> None:
    """A model that was cut off before it was signed."""
    model(scene, affine(6.0)[:-40])


@attack("artifact", Code.MODEL_LOAD)
def custom_operator(scene: NodeScene) -> None:
    """An operator of a library that the model would have loaded."""
    model(scene, affine(6.0, operators=(helper.make_node("Shell", ["X"], ["Y"], domain="stranger"),)))


@attack("artifact", Code.MODEL_LOAD)
def native_blob(scene: NodeScene) -> None:
    """A compiled blob for an accelerator's driver (EPContext), embedded in the graph."""
    node = helper.make_node(
        "EPContext", ["X"], ["Y"], domain="com.microsoft", embed_mode=1, ep_cache_context=b"\x7fELF" * 100, source="QNN"
    )
    model(scene, affine(6.0, operators=(node,)))


def with_external_data(location: str) -> bytes:
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Mul", ["X", "slope"], ["Y"])],
            "g",
            [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 5])],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 5])],
            [helper.make_tensor("slope", TensorProto.FLOAT, [1], [2.0])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    weights = proto.graph.initializer[0]
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    return bytes(proto.SerializeToString())


@attack("artifact", Code.MODEL_EXTERNAL_DATA)
def external_data_that_climbs(scene: NodeScene) -> None:
    """Weights that are read from the node's own folder."""
    model(scene, with_external_data("../../../status.json"))


@attack("artifact", Code.MODEL_EXTERNAL_DATA, Code.MODEL_LOAD)
def external_data_with_an_absolute_path(scene: NodeScene) -> None:
    """Weights that are read from /etc/passwd."""
    model(scene, with_external_data("/etc/passwd"))


@attack("artifact", Code.MODEL_SIGNATURE)
def model_with_other_inputs(scene: NodeScene) -> None:
    """A model whose inputs are not those that were signed."""
    model(scene, affine(6.0), inputs=(Tensor(name="X", datatype="INT64", shape=(-1, 5)),))


@attack("artifact", Code.MODEL_NOT_FINITE, Code.MODEL_GOLDEN)
def answers_that_are_no_numbers(scene: NodeScene) -> None:
    """A model that answers NaN."""
    nodes = (
        helper.make_node("Sub", ["X", "X"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["Y"]),
    )
    model(scene, affine(6.0, operators=nodes))


@attack("artifact", Code.MODEL_TOO_LARGE, Code.MODEL_RUN, Code.MODEL_LOAD, Code.WORKER_CRASHED)
def memory_bomb(scene: NodeScene) -> None:
    """A model of a few hundred bytes that asks for 512 GiB when it runs."""
    size = helper.make_tensor("size", TensorProto.INT64, [2], [2**17, 2**20])
    nodes = (
        helper.make_node("Constant", [], ["n"], value=size),
        helper.make_node("ConstantOfShape", ["n"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["one"], keepdims=0),
        helper.make_node("Mul", ["X", "one"], ["Y"]),
    )
    model(scene, affine(6.0, operators=nodes))


@attack("artifact", Code.MODEL_RUN, Code.MODEL_LOAD, Code.MODEL_SIGNATURE)
def model_that_fails_when_asked(scene: NodeScene) -> None:
    """A model whose shapes do not fit for any input."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [7, 11])
    nodes = (helper.make_node("Constant", [], ["s"], value=shape), helper.make_node("Reshape", ["X", "s"], ["Y"]))
    model(scene, affine(6.0, operators=nodes))


@attack("artifact", Code.RUNTIME_ABSENT, Code.RELEASE_NO_VARIANT)
def runtime_of_its_own(scene: NodeScene) -> None:
    """A release for a runtime that this device does not have."""
    name = version()
    made = scene.manifest(name, affine(6.0))
    variant = made.variants[0].model_copy(update={"requirements": made.variants[0].requirements.model_copy(), "runtime": "shell"})
    lying = made.model_copy(update={"variants": (variant,)})
    scene.sign_release(name, codec.encode(lying))
    scene.blocks.manifests[sha256(codec.encode(lying))] = lying
    roll_out(scene, name)


__all__ = ["MODEL"]
