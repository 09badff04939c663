"""How many fields of what leaves a node nobody has classified: the table of `schemas/disclosure.py` beside the documents themselves."""

from collections.abc import Sequence

from bench.figures import Figure
from schemas.disclosure import fields, unclassified


def measure() -> Sequence[Figure]:
    """Walk every field of every document, and every level of every topic."""
    unit = f"of {sum(1 for _ in fields())} fields that leave a node"
    return [Figure("privacy.fields_unclassified", len(unclassified()), unit, "0", "", None)]
