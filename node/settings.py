"""What a device is told at its own site: who it is, where its broker is, what it may spend. Read once, at start."""

import os
import platform
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from node.core.budget import Policy
from node.runtimes import available
from node.runtimes.probe import PROVIDERS, execution_providers
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX, MIB, RHO_DAY_MAX, WINDOW_SECONDS_MAX
from schemas.mqtt import BrokerUrl
from schemas.names import RESERVED_NODES, Cohort, FleetName, Label, NodeId
from schemas.state import LinkClass, Profile

ENROLLED = Path("enrolment") / "settings.toml"  # in the data folder: what `fleetcast-node enroll` wrote (node/enrolment.py)
_TLS = ("tls_ca", "tls_certificate", "tls_key")
_PATHS = ("data", "root", "link_file", "parameters_file", "ledger_witness")


class SiteSettings(BaseSettings):
    """Settings of a file, each also in the environment."""

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


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Whatever is wrong with a settings file, as a sentence.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error}") from None


def fields_of(kind: type[BaseSettings], path: Path) -> dict[str, Any]:
    """What a TOML file says; it raises what `told` tells."""
    fields: dict[str, Any] = dict(TomlConfigSettingsSource(kind, path)())
    if not fields:
        path.read_bytes()  # an absent file reads as an empty one
    return fields


class NodeSettings(SiteSettings):
    """`node.toml`; every field can also be given as FLEETCAST_NODE_<FIELD> in the environment, which wins."""

    model_config = SettingsConfigDict(env_prefix="FLEETCAST_NODE_", extra="forbid", frozen=True)

    id: NodeId
    fleet: FleetName
    broker: str  # mqtt://host:1883 or mqtts://host:8883
    data: Path  # everything the node keeps: keys, trusted metadata, artifacts, ledger
    root: Path  # the fleet's first root metadata, from `fleetcast init`: the only thing trusted from the start
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    hub: str = ""  # https://hub:8443, where an enrolled node renews its certificate
    new_key_on_renewal: bool = False  # a new device key with every renewal; the hub takes receipts of the one before, too

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    socket: str | None = None  # path of a Unix socket to serve on as well as or instead of TCP
    allowed_hosts: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9._-]{1,253})$")], ...], Field(max_length=64)
    ] = ()  # names under which programs ask this node over TCP, besides localhost, its host name and addresses; "*": any
    allowed_origins: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(null|https?://[A-Za-z0-9.:\[\]_-]{1,260})$")], ...], Field(max_length=64)
    ] = ()  # of web pages that may ask, as https://dashboard.example:3000
    labels: dict[Label, Label] = {}
    cohort: Cohort = "default"  # whose windows are compared with ours
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # of one model's worker
    cores: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=4096)], ...], Field(max_length=4096)
    ] = ()  # that models may use; all, where none is named
    isolation: Literal["process", "inline"] = "process"  # inline: models run in the agent itself, on devices too small for two processes
    parameters_file: Path | None = None  # what the site sets about its models; `parameters.toml` in `data` where nothing is said

    window_bytes: Annotated[int, Field(ge=BLOCK_BYTES_MAX, le=64 * MIB)] = 8 * MIB  # of blocks in flight at the most; it adapts to the link
    filters_per_subscribe: Annotated[int, Field(ge=1, le=64)] = 8
    rate_bytes_per_second_max: Annotated[float, Field(gt=0)] | None = None  # of blocks, on average over a second
    link: LinkClass = "free"  # what the road costs: its budget is that of its class
    link_file: Path | None = None  # a file that holds that word, for a modem that roams; read again every few seconds
    budgets: dict[LinkClass, Policy] = {}
    disk_bytes_max: Annotated[int, Field(ge=MIB)] | None = None  # of all releases together
    state_seconds: Annotated[int, Field(ge=1)] = 300  # say again what is so, even when nothing changed

    telemetry: bool = True
    rho_day_max: Annotated[float, Field(ge=0)] = RHO_DAY_MAX
    ledger_witness: Path | None = None  # the privacy ledger's second place, better on another disk than `data`; else beside it
    windows_waiting_max: Annotated[int, Field(ge=8, le=10_000)] = 1000  # while there is no road; beyond it the oldest are added up
    windows_waiting_bytes_max: Annotated[int, Field(ge=64 * 1024)] = MIB
    grace_seconds: Annotated[float, Field(ge=0)] = 5.0  # a window waits so long for rows that are late
    idle_seconds: Annotated[float, Field(ge=0)] = 60.0  # and is closed when nothing more comes
    labels_wait_seconds: Annotated[float, Field(ge=0, le=WINDOW_SECONDS_MAX)] = 86_400.0  # from an interval's first labels until it leaves

    @property
    def witness(self) -> Path:
        """Where the privacy ledger's witness is."""
        return self.ledger_witness or self.data / "ledger.witness"

    @model_validator(mode="after")
    def _own_name(self) -> Self:
        if self.id in RESERVED_NODES:
            raise ValueError(f"id {self.id!r} is reserved for {self.id} itself")
        return self


def load(path: Path) -> NodeSettings:
    """The settings in a TOML file, over those of the device's enrolment; relative paths are relative to the file that says them.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    with told(path):
        fields = _anchored(fields_of(NodeSettings, path), path.parent)
        data = os.environ.get("FLEETCAST_NODE_DATA") or fields.get("data")
        enrolled = Path(data) / ENROLLED if isinstance(data, str | Path) else None
        if enrolled is not None and _can_be_seen(enrolled):
            fields = _beneath(_anchored(fields_of(NodeSettings, enrolled), enrolled.parent), fields)
        return NodeSettings(**fields)


def _can_be_seen(path: Path) -> bool:
    """Whether it is there; in a folder of somebody else nothing is, and whoever needs the folder says so."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _anchored(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths are relative to the folder of the file that says them."""
    for name in (*_PATHS, "socket", *_TLS):
        if fields.get(name):
            fields[name] = folder / fields[name] if name in _PATHS else str(folder / fields[name])
    return fields


def _beneath(enrolled: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What the device's own file says, over what the hub said when the device enrolled."""
    site_broker = str(own.get("broker", ""))
    if any(own.get(name) for name in _TLS) or (site_broker and not BrokerUrl.parse(site_broker).tls):
        enrolled = {name: value for name, value in enrolled.items() if name not in _TLS}  # of that broker only
    labels = {**enrolled.get("labels", {}), **own.get("labels", {})}
    return {**enrolled, **own, **({"labels": labels} if labels else {})}


def profile(settings: NodeSettings, *, unloadable: Container[str] = ()) -> Profile:
    """What this device is, as variants are chosen by; without the runtimes that cannot be loaded (node.runtimes.probe)."""
    return Profile(
        arch=platform.machine() or "unknown",
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        providers=execution_providers(settings.data / PROVIDERS),
        labels=dict(settings.labels),
        runtimes=tuple(name for name in available() if name not in unloadable),
    )
