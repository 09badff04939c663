"""Define the messages of the Open Inference Protocol's gRPC form, as its open_inference_grpc.proto does (extra `grpc`).

They are built here and not generated, so that no compiled file has to follow protobuf's versions; they live in a pool of their own, so that
a program can load somebody else's beside them.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"
KINDS: Final = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("string", "bool", "int32", "int64", "uint32", "uint64", "float", "double", "bytes", "message")
}
PARAMETERS: Final = "map<InferParameter>"
# Fields in the order of their numbers, from 1 on: a name, then a type; `*` repeats.
MESSAGES: Final[dict[str, dict[str, str]]] = {
    "InferParameter": {
        "bool_param": "bool",
        "int64_param": "int64",
        "string_param": "string",
        "double_param": "double",
        "uint64_param": "uint64",
    },
    "InferTensorContents": {
        "bool_contents": "*bool",
        "int_contents": "*int32",
        "int64_contents": "*int64",
        "uint_contents": "*uint32",
        "uint64_contents": "*uint64",
        "fp32_contents": "*float",
        "fp64_contents": "*double",
        "bytes_contents": "*bytes",
    },
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": "bool"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": "bool"},
    "ModelReadyRequest": {"name": "string", "version": "string"},
    "ModelReadyResponse": {"ready": "bool"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": "string", "version": "string", "extensions": "*string"},
    "ModelMetadataRequest": {"name": "string", "version": "string"},
    "TensorMetadata": {"name": "string", "datatype": "string", "shape": "*int64"},
    "ModelMetadataResponse": {
        "name": "string",
        "versions": "*string",
        "platform": "string",
        "inputs": "*TensorMetadata",
        "outputs": "*TensorMetadata",
    },
    "InferTensor": {
        "name": "string",
        "datatype": "string",
        "shape": "*int64",
        "parameters": PARAMETERS,
        "contents": "InferTensorContents",
    },
    "InferRequestedOutputTensor": {"name": "string", "parameters": PARAMETERS},
    "ModelInferRequest": {
        "model_name": "string",
        "model_version": "string",
        "id": "string",
        "parameters": PARAMETERS,
        "inputs": "*InferTensor",
        "outputs": "*InferRequestedOutputTensor",
        "raw_input_contents": "*bytes",
    },
    "ModelInferResponse": {
        "model_name": "string",
        "model_version": "string",
        "id": "string",
        "parameters": PARAMETERS,
        "outputs": "*InferTensor",
        "raw_output_contents": "*bytes",
    },
}


def message_classes() -> dict[str, Any]:
    """Return a class for each message, by its name."""
    file = descriptor_pb2.FileDescriptorProto(name="fleetcast_open_inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "InferParameter":
            message.oneof_decl.add(name="parameter_choice")
        for number, (field, kind) in enumerate(fields.items(), 1):
            _add_field(message, name, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


def _add_field(message: Any, of: str, name: str, number: int, kind: str) -> None:
    repeated = kind.startswith("*") or kind == PARAMETERS
    label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED if repeated else descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    plain = kind.lstrip("*")
    field = message.field.add(name=name, number=number, label=label, type=KINDS.get(plain, KINDS["message"]))
    if kind == PARAMETERS:
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=1, type=KINDS["string"])
        entry.field.add(name="value", number=2, label=1, type=KINDS["message"], type_name=f".{PACKAGE}.InferParameter")
        field.type_name = f".{PACKAGE}.{of}.ParametersEntry"
    elif plain not in KINDS:
        field.type_name = f".{PACKAGE}.{plain}"
    if of == "InferParameter":
        field.oneof_index = 0
