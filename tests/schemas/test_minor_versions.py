"""Documents grow: a newer program's optional fields are ignored by an older one, and by nobody else; every other check stays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from schemas import codec, limits
from schemas.block_request import Range, Want
from schemas.document import Document, Fact, Since
from schemas.errors import Code, Refused
from schemas.known_fields import Each, Fields, Row, Shape, shape_of
from schemas.receipt import Receipt, SealedReceipt
from schemas.window import Window
from tests.vectors.make import paths
from tools.examples import EXAMPLES

FIRST = json.loads((Path(__file__).parents[1] / "vectors" / "fields-v1.json").read_text())
KINDS = [type(example) for example in EXAMPLES]


class OldRow(NamedTuple):
    """A row as it first was."""

    name: str
    number: int | None = None


class NewRow(NamedTuple):
    """The same with an entry more."""

    name: str
    number: int | None = None
    unit: Annotated[str | None, Since(2)] = None


class OldPart(Fact):
    """A part as it first was."""

    share: float
    rows: tuple[OldRow, ...] = ()


class NewPart(Fact):
    """The same with a field more, and longer rows."""

    share: float
    rows: tuple[NewRow, ...] = ()
    also: Annotated[dict[str, int] | None, Since(1)] = None


class Old(Document):
    """A document as it first was."""

    schema_name = "plant"
    bytes_max = 64 * 1024

    name: str
    part: OldPart | None = None
    parts: Annotated[dict[str, OldPart], Field(max_length=4, default_factory=dict)]
    row: OldRow | None = None


class New(Document):
    """The same, two minor versions later."""

    schema_name = "plant"
    schema_minor = 2
    bytes_max = 64 * 1024

    name: str
    part: NewPart | None = None
    parts: Annotated[dict[str, NewPart], Field(max_length=4, default_factory=dict)]
    row: NewRow | None = None
    more: Annotated[NewPart | None, Since(1)] = None
    note: Annotated[str | None, Since(2)] = None


class OldFlat(Document):
    """A flat document as it first was."""

    schema_name = "flat"
    bytes_max = 1024
    flat = True

    rows: Annotated[int, Field(alias="n")]


class NewFlat(OldFlat):
    """The same with a field more."""

    schema_minor = 1

    units: Annotated[int | None, Since(1), Field(alias="u")] = None


texts, counts = st.text(max_size=5), st.integers(-(2**63), 2**63)
new_rows = st.builds(NewRow, texts, st.none() | counts, st.none() | texts)
new_parts = st.builds(
    NewPart,
    share=st.floats(allow_nan=False, allow_infinity=False),
    rows=st.lists(new_rows, max_size=3).map(tuple),
    also=st.none() | st.dictionaries(texts, counts, max_size=2),
)
news = st.builds(
    New,
    name=texts,
    part=st.none() | new_parts,
    parts=st.dictionaries(texts, new_parts, max_size=3),
    row=st.none() | new_rows,
    more=st.none() | new_parts,
    note=st.none() | texts,
)
unknown = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def older(part: NewPart | None) -> OldPart | None:
    """What an older program knows of a part."""
    return part and OldPart(share=part.share, rows=tuple(OldRow(*row[:2]) for row in part.rows))


@given(news)
def test_an_older_reader_finds_all_that_it_knows_and_nothing_else(new: New) -> None:
    read = codec.decode(Old, codec.encode(new))

    parts = {name: cast("OldPart", older(part)) for name, part in new.parts.items()}
    assert read == Old(name=new.name, part=older(new.part), parts=parts, row=new.row and OldRow(*new.row[:2]))


@given(news)
def test_a_newer_reader_finds_what_an_older_program_wrote(new: New) -> None:
    payload = codec.encode(codec.decode(Old, codec.encode(new)))

    assert codec.encode(codec.decode(New, payload)) == payload


@given(news)
def test_the_minor_version_is_the_lowest_that_has_the_fields(new: New) -> None:
    parts = [part for part in (new.part, new.more, *new.parts.values()) if part is not None]
    rows = [row for part in parts for row in part.rows] + ([new.row] if new.row is not None else [])
    second = new.note is not None or any(row.unit is not None for row in rows)
    first = new.more is not None or any(part.also is not None for part in parts)

    fields = msgpack.unpackb(codec.encode(new))

    assert fields.get("@.", 0) == (2 if second else 1 if first else 0)
    assert list(fields)[:1] == ["@"]


@given(news, st.data())
def test_a_damaged_newer_document_is_refused_or_is_whole_and_canonical(new: New, data: st.DataObject) -> None:
    payload = bytearray(codec.encode(new))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))

    try:
        codec.decode(Old, bytes(payload))
    except Refused:
        return

    assert msgpack.packb(msgpack.unpackb(payload)) == bytes(payload)


def grown(shape: Shape | None, value: Any, drawn: Callable[[], Any]) -> Any:
    """A document's plain values with unknown fields, and unknown entries behind rows, wherever there can be some."""
    if value is None:  # A row's entry without a value, before one that has one.
        return None
    if isinstance(shape, Fields):
        more = {key: grown(shape.entries[key].holds, item, drawn) for key, item in value.items()}
        return more | {f"zz-{number}": drawn() for number in range(2)}
    if isinstance(shape, Row):
        full = tuple(value) + (None,) * (len(shape.entries) - len(value))
        return (*(grown(entry.holds, item, drawn) for entry, item in zip(shape.entries, full, strict=True)), drawn())
    if isinstance(shape, Each):
        if isinstance(value, dict):
            return {key: grown(shape.holds, item, drawn) for key, item in value.items()}
        return [grown(shape.holds, item, drawn) for item in value]
    return value


