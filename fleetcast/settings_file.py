"""Read a TOML file of settings. The environment goes over the file, and an error names the file and the field."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from fleetcast.toml_text import parse_toml
from schemas.errors import Code, Refused
from schemas.limits import MIB

BYTES_MAX = MIB


class FileSettings(BaseSettings):
    """Take settings of a file, each also from the environment."""

    former_names: ClassVar[Mapping[str, str]] = {}  # Present names of settings, by the names that earlier versions had.

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

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        prefix = str(cls.model_config.get("env_prefix", ""))
        environment = {name.lower(): value for name, value in os.environ.items()}
        for former, name in cls.former_names.items():
            if former in values:
                if name in values and (prefix + name).lower() not in environment:
                    raise ValueError(f"{former} is the former name of {name}: give {name} alone")
                values = {name: values[former], **{key: value for key, value in values.items() if key != former}}
            if (prefix + former).lower() in environment and (prefix + name).lower() not in environment:
                values = {**values, name: environment[(prefix + former).lower()]}
        return values


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


def fields_of(path: Path) -> dict[str, Any]:
    """Return the fields of a TOML file. To be called within `settings_errors`."""
    with path.open("rb") as file:
        data = file.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise ValueError(f"more than {BYTES_MAX} bytes, which no settings are")
    return parse_toml(data)
