"""Read TOML that somebody else wrote, with one kind of error for all that can be wrong with it."""

import tomllib
from typing import Any


def parse_toml(data: bytes | str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        ValueError: it is not UTF-8, not TOML, or nested deeper than any settings are.
    """
    try:
        return tomllib.loads(data.decode() if isinstance(data, bytes) else data)
    except RecursionError:
        raise ValueError("its tables or arrays are nested deeper than any settings are") from None
