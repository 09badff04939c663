"""What a hub is told at its own site: whose fleet it is, where its broker is, what it may hold. Read once, at start."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from hub.receivers import RECEIVERS_MAX, OnDrift, Webhook
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX, MIB
from schemas.mqtt import BrokerUrl, TlsFiles
from schemas.names import FleetName, Label

SETTINGS_NAME = "fleet.toml"


class HubSettings(BaseSettings):
    """`fleet.toml`; every field can also be given as FLEETCAST_<FIELD> in the environment, which wins."""

    model_config = SettingsConfigDict(env_prefix="FLEETCAST_", extra="forbid", frozen=True)

    fleet: FleetName
    broker_url: str = ""  # mqtt://host:1883 or mqtts://host:8883; empty: the embedded broker, on loopback
    broker_port: Annotated[int, Field(ge=0, le=65535)] = 0  # of the embedded broker; 0: a free one, kept in `broker/port`
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    connect_seconds: Annotated[float, Field(ge=0)] = 30.0  # a broker that never answered in this time after the start ends the hub

    enrolment: Literal["open", "required"] = "open"  # required: nothing counts that comes in the name of a node that was not enrolled
    enrolment_listen: str = ""  # host:port of the HTTPS endpoint at which devices enrol; empty: none
    enrolment_url: str = ""  # how devices reach it: https://hub.example:8443
    enrolment_names: tuple[str, ...] = ()  # host names and addresses besides, for its certificate
    node_broker_url: str = ""  # what enrolled nodes are told; empty: `broker_url`
    certificate_days: Annotated[float, Field(gt=0, le=3650)] = 90.0  # of a node; it renews at half of it
    way_back_days: Annotated[float, Field(ge=0, le=3650)] = 400.0  # so long after its certificate expired a device may still renew it

    database_url: str = ""  # postgresql+psycopg://...; empty: `hub.sqlite` in the fleet's folder

    silent_seconds: Annotated[int, Field(ge=1)] = 3600  # a node not heard from for so long is told as silent
    cohort_nodes_min: Annotated[int, Field(ge=1)] = 20  # nothing is shown of fewer: nobody is to stand out
    settle_seconds: Annotated[int, Field(ge=0)] = 300  # an interval is tested when no window of it came for so long
    window_rows_max: Annotated[int, Field(ge=1, le=100_000_000)] = (
        1_000_000  # of one window; its weight is bounded further: docs/telemetry.md
    )
    trim_outlying: bool = False  # leave sub-groups of windows that are unlike the others out of what is tested, and not only tell of them
    ids_days: Annotated[int, Field(ge=32)] = 35  # how long a window's id is remembered: longer than any broker keeps one back
    intervals_days: Annotated[int, Field(ge=1)] = 400  # how long intervals are kept after their last window
    told_days: Annotated[int, Field(ge=1)] = 400  # how long drifts, alerts and refusals are kept
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01  # share of ordinary intervals of a cohort that are an alarm by themselves, at most
    run_length: Annotated[float, Field(ge=10, le=1e9)] = 1000.0  # intervals between two false alarms of the evidence over time, at least

    checks_required: tuple[Label, ...] = ()  # profiles for which a release must have passed `fleetcast check` before it is rolled out
    webhooks: Annotated[tuple[Webhook, ...], Field(max_length=RECEIVERS_MAX)] = ()  # [[webhooks]]: who is told of alerts over HTTP
    on_drift: Annotated[tuple[OnDrift, ...], Field(max_length=RECEIVERS_MAX)] = ()  # [[on_drift]]: what is done when drift was found

    cache_bytes_max: Annotated[int, Field(ge=0)] = 64 * MIB  # of blocks that the broker retains for latecomers; 0: none
    cache_expiry_seconds: Annotated[int, Field(ge=1)] = 600
    block_bytes_max: Annotated[int, Field(ge=1024, le=BLOCK_BYTES_MAX)] = BLOCK_BYTES_MAX  # of new releases: less for very slow roads
    again_seconds: Annotated[float, Field(ge=0, le=60)] = 3.0  # a block published so recently is not published again
    linger_seconds: Annotated[float, Field(ge=0, le=5)] = 0.05  # wants for a block within this time cause one publish

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = [bool(self.tls_ca), bool(self.tls_certificate), bool(self.tls_key)]
        if any(given) and not all(given):
            raise ValueError("tls_ca, tls_certificate and tls_key go together")
        for url in (self.broker_url, self.node_broker_url):
            if url:
                BrokerUrl.parse(url)
        return self

    @model_validator(mode="after")
    def _endpoint_can_be_found(self) -> Self:
        if self.enrolment_listen:
            _, _, port = self.enrolment_listen.rpartition(":")
            if not port.isdigit() or int(port) > 65535:
                raise ValueError(f"enrolment_listen {self.enrolment_listen!r} must look like 0.0.0.0:8443")
            if not self.enrolment_url:
                raise ValueError("enrolment_listen needs enrolment_url: how devices reach it, https://hub.example:8443")
        if self.enrolment_url:
            found = urlsplit(self.enrolment_url)
            if found.scheme != "https" or not found.hostname or found.path not in {"", "/"}:
                raise ValueError(f"enrolment_url {self.enrolment_url!r} must look like https://hub.example:8443")
        return self

    @model_validator(mode="after")
    def _receivers_differ(self) -> Self:
        names = [one.receiver for one in self.webhooks] + [one.receiver for one in self.on_drift]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two receivers are called {twice[0]!r}: give each a name of its own")
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """Our certificate for the broker, where it asks for one."""
        return TlsFiles(self.tls_ca, self.tls_certificate, self.tls_key) if self.tls_ca else None


def load(directory: Path) -> HubSettings:
    """The settings of a fleet's folder; relative paths in them are relative to it.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    path = directory / SETTINGS_NAME
    try:
        fields: dict[str, Any] = dict(TomlConfigSettingsSource(HubSettings, path)())
        if not fields:
            path.read_bytes()  # an absent file reads as an empty one
        for name in ("tls_ca", "tls_certificate", "tls_key"):
            if fields.get(name):
                fields[name] = str(directory / fields[name])
        for one in (*_tables(fields, "webhooks"), *_tables(fields, "on_drift")):
            for name in ("secret_file", "ca_file"):
                if isinstance(one.get(name), str) and one[name]:
                    one[name] = str(directory / one[name])
        return HubSettings(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error}") from None


def _tables(fields: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = fields.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
