"""The door: what `encode` writes comes back as it was; whatever else is refused, with its code and never another error."""

import math
import tracemalloc
from typing import Annotated, Any, Literal, get_args, get_origin

import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, limits
from schemas.block_request import Range, Want
from schemas.bundle import ModelBundle, TrustBundle
from schemas.document import Document
from schemas.errors import Code, Refused
from schemas.limits import MIB
from schemas.manifest import Manifest
from schemas.receipt import Evidence, Receipt, SealedReceipt
from schemas.rollout import Gate, ReleaseRef, Rollout
from schemas.window import Window
from tools.examples import EXAMPLES

WANT = next(example for example in EXAMPLES if isinstance(example, Want))
KINDS = tuple(type(example) for example in EXAMPLES)

digests = st.binary(min_size=32, max_size=32)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
labels = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True)
versions = st.builds("{}.{}.{}".format, *(st.integers(0, 999_999_999) for _ in range(3)))
seconds = st.integers(0, 2**40)
not_negative = st.floats(min_value=0, max_value=1e300)
wants = st.builds(
    Want,
    release=digests,
    variant=labels,
    ranges=st.lists(st.builds(Range, st.integers(0, 2**31), st.integers(1, 2**20)), min_size=1, max_size=20).map(tuple),
    encodings=st.lists(st.sampled_from(["raw", "zstd", "planes", "delta"]), min_size=1, max_size=8).map(tuple),
    index=st.booleans(),
    again=st.booleans(),
)
windows = st.builds(
    lambda **fields: Window(**fields),  # noqa: PLW0108  # Window's own signature has the wire's short names
    id=st.binary(min_size=16, max_size=16),
    release=st.binary(min_size=8, max_size=8),
    start=seconds,
    seconds=st.integers(1, limits.WINDOW_SECONDS_MAX),
    rows=st.integers(0, limits.WINDOW_ROWS_MAX),
    counts=st.binary(min_size=1, max_size=400),
)
receipts = st.builds(
    Receipt,
    node=names,
    sequence=st.integers(1, 2**53),
    at=seconds,
    outcome=st.sampled_from(["serving", "refused", "rolled_back"]),
    model=st.none() | names,
    version=st.none() | versions,
    digest=st.none() | digests,
    since=st.none() | seconds,
    code=st.sampled_from(["", *(code.value for code in Code)]),
    reason=st.text(max_size=200),
    evidence=st.none() | st.builds(Evidence, golden_error_max=not_negative, load_ms=not_negative, bytes_received=st.integers(0, 2**53)),
)
rollouts = st.builds(
    Rollout,
    model=names,
    serial=st.integers(1, 2**53),
    release=st.builds(ReleaseRef, versions, digests),
    fallback=st.none() | st.builds(ReleaseRef, versions, digests),
    state=st.sampled_from(["running", "halted", "done", "rolled_back"]),
    stages=st.lists(st.integers(1, 100), min_size=1, max_size=8).map(tuple),
    stage=st.integers(0, limits.STAGES_MAX - 1),
    salt=st.binary(min_size=16, max_size=16),
    labels=st.dictionaries(labels, labels, max_size=5),
    gate=st.builds(Gate, receipts_ratio_min=st.floats(0, 1), halt_on_drift=st.booleans()),
    started=seconds,
)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9) | st.binary(max_size=40)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4), max_leaves=12
)


@given(st.one_of(wants, windows, receipts, rollouts))
def test_what_is_encoded_comes_back_as_it_was(document: Document) -> None:
    payload = codec.encode(document)

    decoded = codec.decode(type(document), payload)

    assert decoded == document
    assert codec.encode(decoded) == payload


@given(rollouts)
def test_one_document_has_one_encoding_in_whatever_order_it_was_built(rollout: Rollout) -> None:
    reversed_labels = dict(reversed(rollout.labels.items()))

    assert codec.encode(rollout.model_copy(update={"labels": reversed_labels})) == codec.encode(rollout)


@given(st.sampled_from(KINDS), st.binary(max_size=2_000))
def test_random_bytes_are_refused_and_never_another_error(kind: type[Document], payload: bytes) -> None:
    with pytest.raises(Refused):
        codec.decode(kind, payload)


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_message_is_refused_or_is_another_valid_one(example: Document, data: st.DataObject) -> None:
    payload = bytearray(codec.encode(example))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    damaged = bytes(payload[:cut]) if data.draw(st.booleans()) else bytes(payload)

    refused, decoded = outcome(type(example), damaged)

    assert (refused is None) != (decoded is None)
    if decoded is not None and type(example).decoded_bytes_max is None:
        assert codec.encode(decoded) == damaged


@given(st.sampled_from(KINDS), anything)
def test_any_msgpack_that_is_no_document_is_refused(kind: type[Document], value: object) -> None:
    with pytest.raises(Refused):
        codec.decode(kind, wire(kind, msgpack.packb(value)))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.schema_name)
def test_a_document_is_taken_for_no_other(example: Document) -> None:
    for kind in KINDS:
        if kind is not type(example):
            with pytest.raises(Refused):
                codec.decode(kind, codec.encode(example))