@given(st.sampled_from(EXAMPLES), st.data())
def test_every_document_is_read_with_unknown_fields_at_every_depth(example: Document, data: st.DataObject) -> None:
    kind = type(example)
    fields = msgpack.unpackb(msgpack.packb(codec._dump(example)), use_list=False)
    more = grown(shape_of(kind), fields, lambda: data.draw(unknown))
    newer = kind.schema_minor + data.draw(st.integers(1, 100))

    assert codec.decode(kind, wire(kind, {"@": codec._tag(kind), "@.": newer, **more})) == example
    for minor in {0, kind.schema_minor}:
        head = {"@": codec._tag(kind), **({"@.": minor} if minor else {})}
        assert refused(kind, wire(kind, {**head, **more})).code == Code.SCHEMA_MALFORMED


def wire(kind: type[Document], fields: Any) -> bytes:
    """Fields as they travel: sorted at every depth, and compressed if this kind is."""
    packed: bytes = msgpack.packb(codec._canonical(fields))
    if kind.decoded_bytes_max is None:
        return packed
    return cast("bytes", codec.zstandard.ZstdCompressor(write_content_size=True).compress(packed))


def refused(kind: type[Document], payload: bytes) -> Refused:
    with pytest.raises(Refused) as found:
        codec.decode(kind, payload)
    return found.value


WANT = next(example for example in EXAMPLES if isinstance(example, Want))


def newer_want(**more: Any) -> dict[str, Any]:
    """A request for blocks as a newer program could write it."""
    return dict(sorted({**msgpack.unpackb(codec.encode(WANT)), "@.": 7, "zz": 1, **more}.items()))


