"""Hold what a relay's site sets: two brokers, and how much it may hold. Read once, at start."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleetcast.mqtt_connection import BrokerUrl, TlsFiles
from fleetcast.settings_fields import fields_of, settings_errors
from fleetcast.settings_file import FileSettings
from schemas.limits import BLOCK_BYTES_MAX, MIB
from schemas.names import FleetName, NodeId


class Door(BaseSettings):
    """Connect to one of the relay's two brokers."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    broker: str  # The broker's URL: mqtt://host:1883 or mqtts://host:8883.
    tls_ca: str = ""  # Certificate authority of the broker: a PEM file. It needs `tls_certificate` and `tls_key` beside it.
    tls_certificate: str = ""  # Our certificate for the broker: a PEM file.
    tls_key: str = ""  # The private key of `tls_certificate`: a PEM file.

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = [bool(self.tls_ca), bool(self.tls_certificate), bool(self.tls_key)]
        if any(given) and not all(given):
            raise ValueError("tls_ca, tls_certificate and tls_key go together")
        BrokerUrl.parse(self.broker)
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """Return our certificate there, where one is asked for."""
        return TlsFiles(self.tls_ca, self.tls_certificate, self.tls_key) if self.tls_ca else None


class RelaySettings(FileSettings):
    """`relay.toml`; every field can also be given as FLEETCAST_RELAY_<FIELD> in the environment, which wins."""

    model_config = SettingsConfigDict(env_prefix="FLEETCAST_RELAY_", env_nested_delimiter="__", extra="forbid", frozen=True)

    id: NodeId  # The relay's name at the upstream broker. It requests blocks as a node does.
    fleet: FleetName  # The fleet's name, as the hub has it.
    data: Path  # Folder for blocks. Nothing in it is secret, and all of it can be deleted.
    upstream: Door  # The broker from which blocks come: a table `[upstream]`.
    site: Door  # The site's broker: a table `[site]`. There the relay needs the hub's rights on `block/` and `want/`.

    # Greatest size of all blocks on disk. The least recently used are removed first.
    disk_bytes_max: Annotated[int, Field(ge=BLOCK_BYTES_MAX)] = 4 * 1024 * MIB
    # The site's broker retains at most this many bytes of blocks for nodes that come later. 0 retains none.
    cache_bytes_max: Annotated[int, Field(ge=0)] = 64 * MIB
    cache_expiry_seconds: Annotated[int, Field(ge=1)] = 600  # A retained block expires after this time.
    again_seconds: Annotated[float, Field(ge=0, le=60)] = 3.0  # A block is not published again within this time.
    linger_seconds: Annotated[float, Field(ge=0, le=5)] = 0.05  # Requests for one block within this time share one publish.
    # Greatest number of bytes of blocks that are requested over the uplink and have not arrived.
    window_bytes: Annotated[int, Field(ge=BLOCK_BYTES_MAX, le=64 * MIB)] = 8 * MIB
    # Greatest number of topic filters in one SUBSCRIBE. Some brokers accept few.
    filters_per_subscribe: Annotated[int, Field(ge=1, le=64)] = 8
    # Greatest download rate over the uplink, as a mean over a second.
    rate_bytes_per_second_max: Annotated[float, Field(gt=0)] | None = None


def load(path: Path) -> RelaySettings:
    """Return the settings in a TOML file; relative paths in it are relative to the file.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    with settings_errors(path):
        fields = fields_of(path)
        if fields.get("data"):
            fields["data"] = path.parent / fields["data"]
        for door in (fields.get("upstream"), fields.get("site")):
            for name in ("tls_ca", "tls_certificate", "tls_key"):
                if isinstance(door, dict) and door.get(name):
                    door[name] = str(path.parent / door[name])
        return RelaySettings(**fields)