def test_another_schema_version_is_refused_by_name() -> None:
    fields = unpacked(WANT)

    refusal = refused(Want, msgpack.packb({**fields, "@": "want/2"}))

    assert refusal.code == Code.SCHEMA_UNSUPPORTED
    assert "want/1" in refusal.reason
    assert "want/2" in refusal.reason


@pytest.mark.parametrize("tag", [None, 1, "want", "want/1 ", ["want/1"], b"want/1", "x" * 3000])
def test_a_wrong_tag_is_refused(tag: object) -> None:
    assert refused(Want, packed({**unpacked(WANT), "@": tag})).code == Code.SCHEMA_UNSUPPORTED


def test_what_is_too_large_is_refused_before_it_is_decoded() -> None:
    refusal = refused(Want, b"\xc1" * (limits.WANT_BYTES_MAX + 1))

    assert refusal.code == Code.SCHEMA_TOO_LARGE
    assert str(limits.WANT_BYTES_MAX) in refusal.reason


def test_what_would_be_too_large_is_not_sent() -> None:
    rollout = next(example for example in EXAMPLES if isinstance(example, Rollout))
    long_names = {f"{number:02}" + "k" * 61: "v" * 63 for number in range(limits.LABELS_MAX)}
    longest = rollout.model_copy(update={"labels": long_names, "stages": tuple(range(1, 33))})

    assert len(codec.encode(longest)) <= limits.ROLLOUT_BYTES_MAX
    with pytest.raises(Refused) as refusal:
        codec.encode(WANT.model_copy(update={"variant": "v" * limits.WANT_BYTES_MAX}))
    assert refusal.value.code == Code.SCHEMA_TOO_LARGE


def test_the_largest_window_fits_its_bound() -> None:
    counts = limits.SIGNALS_MAX * limits.BINS_MAX * 5  # every count escaped

    window = Window(id=bytes(16), release=bytes(8), start=2**40, seconds=1, rows=limits.WINDOW_ROWS_MAX, counts=bytes(counts))

    assert codec.decode(Window, codec.encode(window)) == window


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.flat])
def test_a_flat_document_has_only_fields_that_come_out_as_they_went_in(kind: type[Document]) -> None:
    fields = kind.model_fields.values()

    assert {leaf for field in fields for leaf in _leaves(field.annotation)} <= {int, bytes, str, type(None)}
    assert all(field.is_required() or field.default is None for field in fields)


