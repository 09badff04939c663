"""Finds where a fleet's database is: by its settings, with the password from a file of its own. Connects to nothing."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleetcast.settings_fields import fields_of, settings_errors
from schemas.errors import Code, Refused

SQLITE_NAME = "hub.sqlite"
MARKER = "in-database"  # A file of this name in the folder of signed metadata says that the rest of it is in the fleet's database.
PASSWORD_CHARACTERS_MAX = 4096


def place_of(directory: Path, url: str, password_file: str = "") -> str:
    """Return the URL of a fleet's database, with its password: not to be printed.

    Raises:
        Refused: SETTINGS_INVALID: the file with the password cannot be read or is empty, or the URL is none.
    """
    if not url:
        return f"sqlite:///{directory / SQLITE_NAME}"
    if not password_file:
        return url
    from hub.database.connection import parsed  # noqa: PLC0415  # SQLAlchemy

    return parsed(url).set(password=_password(Path(password_file))).render_as_string(hide_password=False)


def place_in(directory: Path) -> str:
    """Return the URL of the server's database that the settings of a fleet's folder name, with its password; empty where they name none.

    Raises:
        Refused: SETTINGS_INVALID: the settings, or the file with the password, cannot be read.
    """
    path = directory / "fleet.toml"
    with settings_errors(path):
        fields = fields_of(path) if path.exists() else {}
    url = _url(fields)
    from_environment, file = os.environ.get("FLEETCAST_DATABASE_PASSWORD_FILE"), str(fields.get("database_password_file") or "")
    return place_of(directory, url, from_environment or (str(directory / file) if file else "")) if url else ""


def is_beside(directory: Path) -> bool:
    """Return whether a fleet's folder has settings, and they name no server's database: it is a file in the folder.

    Raises:
        Refused: SETTINGS_INVALID: the settings cannot be read.
    """
    path = directory / "fleet.toml"
    with settings_errors(path):
        return path.exists() and not _url(fields_of(path))


def _url(fields: Mapping[str, Any]) -> str:
    return os.environ.get("FLEETCAST_DATABASE_URL") or str(fields.get("database_url") or "")


def _password(path: Path) -> str:
    try:
        with path.open() as file:
            found = file.readline(PASSWORD_CHARACTERS_MAX).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise Refused(Code.SETTINGS_INVALID, f"database_password_file {path}: {why}") from None
    if not found:
        raise Refused(Code.SETTINGS_INVALID, f"database_password_file {path} is empty")
    return found
