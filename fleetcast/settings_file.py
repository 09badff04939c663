"""Define settings that a file gives, and the environment over the file."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource


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
