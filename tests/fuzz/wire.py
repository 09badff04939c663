"""Decoders of what crosses the wire: documents, blocks, counts, topics, selectors, bundle files."""

import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import get_args

import numpy as np

from hub.core.delivery import chunker
from hub.core.delivery.encode import Ancestor, encode_block
from hub.core.drift.windows import Reader
from schemas import codec, limits, rice, selectors, windows
from schemas.bundle_file import Parcel, deployments_in, read_frames, write_frame
from schemas.document import Document
from schemas.encoding import decode_payload
from schemas.enrolment import Token
from schemas.errors import Code, Refused
from schemas.manifest import Block, EncodingName, Manifest, Payload
from schemas.names import sha256
from schemas.topics import TABLE, Topics, block_digest
from schemas.window import Window
from tests.fuzz.models import tensor_files
from tests.fuzz.mutations import Msgpack, Raw, Text
from tests.fuzz.target import VECTORS, Target
from tools.examples import EXAMPLES, MANIFEST, NOON

# The first byte of an input chooses the kind.
FROM_NODES = ("state", "receipt", "sealed-receipt", "want", "window")
FROM_HUB = (
    *("trust", "trust-time", "trust-roles", "model", "deployments", "envelope", "deployment-index", "device-settings"),
    *("manifest", "rollout", "index", "parcel", "hub-presence"),
)
AT_ENROLMENT = (
    *("authority", "hello", "statement", "signed-statement", "enrolment-request", "renewal", "sealed-renewal", "enrolled"),
    "enrolment-refused",
)
KINDS: dict[str, type[Document]] = {type(one).schema_name: type(one) for one in EXAMPLES}
FLEET = Topics("plant")


def _documents(names: Sequence[str]) -> Target:
    kinds = [KINDS[name] for name in names]

    def run(data: bytes) -> None:
        kind = kinds[data[0] % len(kinds)] if data else kinds[0]
        _read(kind, data[1:])

    def seeds() -> list[bytes]:
        return [
            bytes([number]) + path.read_bytes() for number, name in enumerate(names) for path in sorted(VECTORS.glob(f"{name}-v1*.msgpack"))
        ]

    return Target("documents_" + _GROUPS[names[0]], run, seeds, Msgpack(prefix=1))


_GROUPS = {FROM_NODES[0]: "from_nodes", FROM_HUB[0]: "from_hub", AT_ENROLMENT[0]: "at_enrolment", "alert": "for_consumers"}


def _read(kind: type[Document], payload: bytes) -> Document:
    """Decode, and check what is promised: a document has one encoding, but for what a newer program added and what zstd makes of it."""
    document = codec.decode(kind, payload)
    again = codec.encode(document)
    assert codec.decode(kind, again) == document
    if kind.decoded_bytes_max is None and codec.MINOR_KEY.encode() not in payload:
        assert again == payload, "a document with two encodings"
    return document


# Windows


@cache
def _readers() -> list[Reader]:
    paths = sorted(VECTORS.glob("manifest-v1*.msgpack"))
    manifests = [MANIFEST, *(codec.decode(Manifest, path.read_bytes()) for path in paths)]
    return [Reader(one) for one in manifests]


def _window(data: bytes) -> None:
    reader = _readers()[data[0] % len(_readers())] if data else _readers()[0]
    window = codec.decode(Window, data[1:])
    one = _or_code(lambda: reader.read(window, now=NOON + 90_000))
    if window.packed is not None:
        (many,) = reader.read_many([window], now=NOON + 90_000)
        assert (many.code if isinstance(many, Refused) else _told(many)) == one, "read alone and among others differ"


def _or_code(read: Callable[[], object]) -> object:
    try:
        return _told(read())
    except Refused as refusal:
        return refusal.code


def _told(taken: object) -> object:
    counts = getattr(taken, "counts", None)
    return (getattr(taken, "rows", None), None if counts is None else counts.tolist())


def _window_seeds() -> list[bytes]:
    found = [
        bytes([number]) + path.read_bytes() for number in range(len(_readers())) for path in sorted(VECTORS.glob("window-v1*.msgpack"))
    ]
    bins = _readers()[0]._bins
    for own in (None, 8, 12):
        packed = rice.pack(np.arange(bins, dtype=np.int64) % 7 - 3)
        window = Window(id=bytes(16), release=bytes(8), start=NOON, seconds=86_400, rows=4000, packed=packed, own_rows_log2=own)
        found.append(b"\0" + codec.encode(window))
    return found


def _rice(data: bytes) -> None:
    count, packed = int.from_bytes(data[:2], "little") % 2048, data[2:]
    one = _or_none(lambda: rice.unpack(packed, count, what="fuzz"))
    many = _or_none(lambda: rice.unpack_many([packed, packed], count, what="fuzz"))
    if count:
        assert (one is None) == (many is None), "read alone and among others differ"
    if one is not None and many is not None:
        assert (many == one).all()
    if one is not None and np.abs(one).max(initial=0) <= rice.VALUE_MAX:
        assert (rice.unpack(rice.pack(one), count, what="fuzz") == one).all()


def _or_none(read: Callable[[], "np.ndarray"]) -> "np.ndarray | None":
    try:
        return read()
    except Refused:
        return None


def _rice_seeds() -> list[bytes]:
    rows = [np.arange(n, dtype=np.int64) * step - n for n in (1, 2, 40, 300) for step in (0, 1, 17, 100_003)]
    return [len(row).to_bytes(2, "little") + rice.pack(row) for row in rows]


# Blocks


ENCODINGS: tuple[EncodingName, ...] = get_args(EncodingName)
PARENT = bytes(range(256)) * 48


