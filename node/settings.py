"""Hold the settings of a device's own site: its name, its broker, and its budgets. They are read once, at start."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from fleetcast.mqtt_connection import BrokerUrl
from fleetcast.settings_fields import URL_PATTERN, fields_of, settings_errors
from fleetcast.settings_file import FileSettings
from fleetcast.time_zones import zone_of
from node.core.delivery.byte_quota import Policy
from schemas.device_settings import SETTABLE, Settable
from schemas.limits import BLOCK_BYTES_MAX, MIB, RHO_DAY_MAX, WINDOW_SECONDS_MAX
from schemas.names import RESERVED_NODES, Cohort, FleetName, Label, NodeId
from schemas.patterns import in_words
from schemas.state import REPORT_SECONDS, LinkClass

ENROLLED = Path("enrolment") / "settings.toml"  # in the data folder: what `fleetcast-node enroll` wrote (node/enrol/enrolment_files.py)
SOCKET_NAME = "node.sock"
HOST_PATTERN = in_words(r"^(\*|[A-Za-z0-9._-]{1,253})$", "name of a host", "a name or an address without scheme and port, or *")
ORIGIN_PATTERN = in_words(
    r"^(null|https?://[A-Za-z0-9.:\[\]_-]{1,260})$", "origin", "a scheme, a host and a port, such as https://dashboard.example:3000"
)
_TLS = ("tls_ca", "tls_certificate", "tls_key")
_PATHS = ("data", "root", "link_file", "parameters_file", "ledger_witness")


def _known_zone(name: str) -> str:
    zone_of(name)
    return name


class NodeSettings(FileSettings):
    """`node.toml`; every field can also be given as FLEETCAST_NODE_<FIELD> in the environment, which wins."""

    model_config = SettingsConfigDict(env_prefix="FLEETCAST_NODE_", extra="forbid", frozen=True)

    id: NodeId  # The node's name in the fleet, and the CN of its certificate.
    fleet: FleetName  # The fleet's name, as the hub has it.
    broker: str  # The broker's URL: mqtt://host:1883 or mqtts://host:8883.
    data: Path  # Folder for everything that the node keeps: keys, trusted metadata, artifacts, ledgers.
    root: Path  # The fleet's first root metadata, from `fleetcast init`. It is all that the node trusts from the start.
    tls_ca: str = ""  # Certificate authority of the broker: a PEM file. It needs `tls_certificate` and `tls_key` beside it.
    tls_certificate: str = ""  # Our certificate for the broker: a PEM file.
    tls_key: str = ""  # The private key of `tls_certificate`: a PEM file.
    hub: str = ""  # URL at which an enrolled node renews its certificate, such as https://hub.example:8443.
    # Make a new device key with every renewal. The hub also accepts receipts signed with the key before it.
    new_key_on_renewal: bool = False

    host: str = "127.0.0.1"  # Address of the local endpoint for inference.
    port: Annotated[int, Field(ge=0, le=65535)] = 8080  # TCP port of the local endpoint. 0 picks a free port.
    # Port for gRPC clients of the Open Inference Protocol, on the same address. Needs the extra `grpc`. 0 picks a free port.
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    # Serve on TCP. With `false` the node serves only on its Unix socket, which no web page reaches: `socket`, or `node.sock` in `data`.
    tcp: bool = True
    socket: str | None = None  # Path of a Unix socket to serve on, besides TCP or alone.
    # Names under which programs may ask this node over TCP, besides localhost, its host name and addresses. `*` allows any.
    allowed_hosts: Annotated[tuple[Annotated[str, Field(pattern=HOST_PATTERN)], ...], Field(max_length=64)] = ()
    # Web pages that may ask, such as https://dashboard.example:3000.
    allowed_origins: Annotated[tuple[Annotated[str, Field(pattern=ORIGIN_PATTERN)], ...], Field(max_length=64)] = ()
    # What the hub may set of this device: any of labels, cohort, budgets, telemetry. It can only turn telemetry off, and lower budgets.
    hub_may_set: Annotated[tuple[Settable, ...], Field(max_length=len(SETTABLE))] = SETTABLE
    labels: Annotated[dict[Label, Label], Field(default_factory=dict)]  # Labels of the device, by which rollouts and variants choose nodes.
    cohort: Cohort = "default"  # Nodes of one cohort are compared with each other in drift tests.
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # Threads of one model's worker.
    # Processor cores that models may use, by number. Empty means all.
    cores: Annotated[tuple[Annotated[int, Field(ge=0, lt=4096)], ...], Field(max_length=4096)] = ()
    # `process` runs each model in a process of its own; `inline` runs it in the agent, for very small devices.
    isolation: Literal["process", "inline"] = "process"
    parameters_file: Path | None = None  # File in which the site sets parameters of its models. The default is `parameters.toml` in `data`.

    # Greatest number of bytes of blocks that are requested and have not arrived. The node adapts below it to the link.
    window_bytes: Annotated[int, Field(ge=BLOCK_BYTES_MAX, le=64 * MIB)] = 8 * MIB
    # Greatest number of topic filters in one SUBSCRIBE. Some brokers accept few.
    filters_per_subscribe: Annotated[int, Field(ge=1, le=64)] = 8
    # Greatest number of blocks that are requested at once. For half as many again a subscription may last a moment longer.
    window_blocks_max: Annotated[int, Field(ge=2, le=256)] = 256
    rate_bytes_per_second_max: Annotated[float, Field(gt=0)] | None = None  # Greatest download rate for blocks, as a mean over a second.
    # Time zone of budgets' days and hours, such as Europe/Rome. The default is the device's own.
    time_zone: Annotated[str, AfterValidator(_known_zone)] | None = None
    link: LinkClass = "free"  # Class of the link. It chooses the budget.
    link_file: Path | None = None  # File that holds the class of the link, for modems that roam. It is read again every few seconds.
    budgets: Annotated[
        dict[LinkClass, Policy], Field(default_factory=dict)
    ]  # What each class of link may be used for, each a table `[budgets.CLASS]`.
    disk_bytes_max: Annotated[int, Field(ge=MIB)] | None = None  # Greatest size of all releases on disk together.
    state_seconds: Annotated[int, Field(ge=1)] = REPORT_SECONDS  # The node reports its state at least this often, also without a change.

    # OpenTelemetry: URL to which spans of rollouts are sent by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces. Empty sends none.
    # It needs the extra `otel`. docs/monitoring.md says what a span holds.
    traces_url: Annotated[str, Field(pattern=URL_PATTERN, max_length=512)] = ""
    traces_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # Share of a fleet's nodes that are traced; another one for each rollout.
    # What `/metrics` shows to a scraper on another machine: `health` leaves out counts of what was asked here, and what telemetry spent.
    remote_metrics: Literal["health", "all"] = "health"

    telemetry: bool = True  # Send telemetry windows. `false` sends none.
    # Greatest privacy loss of a day, in zero-concentrated differential privacy (rho).
    rho_day_max: Annotated[float, Field(ge=0)] = RHO_DAY_MAX
    # Second copy of the privacy ledger, best on another disk than `data`. The default is a file in `data`.
    ledger_witness: Path | None = None
    # Greatest number of windows that wait for a connection. Beyond it the oldest are merged.
    windows_waiting_max: Annotated[int, Field(ge=8, le=10_000)] = 1000
    windows_waiting_bytes_max: Annotated[int, Field(ge=64 * 1024)] = MIB  # Greatest size of all windows that wait for a connection.
    # A window closes when a row arrives that is this much later than its end, so that late rows are counted.
    grace_seconds: Annotated[float, Field(ge=0)] = 5.0
    idle_seconds: Annotated[float, Field(ge=0)] = 60.0  # A window whose time is over closes after this long without a row.
    # An interval's labels leave this long after the first of them arrived.
    labels_wait_seconds: Annotated[float, Field(ge=0, le=WINDOW_SECONDS_MAX)] = 86_400.0

    @property
    def witness(self) -> Path:
        """Return where the privacy ledger's witness is."""
        return self.ledger_witness or self.data / "ledger.witness"

    @property
    def unix_socket(self) -> str | None:
        """Return the path of the Unix socket to serve on, if there is one."""
        return self.socket if self.socket is not None or self.tcp else str(self.data / SOCKET_NAME)

    @model_validator(mode="after")
    def _grpc_is_tcp(self) -> Self:
        if self.grpc_port is not None and not self.tcp:
            raise ValueError("grpc_port is a TCP port, and tcp is false: leave one of them out")
        return self

    @model_validator(mode="after")
    def _own_name(self) -> Self:
        if self.id in RESERVED_NODES:
            raise ValueError(f"id {self.id!r} is reserved for {self.id} itself")
        return self


