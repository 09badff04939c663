"""Read a TOML file of settings. The environment goes over the file, and an error names the file and the field."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, TomlConfigSettingsSource

from schemas.errors import Code, Refused


class FileSettings(BaseSettings):
    """Take settings of a file, each also from the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment over the file."""
        return env_settings, init_settings


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
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error}") from None


def fields_of(kind: type[BaseSettings], path: Path) -> dict[str, Any]:
    """Return the fields of a TOML file. To be called within `settings_errors`."""
    fields: dict[str, Any] = dict(TomlConfigSettingsSource(kind, path)())
    if not fields:
        path.read_bytes()  # an absent file reads as an empty one
    return fields
