"""Read the fields of a TOML file of settings; an error names the file and the field.

It is apart from `settings_file`, whose library takes 0.1 s to import: a command that asks for one field does without.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fleetcast.toml_text import parse_toml
from schemas.errors import Code, Refused
from schemas.limits import MIB
from schemas.patterns import in_words, reason_of

BYTES_MAX = MIB
URL_PATTERN = in_words(r"^(https?://\S+)?$", "URL", "empty, or a URL that begins with http:// or https://")


@contextmanager
def settings_errors(path: Path) -> Iterator[None]:
    """Turn any error of a settings file into a sentence.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {'.'.join(map(str, first['loc']))}: {reason_of(first)}") from None
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error}") from None


def fields_of(path: Path) -> dict[str, Any]:
    """Return the fields of a TOML file. To be called within `settings_errors`."""
    with path.open("rb") as file:
        data = file.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise ValueError(f"more than {BYTES_MAX} bytes, which no settings are")
    return parse_toml(data)
