"""Find damage that SQLite's own check does not look for: values of another type than their column's, and documents that are none.

The check of pages says nothing about what is in a row. A bit that flipped there would end the agent at each of its starts.
"""

import sqlite3
from typing import Final

from pydantic import ValidationError

from node.core.activation.lifecycle import ModelSlot, Move
from schemas.accuracy import Accuracy
from schemas.deployments import Moved
from schemas.document import Fact
from schemas.receipt import Evidence

_TYPES: Final = {"INTEGER": "'integer'", "REAL": "'real', 'integer'", "TEXT": "'text'", "BLOB": "'blob'"}
_DOCUMENTS: Final[dict[str, type[Fact]]] = {"slot": ModelSlot, "moved": Moved, "move": Move, "evidence": Evidence, "declared": Accuracy}


def damage_in(db: sqlite3.Connection) -> str:
    """Return what is wrong in a store's rows; "" where nothing is."""
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall():
        for _, column, kind, *_ in db.execute(f'PRAGMA table_info("{table}")').fetchall():
            if kind in _TYPES:
                query = f'SELECT 1 FROM "{table}" WHERE typeof("{column}") NOT IN ({_TYPES[kind]}, \'null\') LIMIT 1'  # noqa: S608  # names of its own tables
                if db.execute(query).fetchone() is not None:
                    return f"a value of {table}.{column} is not {kind.lower()}"
    for table, document in _DOCUMENTS.items():
        for (text,) in db.execute(f'SELECT document FROM "{table}"'):  # noqa: S608
            try:
                document.model_validate_json(text)
            except ValidationError:
                return f"a document of {table} cannot be read"
    for model, text in db.execute("SELECT model, document FROM slot"):
        if ModelSlot.model_validate_json(text).model != model:
            return f"the slot of {model} is another model's"
    return ""