def load(path: Path) -> NodeSettings:
    """Return the settings in a TOML file, over those of the device's enrolment; relative paths are relative to the file that says them.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    with settings_errors(path):
        fields = _anchored(fields_of(path), path.parent)
        data = os.environ.get("FLEETCAST_NODE_DATA") or fields.get("data")
        enrolled = Path(data) / ENROLLED if isinstance(data, str | Path) else None
        if enrolled is not None and _can_be_seen(enrolled):
            fields = _beneath(_anchored(fields_of(enrolled), enrolled.parent), fields)
        return NodeSettings(**fields)


def _can_be_seen(path: Path) -> bool:
    """Return whether it is there; in a folder of somebody else nothing is, and the code that needs the folder reports it."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _anchored(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the fields with relative paths made relative to the folder of their file."""
    for name in (*_PATHS, "socket", *_TLS):
        if fields.get(name):
            fields[name] = folder / fields[name] if name in _PATHS else str(folder / fields[name])
    return fields


def _beneath(enrolled: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return what the device's own file sets, over what the hub set when the device enrolled."""
    site_broker = str(own.get("broker", ""))
    if any(own.get(name) for name in _TLS) or (site_broker and not BrokerUrl.parse(site_broker).tls):
        enrolled = {name: value for name, value in enrolled.items() if name not in _TLS}  # They belong to that broker only.
    labels = {**enrolled.get("labels", {}), **own.get("labels", {})}
    return {**enrolled, **own, **({"labels": labels} if labels else {})}