def _leaves(annotation: Any) -> set[Any]:
    """The types that a field's annotation is made of."""
    if get_origin(annotation) is Annotated:
        return _leaves(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return {type(one) for one in get_args(annotation)}
    return {leaf for part in get_args(annotation) for leaf in _leaves(part)} or {annotation}


@given(window=windows, data=st.data())
def test_of_a_flat_document_the_same_is_refused_as_of_any_other(window: Window, data: st.DataObject) -> None:
    fields = msgpack.unpackb(codec.encode(window))
    name = data.draw(st.sampled_from([*fields, "id", "rows", "zz"]))
    fields[name] = data.draw(st.sampled_from([fields.get(name), None, True, 0, 7, 1.0, b"x" * 16, b"", "x", [], [None]]))
    items = data.draw(st.sampled_from([list(fields.items()), list(reversed(fields.items())), sorted(fields.items())]))
    payload = msgpack.packb(dict(items))

    assert _outcome(Window, payload) == _outcome(_Whole, payload)


class _Whole(Window):
    """A window that is written again to be compared."""

    flat = False


def _outcome(kind: type[Document], payload: bytes) -> object:
    try:
        return codec.decode(kind, payload).model_dump()
    except Refused as refusal:
        return refusal.code


@pytest.mark.parametrize(
    ("what", "payload"),
    [
        ("keys out of order", lambda: msgpack.packb(dict(reversed(unpacked(WANT).items())))),
        ("a key twice", lambda: twice(WANT)),
        ("a byte behind", lambda: codec.encode(WANT) + b"\x00"),
        ("a second document behind", lambda: codec.encode(WANT) * 2),
        ("cut short", lambda: codec.encode(WANT)[:-1]),
        ("nothing", lambda: b""),
        ("a null field", lambda: packed({**unpacked(WANT), "again": None})),
        ("a default left out", lambda: packed({key: value for key, value in unpacked(WANT).items() if key != "again"})),
        ("an unknown field", lambda: packed({**unpacked(WANT), "row": [1.5]})),
        ("a number for a boolean", lambda: packed({**unpacked(WANT), "again": 1})),
        ("a float for an integer", lambda: packed({**unpacked(WANT), "ranges": [[0.0, 1]]})),
        ("text for bytes", lambda: packed({**unpacked(WANT), "release": "0" * 32})),
        ("bytes for text", lambda: packed({**unpacked(WANT), "variant": b"fp32"})),
        ("an integer in five bytes that fits one", lambda: codec.encode(WANT).replace(b"\x92\x00\x01", b"\x92\xce\x00\x00\x00\x00\x01")),
        ("an extension type", lambda: packed({**unpacked(WANT), "variant": msgpack.ExtType(5, b"fp32")})),
        ("a timestamp", lambda: packed({**unpacked(WANT), "variant": msgpack.Timestamp(1)})),
        ("a broken timestamp", lambda: packed({**unpacked(WANT), "variant": msgpack.ExtType(-1 & 0x7F, b"xxx")})),
        ("a number as key", lambda: msgpack.packb({**unpacked(WANT), 7: 7})),
        ("bytes as key", lambda: msgpack.packb({**unpacked(WANT), b"x": 7})),
        ("a list for a map", lambda: msgpack.packb([1, 2])),
        ("text that is no UTF-8", lambda: codec.encode(WANT).replace(b"\xa4fp32", b"\xa4\xff\xfe32")),
        ("the byte that msgpack never uses", lambda: b"\xc1"),
        ("a billion elements that do not follow", lambda: b"\xdd\x3f\xff\xff\xff"),
        ("four gigabytes that do not follow", lambda: b"\xc6\xff\xff\xff\xff"),
        ("lists in lists", lambda: b"\x91" * (limits.WANT_BYTES_MAX - 1) + b"\xc0"),
        ("maps in maps", lambda: b"\x81\xa1a" * 1_000 + b"\xc0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_encode_would_not_have_written_is_refused(what: str, payload: object) -> None:
    assert callable(payload)

    assert refused(Want, payload()).code in {Code.SCHEMA_MALFORMED, Code.SCHEMA_UNSUPPORTED}


def test_a_hundred_thousand_levels_are_refused_without_a_crash() -> None:
    deep = b"\x91" * 100_000 + b"\xc0"

    assert refused(TrustBundle, wire(TrustBundle, deep)).code == Code.SCHEMA_MALFORMED


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    fields = unpacked(EXAMPLES[0])
    fields["golden"] = {**fields["golden"], "absolute_tolerance": value}

    assert refused(Manifest, packed(fields)).code == Code.SCHEMA_MALFORMED


def test_a_float_in_four_bytes_is_refused() -> None:
    short = codec.encode(EXAMPLES[0]).replace(b"\xcb" + msgpack.packb(0.25)[1:], b"\xca\x3e\x80\x00\x00")

    assert short != codec.encode(EXAMPLES[0])
    assert refused(Manifest, short).code == Code.SCHEMA_MALFORMED


def test_a_bomb_is_refused_by_the_size_it_declares() -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(1024 * MIB // 8))

    refusal, peak = measured(bomb)

    assert refusal.code == Code.SCHEMA_TOO_LARGE
    assert peak < MIB


def test_a_bomb_that_does_not_declare_its_size_is_refused_unopened() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    bomb = compressor.compress(bytes(128 * MIB)) + compressor.flush()

    refusal, peak = measured(bomb)

    assert refusal.code == Code.SCHEMA_TOO_LARGE
    assert peak < MIB


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    honest = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(4 * MIB)))
    at = honest.index((4 * MIB).to_bytes(4, "little"))
    honest[at : at + 4] = (64).to_bytes(4, "little")

    assert refused(TrustBundle, bytes(honest)).code == Code.SCHEMA_MALFORMED


def test_two_frames_are_not_one_document() -> None:
    frame = codec.encode(next(example for example in EXAMPLES if isinstance(example, ModelBundle)))

    assert refused(ModelBundle, frame + frame).code == Code.SCHEMA_MALFORMED


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    secret = "row-1234-secret"

    refusal = refused(SealedReceipt, packed({"@": "sealed-receipt/1", "body": secret, "signature": b"x"}))

    assert secret not in str(refusal)


def outcome(kind: type[Document], payload: bytes) -> tuple[Refused | None, Document | None]:
    try:
        return None, codec.decode(kind, payload)
    except Refused as refusal:
        return refusal, None


def refused(kind: type[Document], payload: bytes) -> Refused:
    refusal, decoded = outcome(kind, payload)
    assert refusal is not None, f"taken for {decoded}"
    return refusal


def measured(payload: bytes) -> tuple[Refused, int]:
    assert len(payload) <= limits.TRUST_BUNDLE_BYTES_MAX
    tracemalloc.start()
    refusal = refused(TrustBundle, payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return refusal, peak


def wire(kind: type[Document], packed_bytes: bytes) -> bytes:
    return packed_bytes if kind.decoded_bytes_max is None else zstandard.ZstdCompressor(write_content_size=True).compress(packed_bytes)


def unpacked(document: Document) -> dict[str, object]:
    fields: dict[str, object] = msgpack.unpackb(codec.encode(document), raw=False)
    return fields


def packed(fields: dict[str, object]) -> bytes:
    payload: bytes = msgpack.packb(dict(sorted(fields.items())))
    return payload


def twice(document: Document) -> bytes:
    payload = codec.encode(document)
    (count,) = payload[:1]
    return bytes([count + 1]) + payload[1:] + msgpack.packb("variant") + msgpack.packb("fp32")
