"""What a relay is told at its site: two brokers, and how much it may hold. Read once, at start."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from node.settings import SiteSettings, fields_of, told
from schemas.limits import BLOCK_BYTES_MAX, MIB
from schemas.mqtt import BrokerUrl, TlsFiles
from schemas.names import FleetName, NodeId


class Door(BaseSettings):
    """One of its two brokers."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    broker: str  # mqtt://host:1883 or mqtts://host:8883
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = [bool(self.tls_ca), bool(self.tls_certificate), bool(self.tls_key)]
        if any(given) and not all(given):
            raise ValueError("tls_ca, tls_certificate and tls_key go together")
        BrokerUrl.parse(self.broker)
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """Our certificate there, where one is asked for."""
        return TlsFiles(self.tls_ca, self.tls_certificate, self.tls_key) if self.tls_ca else None


class RelaySettings(SiteSettings):
    """`relay.toml`; every field can also be given as FLEETCAST_RELAY_<FIELD> in the environment, which wins."""

    model_config = SettingsConfigDict(env_prefix="FLEETCAST_RELAY_", env_nested_delimiter="__", extra="forbid", frozen=True)

    id: NodeId  # its name up the road: it wants blocks as a node does
    fleet: FleetName
    data: Path  # blocks; nothing in it is secret, and all of it can be thrown away
    upstream: Door
    site: Door  # where it has the hub's rights on block/ and want/

    disk_bytes_max: Annotated[int, Field(ge=BLOCK_BYTES_MAX)] = 4 * 1024 * MIB
    cache_bytes_max: Annotated[int, Field(ge=0)] = 64 * MIB  # of blocks that the site's broker retains for latecomers; 0: none
    cache_expiry_seconds: Annotated[int, Field(ge=1)] = 600
    again_seconds: Annotated[float, Field(ge=0, le=60)] = 3.0  # a block published so recently is not published again
    linger_seconds: Annotated[float, Field(ge=0, le=5)] = 0.05  # wants for a block within this time cause one publish
    window_bytes: Annotated[int, Field(ge=BLOCK_BYTES_MAX, le=64 * MIB)] = 8 * MIB  # on their way over the uplink, at the most
    filters_per_subscribe: Annotated[int, Field(ge=1, le=64)] = 8
    rate_bytes_per_second_max: Annotated[float, Field(gt=0)] | None = None  # of the uplink


def load(path: Path) -> RelaySettings:
    """The settings in a TOML file; relative paths in it are relative to the file.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    with told(path):
        fields = fields_of(RelaySettings, path)
        if fields.get("data"):
            fields["data"] = path.parent / fields["data"]
        for door in (fields.get("upstream"), fields.get("site")):
            for name in ("tls_ca", "tls_certificate", "tls_key"):
                if isinstance(door, dict) and door.get(name):
                    door[name] = str(path.parent / door[name])
        return RelaySettings(**fields)