def _block(data: bytes) -> None:
    """The first bytes: an encoding, whether there is a parent, and the block's size. No such block exists: the last check refuses it."""
    choice, size, packed = data[:1] or b"\0", int.from_bytes(data[1:4], "little") % (limits.BLOCK_BYTES_MAX + 2), data[4:]
    encoding = ENCODINGS[choice[0] % len(ENCODINGS)]
    parent = PARENT if choice[0] < 128 else b""
    found: Refused
    try:
        decode_payload(Payload(encoding, sha256(packed), len(packed)), Block(bytes(32), size), packed, parent)
    except Refused as refusal:
        found = refusal
    assert found.code in {Code.BLOCK_DECODE, Code.BLOCK_DIGEST, Code.BLOCK_TOO_LARGE, Code.BLOCK_PARENT}


def _block_seeds() -> list[bytes]:
    block = np.random.default_rng(7).normal(size=3000).astype(np.float32).tobytes()
    near = bytearray(PARENT)
    near[100:900] = bytes(800)
    found = []
    for content in (block, bytes(near), bytes(4096)):
        for encoding, packed in _encodings(content):
            found.append(bytes([ENCODINGS.index(encoding)]) + len(content).to_bytes(3, "little") + packed)
    return found


def _encodings(content: bytes) -> list[tuple[EncodingName, bytes]]:
    found: list[tuple[EncodingName, bytes]] = [("raw", content)]
    for parents in ((), (Ancestor((sha256(PARENT),), PARENT),)):
        block, payloads = encode_block(content, dtype="F32", parents=parents)
        found += [(one.encoding, payloads[one.digest]) for one in block.payloads]
    return found


def _tensors(data: bytes) -> None:
    found = chunker.tensors(data)
    for one in found:
        assert 0 <= one.offset <= len(data) - one.length
    blocks = chunker.cut(len(data), [(one.offset, one.length) for one in found])
    assert sum(length for _, length in blocks) == len(data)
    assert all(length <= limits.BLOCK_BYTES_MAX for _, length in blocks)


# Texts


def _topic(data: bytes) -> None:
    address = FLEET.parse(data.decode("utf-8", "replace"))
    if address.kind == "block":
        assert FLEET.block(block_digest(address)) == data.decode()


def _topic_seeds() -> list[bytes]:
    patterns = [one.pattern.replace("{node}", "gate-17").replace("{}", "ab" * 32) for one in TABLE]
    return [f"fleetcast/v1/plant/{one}".encode() for one in patterns]


def _selector(data: bytes) -> None:
    found = selectors.parse(data.decode("utf-8", "replace"))
    assert selectors.parse(selectors.text_of(found)) == found
    for labels in ({}, {"site": "jfk"}):
        selectors.matches(found, selectors.NodeFacts("gate-17", labels, "x86_64"))
    selectors.may_overlap(found, found)


def _times(data: bytes) -> None:
    found = windows.parse_windows(data.decode("utf-8", "replace"))
    assert windows.parse_windows(windows.windows_text(found)) == found
    windows.is_open(found, NOON)
    opening = windows.next_opening(found, NOON)
    assert opening is None or opening >= NOON


def _token(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert str(Token.parse(text)) == text.strip()


def _texts(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


# Files


def _parcel(data: bytes) -> None:
    for number, (kind, frame) in enumerate(read_frames(io.BytesIO(data))):
        if kind == "parcel":
            _read(Parcel, frame)
        elif kind == "block" and number == 3:
            deployments_in(frame)
        elif kind in {"trust", "model"}:
            _read(KINDS[kind], frame)


def _parcel_seeds() -> list[bytes]:
    target = io.BytesIO()
    target.write(b"fleetcast parcel 1\n")
    for kind in ("parcel", "trust", "model"):
        write_frame(target, kind, (VECTORS / f"{kind}-v1.msgpack").read_bytes())  # type: ignore[arg-type]
    write_frame(target, "block", (VECTORS / "envelope-v1.msgpack").read_bytes())
    write_frame(target, "block", bytes(100))
    write_frame(target, "end")
    return [target.getvalue()]


SELECTOR_TOKENS = ("=", "!=", "==", " in ", " notin ", "(", ")", ",", "!", "node", "arch", "site", "\u00e9", " ")
CONSUMERS = tuple(sorted(set(KINDS) - {*FROM_NODES, *FROM_HUB, *AT_ENROLMENT}))
_GROUPS[CONSUMERS[0]] = "for_consumers"
TARGETS = (
    *(_documents(names) for names in (FROM_NODES, FROM_HUB, AT_ENROLMENT, CONSUMERS)),
    Target("windows_of_telemetry", _window, _window_seeds, Msgpack(prefix=1)),
    Target("rice_codes", _rice, _rice_seeds),
    Target("blocks", _block, _block_seeds, Raw()),
    Target("tensor_spans", _tensors, tensor_files),
    Target("topics", _topic, _topic_seeds, Text(("/", "+", "#", "node", "block", "\0", "AB"))),
    Target(
        "selectors",
        _selector,
        _texts("site=jfk,tier!=lab,arch in (aarch64,x86_64),zone notin (a,b),gpu,!gpu", "", "node==a"),
        Text(SELECTOR_TOKENS),
    ),
    Target(
        "times_of_week",
        _times,
        _texts("Mon-Fri 22:00-05:00; Sat,Sun 00:00-24:00", "22:00-05:00"),
        Text(("Mon", "Sun", "-", ",", ":", ";", "24:00", "00:00")),
    ),
    Target("tokens", _token, _texts(str(Token(bytes(32), bytes(range(32))))), Text((".", "ft1", "=", "-", "_", "A"))),
    Target("bundle_files", _parcel, _parcel_seeds),
)
