"""Hold the settings of a hub: its fleet, its broker, and its limits. They are read once, at start."""

import re
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from fleetcast.settings_fields import URL_PATTERN, fields_of, settings_errors
from fleetcast.settings_file import FileSettings
from hub.alerts.receivers import RECEIVERS_MAX, OnDrift, Webhook
from hub.core.roles.shards import parse as parse_shard
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX, MIB, WINDOW_AGE_DAYS_MAX
from schemas.names import FleetName, Label
from schemas.patterns import in_words

if TYPE_CHECKING:
    from fleetcast.mqtt_connection import TlsFiles

SETTINGS_NAME = "fleet.toml"
NAME_PATTERN = in_words(
    r"^([a-z0-9][a-z0-9.-]{0,47})?$", "name of a process", "1 to 48 of a-z, 0-9, '.' and '-', and begin with a letter or digit"
)
Role = Literal["ingest", "controller", "blocks", "web"]
ROLES: tuple[Role, ...] = get_args(Role)


class HubSettings(FileSettings):
    """`fleet.toml`; every field can also be given as FLEETCAST_<FIELD> in the environment, which wins."""

    model_config = SettingsConfigDict(env_prefix="FLEETCAST_", extra="forbid", frozen=True)

    former_names: ClassVar[Mapping[str, str]] = {"told_days": "history_days"}

    fleet: FleetName  # The fleet's name: the topic level after `fleetcast/v1`.
    broker_url: str = ""  # The broker's URL: mqtt://host:1883 or mqtts://host:8883. Empty starts the embedded broker on loopback.
    # Port of the embedded broker. 0 picks a free port and keeps it in `broker/port`.
    broker_port: Annotated[int, Field(ge=0, le=65535)] = 0
    # Put the fleet's name before the client id, so that several fleets can use a broker without certificates. Ignored with `tls_ca`.
    client_id_has_fleet: bool = False
    tls_ca: str = ""  # Certificate authority of the broker: a PEM file. It needs `tls_certificate` and `tls_key` beside it.
    tls_certificate: str = ""  # Our certificate for the broker: a PEM file.
    tls_key: str = ""  # The private key of `tls_certificate`: a PEM file.
    connect_seconds: Annotated[float, Field(ge=0)] = 30.0  # The hub ends when the broker has not answered this long after the start.

    # `required` ignores every message in the name of a node that did not enrol; `open` accepts them.
    enrolment: Literal["open", "required"] = "open"
    enrolment_listen: str = ""  # Address of the HTTPS endpoint at which devices enrol, such as 0.0.0.0:8443. Empty disables it.
    enrolment_url: str = ""  # URL at which devices reach that endpoint, such as https://hub.example:8443.
    enrolment_names: tuple[str, ...] = ()  # Further host names and addresses for the endpoint's certificate.
    node_broker_url: str = ""  # Broker URL that enrolled nodes receive. Empty means `broker_url`.
    certificate_days: Annotated[float, Field(gt=0, le=3650)] = 90.0  # Lifetime of a node's certificate. The node renews it at half of that.
    way_back_days: Annotated[float, Field(ge=0, le=3650)] = 400.0  # A device may renew its certificate for this long after it expired.

    # Address of the console, and of the API below `/api/v1`. Port 0 picks a free one and keeps it in the fleet's folder. Empty disables it.
    web_listen: str = "127.0.0.1:0"
    web_hosts: tuple[str, ...] = ()  # Further names under which console and API are reached. Requests under another name are refused.
    web_tls_certificate: str = ""  # Certificate of the API: a PEM file. Without it, `web_listen` must be an address of loopback.
    web_tls_key: str = ""  # The private key of `web_tls_certificate`: a PEM file.

    # What this process does of the hub's work (docs/scaling.md). Apart, roles need PostgreSQL and a broker of their own.
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = ROLES
    # With the role `ingest`, its part of the nodes: 2/3 is the second of three.
    shard: Annotated[str, Field(max_length=5)] = "1/1"
    # This process's name among those of the hub, such as web-2. Empty makes one of its roles, its shard, and the machine's name.
    name: Annotated[str, Field(pattern=NAME_PATTERN)] = ""

    # URL of the database, such as postgresql://user@host/name. Empty means `hub.sqlite` in the fleet's folder.
    database_url: str = Field(default="", repr=False)
    # File whose first line is the password for `database_url`. PGPASSWORD, PGPASSFILE and ~/.pgpass are read, too.
    database_password_file: str = ""

    # Object store of releases' blocks, such as s3://bucket/folder. Empty means the folder `blocks` of the fleet, which otherwise holds
    # what was used last. It needs the extra `objects`. Credentials and region: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION.
    blocks_url: str = ""
    blocks_endpoint_url: Annotated[str, Field(pattern=URL_PATTERN)] = ""  # URL of an object store that is not Amazon's.
    # Greatest size of the folder `blocks` where there is an object store: the blocks that were not used for longest leave it.
    blocks_cache_bytes_max: Annotated[int, Field(ge=64 * MIB)] = 4096 * MIB

    # TCP port on which a Prometheus scrapes `/metrics` (docs/monitoring.md). Left out, the hub shows none; 0 picks a free port.
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    metrics_host: Annotated[str, Field(min_length=1)] = (
        "127.0.0.1"  # Address on which `/metrics` is shown. Anybody who reaches it may read it.
    )

    # OpenTelemetry: URL to which spans of rollouts are sent by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces. Empty sends none.
    # It needs the extra `otel`. docs/monitoring.md says what a span holds.
    traces_url: Annotated[str, Field(pattern=URL_PATTERN, max_length=512)] = ""
    traces_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # Share of the nodes whose requests are traced; others for each rollout.

    silent_seconds: Annotated[int, Field(ge=1)] = 3600  # A node that sends nothing for this long raises the alert `node_silent`.
    # Intervals of cohorts with fewer nodes are neither tested nor shown, so that no single node stands out.
    cohort_nodes_min: Annotated[int, Field(ge=1)] = 20
    settle_seconds: Annotated[int, Field(ge=0)] = 300  # An interval is tested when no window of it has arrived for this long.
    window_rows_max: Annotated[int, Field(ge=1, le=100_000_000)] = (
        1_000_000  # Greatest number of rows of one window. Its weight is bounded further: docs/telemetry.md.
    )
    # Greatest age of a window. Raise it to replay old data by event time.
    window_age_days_max: Annotated[int, Field(ge=1, le=100 * 365)] = WINDOW_AGE_DAYS_MAX
    trim_outlying: bool = False  # Leave groups of windows that differ from the others out of the test. `false` only reports them.
    # Ids of windows are remembered this long, to count each window once. Keep it longer than a broker holds messages.
    ids_days: Annotated[int, Field(ge=32)] = 35
    intervals_days: Annotated[int, Field(ge=1)] = 400  # Intervals are kept this long after their last window.
    # Drifts, alerts, refusals, answered commands and changes of the fleet are kept this long. Its former name `told_days` is still read.
    history_days: Annotated[int, Field(ge=1)] = 400
    receipts_days: Annotated[int, Field(ge=1)] = 400  # Receipts are kept this long; those of what nodes serve now are always kept.
    events_kept: Annotated[int, Field(ge=1000)] = 100_000  # Greatest number of events that `fleetcast watch --history` prints.
    # Greatest share of ordinary intervals of a cohort that the test of one interval may call an alarm.
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    # Least mean number of intervals between two false alarms of the test over time.
    run_length: Annotated[float, Field(ge=10, le=1e9)] = 1000.0

    # Greatest number of messages that wait for the hub. Beyond it the oldest messages of the loudest senders are dropped.
    inbox_messages_max: Annotated[int, Field(ge=8192, le=1_000_000)] = 8192
    inbox_bytes_max: Annotated[int, Field(ge=64 * MIB)] = 64 * MIB  # The same for their bytes.
    # Greatest number of states of one node, and of its receipts, that the hub takes in a minute. After ten quiet minutes it is ten times as
    # many at once. Others are dropped and reported (`inbox.flooded`). 0 is no limit.
    node_reports_per_minute: Annotated[int, Field(ge=0)] = 600
    cohort_windows_per_minute: Annotated[int, Field(ge=0)] = 60_000  # The same for windows of one model and cohort.

    checks_required: tuple[Label, ...] = ()  # Profiles that a release must pass with `fleetcast check` before a rollout of it may start.
    # Receivers of alerts over HTTP, each a table `[[webhooks]]`.
    webhooks: Annotated[tuple[Webhook, ...], Field(max_length=RECEIVERS_MAX)] = ()
    # Programs and URLs that are called once for each drift, each a table `[[on_drift]]`.
    on_drift: Annotated[tuple[OnDrift, ...], Field(max_length=RECEIVERS_MAX)] = ()

    # The broker retains at most this many bytes of blocks for nodes that come later. 0 retains none.
    cache_bytes_max: Annotated[int, Field(ge=0)] = 64 * MIB
    cache_expiry_seconds: Annotated[int, Field(ge=1)] = 600  # A retained block expires after this time.
    # Greatest block of new releases. Choose less for very slow links.
    block_bytes_max: Annotated[int, Field(ge=1024, le=BLOCK_BYTES_MAX)] = BLOCK_BYTES_MAX
    # Greatest number of bytes of blocks that the hub publishes in a second, and of blocks a hundred. Empty is no limit.
    block_bytes_per_second_max: Annotated[float, Field(ge=1024)] | None = None
    again_seconds: Annotated[float, Field(ge=0, le=60)] = 3.0  # A block is not published again within this time.
    linger_seconds: Annotated[float, Field(ge=0, le=5)] = 0.05  # Requests for one block within this time share one publish.

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = [bool(self.tls_ca), bool(self.tls_certificate), bool(self.tls_key)]
        if any(given) and not all(given):
            raise ValueError("tls_ca, tls_certificate and tls_key go together")
        for url in (self.broker_url, self.node_broker_url):
            if url:
                from fleetcast.mqtt_connection import BrokerUrl  # noqa: PLC0415  # paho, which commands that only read do not need

                BrokerUrl.parse(url)
        return self

    @model_validator(mode="after")
    def _roles_go_together(self) -> Self:
        if twice := sorted({role for role in self.roles if self.roles.count(role) > 1}):
            raise ValueError(f"roles names {twice[0]!r} twice")
        try:
            parse_shard(self.shard)
        except Refused as refusal:
            raise ValueError(refusal.reason) from None
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
    def _blocks_can_be_found(self) -> Self:
        if self.blocks_endpoint_url and not self.blocks_url:
            raise ValueError("blocks_endpoint_url needs blocks_url: the bucket there, s3://bucket/folder")
        return self

    @model_validator(mode="after")
    def _web_is_private(self) -> Self:
        if bool(self.web_tls_certificate) != bool(self.web_tls_key):
            raise ValueError("web_tls_certificate and web_tls_key go together")
        if self.web_listen:
            host, _, port = self.web_listen.rpartition(":")
            if not port.isdigit() or int(port) > 65535:
                raise ValueError(f"web_listen {self.web_listen!r} must look like 127.0.0.1:8440")
            if not self.web_tls_certificate and not is_loopback(host):
                reason = "tokens would be readable on the network: give web_tls_certificate and web_tls_key, or listen on 127.0.0.1"
                raise ValueError(f"web_listen {self.web_listen!r} needs TLS: {reason}")
        return self

    @model_validator(mode="after")
    def _receivers_differ(self) -> Self:
        names = [one.receiver for one in self.webhooks] + [one.receiver for one in self.on_drift]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two receivers are called {twice[0]!r}: give each a name of its own")
        return self

    @property
    def has_all_roles(self) -> bool:
        """Return whether one process does all."""
        return set(self.roles) == set(ROLES)

    @property
    def needed_roles(self) -> frozenset[str]:
        """Return the roles that some process must have: `web` only where there is something for it to do."""
        has_web = self.web_listen or self.enrolment_listen or self.webhooks or self.on_drift
        return frozenset(ROLES) if has_web else frozenset(ROLES) - {"web"}

    @property
    def is_on_server(self) -> bool:
        """Return whether the database is one that several processes share."""
        return self.database_url.startswith("postgres")

    @property
    def process_name(self) -> str:
        """Return the name of this process among those of the hub."""
        if self.name:
            return self.name
        if "controller" in self.roles:
            return "hub" if self.has_all_roles else "-".join(self.roles)
        parts = "-".join(self.roles)
        if "ingest" in self.roles:  # Another machine that takes the shard up goes on with the broker's session.
            return f"{parts}-{self.shard.replace('/', '-of-')}"
        machine = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip("-.") or "machine"
        return f"{parts}-{machine}"[:64]

    @property
    def client_id(self) -> str:
        """Return the name by which the broker knows this process: who leads is always `hub`."""
        return "hub" if "controller" in self.roles else f"hub-{self.process_name}"

    def check_roles(self) -> None:
        """Check that this process can do its roles beside others.

        Raises:
            Refused: SETTINGS_INVALID, naming what is missing.
        """
        shard, roles = parse_shard(self.shard), ",".join(self.roles)
        if not self.has_all_roles and not self.is_on_server:
            mend = "give database_url = postgresql://... (docs/scaling.md), or leave roles out, so that this process has all"
            raise Refused(Code.SETTINGS_INVALID, f"roles {roles} without the others need a database that processes can share: {mend}")
        if not self.has_all_roles and not self.broker_url:
            mend = "give broker_url, or leave roles out"
            raise Refused(Code.SETTINGS_INVALID, f"roles {roles} without the others cannot use the embedded broker: {mend}")
        if shard.count > 1 and "ingest" not in self.roles:
            raise Refused(Code.SETTINGS_INVALID, f"shard {shard} is of the role ingest, and this process has the roles {roles}")
        if shard.count > 1 and "controller" in self.roles:
            what = f"shard {shard} beside the role controller: a process that stands by takes nothing in"
            raise Refused(Code.SETTINGS_INVALID, f"{what}; run ingest in processes of its own")

    @property
    def tls(self) -> "TlsFiles | None":
        """Our certificate for the broker, where it asks for one: a process beside the leader has its own there, by its name."""
        from fleetcast.mqtt_connection import TlsFiles  # noqa: PLC0415

        if not self.tls_ca:
            return None
        certificate, key = Path(self.tls_certificate), Path(self.tls_key)
        own = certificate.with_name(f"{self.client_id}.crt"), key.with_name(f"{self.client_id}.key")
        if own[0].exists() and own[1].exists():
            certificate, key = own
        return TlsFiles(self.tls_ca, str(certificate), str(key))


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def load(directory: Path) -> HubSettings:
    """Return the settings of a fleet's folder; relative paths in them are relative to it.

    Raises:
        Refused: unreadable, not TOML, or a field that is missing, unknown or out of bounds.
    """
    path = directory / SETTINGS_NAME
    with settings_errors(path):
        fields = fields_of(path)
        for name in ("tls_ca", "tls_certificate", "tls_key", "web_tls_certificate", "web_tls_key", "database_password_file"):
            if fields.get(name):
                fields[name] = str(directory / fields[name])
        for one in (*_tables(fields, "webhooks"), *_tables(fields, "on_drift")):
            for name in ("secret_file", "ca_file"):
                if isinstance(one.get(name), str) and one[name]:
                    one[name] = str(directory / one[name])
        return HubSettings(**fields)


def _tables(fields: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = fields.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
