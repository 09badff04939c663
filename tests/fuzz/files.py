"""Inputs as files, for decoders that are given a path, and the tokens of the language that most of them are written in."""

import functools
import tempfile
from pathlib import Path

TOML_TOKENS = (
    *(
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        "\n",
        '"',
        "'''",
        '"""',
        ",",
        ".",
        "#",
        "true",
        "inf",
        "nan",
        "-",
        "1e400",
        "0x",
        "\\u0000",
        "\\U0010FFFF",
    ),
    *("1979-05-27T07:32:00Z", "9999999999999999999999", "[a]\n", "a = 1\n", "[[a]]\n", "é", "\0", "a." * 20),
)


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-settings-"))


def file_with(name: str, data: bytes) -> Path:
    """Write an input to a file of this name."""
    path = _folder() / name
    path.write_bytes(data)
    return path