@pytest.mark.parametrize(
    ("what", "payload"),
    [
        ("keys out of order", lambda: msgpack.packb(dict(reversed(newer_want().items())))),
        ("an unknown map out of order", lambda: msgpack.packb(newer_want(zz={"b": 1, "a": 2}))),
        ("an unknown number in five bytes", lambda: msgpack.packb(newer_want())[:-1] + b"\xce\x00\x00\x00\x01"),
        ("an unknown key twice", lambda: bytes([msgpack.packb(newer_want())[0] + 1]) + msgpack.packb(newer_want())[1:] + b"\xa2zz\x01"),
        ("an unknown field that is null", lambda: msgpack.packb(newer_want(zz=None))),
        ("an unknown row that ends in null", lambda: msgpack.packb(newer_want(zz=[1, None]))),
        ("an unknown map with bytes for a key", lambda: msgpack.packb(newer_want(zz={b"a": 1}))),
        ("an unknown map with both kinds of keys", lambda: msgpack.packb(newer_want(zz={b"a": 1, "b": 1}))),
        ("unknown lists in lists", lambda: msgpack.packb(newer_want())[:-1] + b"\x91" * 900 + b"\x01"),
        ("a byte behind", lambda: msgpack.packb(newer_want()) + b"\x00"),
        ("a known field of another type", lambda: msgpack.packb(newer_want(again=1))),
        ("a known float for an integer", lambda: msgpack.packb(newer_want(ranges=[[0.0, 1]]))),
        ("a known field out of bounds", lambda: msgpack.packb(newer_want(release=b"x"))),
        ("a known row that is too short", lambda: msgpack.packb(newer_want(ranges=[[0]]))),
        ("a known field that is missing", lambda: msgpack.packb({k: v for k, v in newer_want().items() if k != "release"})),
        ("a known default left out", lambda: msgpack.packb({k: v for k, v in newer_want().items() if k != "again"})),
        ("minor version 0", lambda: msgpack.packb(newer_want(**{"@.": 0}))),
        ("a negative minor version", lambda: msgpack.packb(newer_want(**{"@.": -1}))),
        ("true for a minor version", lambda: msgpack.packb(newer_want(**{"@.": True}))),
        ("text for a minor version", lambda: msgpack.packb(newer_want(**{"@.": "7"}))),
        ("an absurd minor version", lambda: msgpack.packb(newer_want(**{"@.": limits.SCHEMA_MINOR_MAX + 1}))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_newer_program_would_not_write_is_refused(what: str, payload: Callable[[], bytes]) -> None:
    assert codec.decode(Want, msgpack.packb(newer_want())) == WANT

    assert refused(Want, payload()).code == Code.SCHEMA_MALFORMED


def test_a_newer_document_is_bounded_like_any_other() -> None:
    large = msgpack.packb(newer_want(zz="z" * limits.WANT_BYTES_MAX))

    assert refused(Want, large).code == Code.SCHEMA_TOO_LARGE


def test_unknown_entries_of_rows_are_ignored_behind_absent_ones() -> None:
    new = New(name="a", parts={}, row=NewRow("x", None, "mm"))

    assert codec.decode(Old, codec.encode(new)).row == OldRow("x")


def test_a_flat_document_grows_like_any_other() -> None:
    new, plain = NewFlat(rows=3, units=2), NewFlat(rows=3)

    assert codec.decode(NewFlat, codec.encode(new)) == new
    assert codec.decode(OldFlat, codec.encode(new)).rows == 3
    assert codec.encode(plain) == codec.encode(OldFlat(rows=3))
    assert refused(NewFlat, msgpack.packb({"@": "flat/1", "@.": 1, "n": 3})).code == Code.SCHEMA_MALFORMED
    assert refused(NewFlat, msgpack.packb({"@": "flat/1", "n": 3, "u": 2})).code == Code.SCHEMA_MALFORMED


def test_a_minor_version_that_no_field_needs_is_not_canonical() -> None:
    fields = {"@": "plant/1", "@.": 1, "name": "a", "parts": {}}

    assert refused(New, msgpack.packb(fields)).code == Code.SCHEMA_MALFORMED


@pytest.mark.parametrize(("tag", "side"), [("want/2", "receiver"), ("want/10", "receiver")])
def test_a_higher_major_version_is_refused_with_the_side_to_upgrade(tag: str, side: str) -> None:
    refusal = refused(Want, msgpack.packb({**newer_want(), "@": tag}))

    assert refusal.code == Code.SCHEMA_UNSUPPORTED
    assert refusal.reason == f"the sender wrote {tag} and the receiver reads want/1: upgrade fleetcast at the {side}"


def test_a_lower_major_version_is_refused_with_the_side_to_upgrade() -> None:
    class Second(Want):
        schema_version = 2

    refusal = refused(Second, codec.encode(WANT))

    assert refusal.code == Code.SCHEMA_UNSUPPORTED
    assert refusal.reason == "the sender wrote want/1 and the receiver reads want/2: upgrade fleetcast at the sender"


def test_a_signature_over_a_newer_body_is_over_the_bytes_as_received() -> None:
    receipt = next(example for example in EXAMPLES if isinstance(example, Receipt))
    body = msgpack.packb(codec._canonical({**msgpack.unpackb(codec.encode(receipt)), "@.": 3, "mood": "fine"}))
    sealed = codec.decode(SealedReceipt, codec.encode(SealedReceipt(body=body, signature=b"s")))

    assert sealed.body == body
    assert codec.decode(Receipt, sealed.body) == receipt
    assert codec.encode(codec.decode(Receipt, sealed.body)) != body  # which is why nothing that is signed is encoded again


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.schema_name)
def test_fields_after_the_first_version_say_which_minor_has_them(kind: type[Document]) -> None:
    assert sorted(paths(shape_of(kind), minor=0)) == FIRST[kind.schema_name]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.schema_name)
def test_a_document_knows_exactly_the_minor_versions_of_its_fields(kind: type[Document]) -> None:
    assert newest(shape_of(kind)) == kind.schema_minor


def newest(shape: Shape | None) -> int:
    """The highest minor version that a shape names."""
    if isinstance(shape, Each):
        return newest(shape.holds)
    if shape is None:
        return 0
    entries = shape.entries.values() if isinstance(shape, Fields) else shape.entries
    return max((max(entry.minor, newest(entry.holds)) for entry in entries), default=0)


def test_a_window_without_new_fields_is_checked_without_writing_it_again() -> None:
    window = next(example for example in EXAMPLES if isinstance(example, Window))

    assert codec.decode(Window, codec.encode(window)) == window


def test_a_range_may_grow_too() -> None:
    payload = msgpack.packb(newer_want(ranges=[[0, 3, "why"]]))

    assert codec.decode(Want, payload).ranges == (Range(0, 3),)
