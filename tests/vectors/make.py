"""Adds golden bytes for documents that have none: `python tests/vectors/make.py`. What is there is for ever, and is not touched.

A vector is the exact wire form (`<schema>-v<version>.msgpack`) beside what it says in JSON. When a schema's version rises, the old vectors
stay and a new pair is added. A document that says more than the first of its kind did has a pair of its own (`.<name>.msgpack`).
"""

import json
from pathlib import Path

from schemas import codec
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


if __name__ == "__main__":
    main()
