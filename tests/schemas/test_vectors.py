"""Golden bytes: what was ever on a wire is read, and written, the same for ever."""

import json
from pathlib import Path

import pytest

from schemas import codec
from schemas.document import Document
from tools.examples import EXAMPLES
from tools.generate_schemas import as_json

VECTORS = sorted((Path(__file__).parents[1] / "vectors").glob("*.msgpack"))
KINDS = {f"{type(example).schema_name}-v{type(example).schema_version}": type(example) for example in EXAMPLES}


def kind_of(path: Path) -> type[Document]:
    """A pair may be of a document that says more than the first: `window-v1.accuracy`."""
    return KINDS[path.stem.partition(".")[0]]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_golden_bytes_say_what_they_always_said(path: Path) -> None:
    document = codec.decode(kind_of(path), path.read_bytes())

    assert as_json(document) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("path", [path for path in VECTORS if kind_of(path).decoded_bytes_max is None], ids=lambda path: path.stem)
def test_encoding_gives_the_golden_bytes_again(path: Path) -> None:
    payload = path.read_bytes()

    assert codec.encode(codec.decode(kind_of(path), payload)) == payload


@pytest.mark.parametrize("path", [path for path in VECTORS if kind_of(path).decoded_bytes_max], ids=lambda path: path.stem)
def test_compressed_golden_bytes_are_the_same_document_again(path: Path) -> None:
    # zstd promises to read old frames, not to write the same ones: the document is what must not change.
    kind = kind_of(path)
    document = codec.decode(kind, path.read_bytes())

    assert codec.decode(kind, codec.encode(document)) == document


def test_every_document_has_a_vector() -> None:
    assert KINDS.keys() == {path.stem for path in VECTORS if "." not in path.stem}
