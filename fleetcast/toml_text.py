"""Read TOML that somebody else wrote, with one kind of error for all that can be wrong with it, and in time that grows with its length."""

import re
import tomllib
from typing import Any, Final

KEY_PARTS_MAX: Final = 64
_DEEP: Final = "its keys, tables or arrays are nested deeper than any settings are"
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
# The parser takes the square of a dotted key's parts: 200 kB of "a.a.a" are 17 seconds. What stands before a key is none of its characters.
_LONG_KEY: Final = re.compile(rf"""(?<![A-Za-z0-9_.\-"'])(?:{_PART}[ \t]*+\.[ \t]*+){{{KEY_PARTS_MAX}}}""")


def parse_toml(data: bytes | str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        ValueError: it is not UTF-8, not TOML, or nested deeper than any settings are.
    """
    text = data.decode() if isinstance(data, bytes) else data
    if _LONG_KEY.search(text):
        raise ValueError(_DEEP)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(_DEEP) from None
