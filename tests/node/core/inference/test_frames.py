"""Frames survive any cutting of the stream, and garbage ends the connection."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.inference.frames import FRAME_BYTES_MAX, HEADER_BYTES_MAX, PREFIX, Assembler, Malformed, encode
from node.core.inference.tensors import raw_of

tensors = st.lists(st.binary(max_size=40).map(lambda data: raw_of("x", np.frombuffer(data, np.uint8))), max_size=3)
frames = st.lists(st.tuples(st.integers(0, 2**31), st.sampled_from(["infer", "answer"]), tensors), min_size=1, max_size=5)


@given(frames, st.data())
def test_frames_arrive_whole_however_the_stream_is_cut(sent: list[tuple[int, str, list[object]]], data: st.DataObject) -> None:
    stream = b"".join(bytes(part) for id, kind, raws in sent for part in encode(id, kind, {"k": id} if id % 2 else {}, raws))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    assembler, received = Assembler(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += assembler.feed(stream[start:end])

    assert [(id, kind, {"k": id} if id % 2 else {}, [bytes(raw.data) for raw in raws]) for id, kind, raws in sent] == [
        (frame.id, frame.kind, frame.fields, [bytes(raw.data) for raw in frame.tensors]) for frame in received
    ]


@pytest.mark.parametrize("sizes", [(HEADER_BYTES_MAX + 1, 0, 0), (2, HEADER_BYTES_MAX - 1, 0), (2, 2, FRAME_BYTES_MAX + 1)])
def test_a_frame_beyond_its_bounds_is_refused_from_its_length_alone(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(Malformed, match="are read"):
        Assembler().feed(PREFIX.pack(7, *sizes))


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (b"no json", b""),
        (b"[]", b""),
        (b"{}", b""),
        (b"[1,[]]", b""),
        (b'["infer",[["x","OBJECT",[1],1]]]', b""),
        (b'["infer",[["x","FP32",[1],4]]]', b""),
        (b'["infer",[["x","FP32",7,0]]]', b""),
        (b'["infer",[["x","FP32",[1],8],["y","FP32",[1],-8]]]', b""),
        (b"[" * 100_000, b""),
        (b'["infer",[]]', b"[]"),
        (b'["infer",[]]', b"no json"),
        (b'["infer",[]]', b"[" * 100_000),
    ],
)
def test_what_is_not_ours_is_malformed(header: bytes, fields: bytes) -> None:
    for _ in range(2):  # what was read once is not believed the second time
        with pytest.raises(Malformed):
            Assembler().feed(PREFIX.pack(1, len(header), len(fields), 0) + header + fields)
