"""Adds golden bytes for documents that have none: `python tests/vectors/make.py`. What is there is for ever, and is not touched.

A vector is the exact wire form (`<schema>-v<version>.msgpack`) beside what it says in JSON. When a schema's version rises, the old vectors
stay and a new pair is added. A document that says more than the first of its kind did has a pair of its own (`.<name>.msgpack`).
`fields-v1.json` lists the fields of every document's first minor version.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from schemas import codec
from schemas.known_fields import Each, Fields, Row, Shape, shape_of
from tools.examples import EXAMPLES, MORE_EXAMPLES
from tools.generate_schemas import as_json


def main() -> None:
    """Write the missing pairs, and say which."""
    for name, document in [*(("", document) for document in EXAMPLES), *((f".{name}", document) for name, document in MORE_EXAMPLES)]:
        path = Path(__file__).parent / f"{document.schema_name}-v{document.schema_version}{name}.msgpack"
        if not path.exists():
            path.write_bytes(codec.encode(document))
            path.with_suffix(".json").write_text(json.dumps(as_json(document), indent=2) + "\n")
            print(f"added {path.name}")
    fields = Path(__file__).parent / "fields-v1.json"
    kept = json.loads(fields.read_text()) if fields.exists() else {}
    fresh = {type(one).schema_name: sorted(paths(shape_of(type(one)), minor=0)) for one in EXAMPLES if type(one).schema_name not in kept}
    if fresh:
        fields.write_text(json.dumps({**kept, **fresh}, indent=1) + "\n")
        print(f"added {', '.join(fresh)} to {fields.name}")


def paths(shape: Shape | None, *, minor: int, at: str = "") -> Iterator[str]:
    """Yield the places of all fields and row entries that a minor version has."""
    if isinstance(shape, Each):
        yield from paths(shape.holds, minor=minor, at=f"{at}*.")
    if isinstance(shape, (Fields, Row)):
        entries = shape.entries.items() if isinstance(shape, Fields) else enumerate(shape.entries)
        for name, entry in entries:
            if entry.minor <= minor:
                yield f"{at}{name}"
                yield from paths(entry.holds, minor=minor, at=f"{at}{name}.")


if __name__ == "__main__":
    main()
