"""List what `fleetcast-node doctor` may find: a stable code each, how bad it is, and how it is mended."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Level = Literal["warning", "trouble"]


class Trouble(StrEnum):
    """Hold stable codes of findings; `TABLE` says how bad each is and how it is mended."""

    SETTINGS_INVALID = "settings.invalid"
    FOLDER_NOT_WRITABLE = "folder.not_writable"
    FOLDER_OPEN = "folder.open_to_others"
    FOLDER_TRUST = "folder.trust_gone"
    KEY_OPEN = "key.open_to_others"
    KEY_UNREADABLE = "key.unreadable"
    KEY_REFUSED = "key.not_believed"
    STORE_UNREADABLE = "store.unreadable"
    STORE_SET_ASIDE = "store.set_aside"
    DISK_FULL = "disk.full"
    DISK_LOW = "disk.low"
    DISK_QUOTA = "disk.quota"
    CLOCK_NOT_SET = "clock.not_set"
    CLOCK_BEHIND = "clock.behind"
    CLOCK_AHEAD = "clock.ahead"
    ROOT_UNREADABLE = "root.unreadable"
    ROOT_INVALID = "root.invalid"
    ROOT_OTHER_FLEET = "root.other_fleet"
    METADATA_STALE = "metadata.stale"
    METADATA_EXPIRING = "metadata.expiring"
    METADATA_REFUSED = "metadata.refused"
    CERTIFICATE_UNREADABLE = "certificate.unreadable"
    CERTIFICATE_EXPIRED = "certificate.expired"
    CERTIFICATE_NOT_YET = "certificate.not_yet_valid"
    CERTIFICATE_EXPIRING = "certificate.expiring"
    CERTIFICATE_NAME = "certificate.other_name"
    CERTIFICATE_KEY = "certificate.key_mismatch"
    CA_UNREADABLE = "certificate.ca_unreadable"
    DNS_UNRESOLVED = "dns.unresolved"
    TCP_REFUSED = "tcp.refused"
    TCP_TIMED_OUT = "tcp.timed_out"
    TCP_UNREACHABLE = "tcp.unreachable"
    TLS_EXPIRED = "tls.broker_expired"
    TLS_NOT_YET = "tls.broker_not_yet_valid"
    TLS_EXPIRING = "tls.broker_expiring"
    TLS_WRONG_CA = "tls.wrong_ca"
    TLS_WRONG_NAME = "tls.wrong_name"
    TLS_REFUSED = "tls.certificate_refused"
    TLS_FAILED = "tls.failed"
    BROKER_SILENT = "broker.silent"
    BROKER_REFUSES = "broker.refuses_login"
    BROKER_DENIES = "broker.denies_subscription"
    BROKER_EMPTY = "broker.nothing_retained"
    BROKER_TAKEN_OVER = "broker.session_taken_over"
    BROKER_SHORT = "broker.short_connections"
    RUNTIME_ABSENT = "runtime.absent"
    RUNTIME_UNLOADABLE = "runtime.unloadable"
    MEMORY_SHORT = "memory.too_small"
    MEMORY_LIMITS = "memory.limits"
    PORT_IN_USE = "port.in_use"
    PORT_UNUSABLE = "port.unusable"
    AGENT_DIED = "agent.died"
    AGENT_SILENT = "agent.not_turning"
    AGENT_OTHER = "agent.other_node"
    SERVING_SILENT = "serving.not_answering"
    SERVING_DAMAGED = "artifact.damaged"
    SERVING_NOTHING = "serving.not_served"
    SERVICE_NO_SOCKET = "service.no_socket"
    SERVICE_NO_WATCHDOG = "service.no_watchdog"
    DOCUMENT_REFUSED = "document.refused"
    SITE_FILE = "site.file"


TABLE: dict[Trouble, tuple[Level, str]] = {
    Trouble.SETTINGS_INVALID: ("trouble", "correct that field of the settings file; docs/operations.md has the smallest file that works"),
    Trouble.FOLDER_NOT_WRITABLE: ("trouble", "give the folder to the user that the node runs as, or mount its disk for writing"),
    Trouble.FOLDER_OPEN: ("warning", "chmod o= the folder: it holds what telemetry has counted, and the device's key"),
    Trouble.FOLDER_TRUST: (
        "trouble",
        "find what removes files there; the agent makes the folder again with the hub's next message, and a restart does at once",
    ),
    Trouble.KEY_OPEN: ("warning", "chmod o= the file; who has read it can speak as this device"),
    Trouble.KEY_UNREADABLE: ("trouble", "restore the file from a backup; or remove it, and have the hub forget the old key of this node"),
    Trouble.KEY_REFUSED: ("trouble", "put the key back from a backup, or let this one in at the hub; until then nothing here counts there"),
    Trouble.STORE_UNREADABLE: (
        "trouble",
        "run this as the node's user; a damaged file is set aside at the next start, and the node goes on with what else is here",
    ),
    Trouble.STORE_SET_ASIDE: ("warning", "look at the disk; then remove that file: the node needs it no more"),
    Trouble.DISK_FULL: ("trouble", "make room on that disk, or move `data` to a larger one"),
    Trouble.DISK_LOW: ("warning", "make room: an update as large as the largest release here does not fit beside it"),
    Trouble.DISK_QUOTA: ("warning", "raise disk_bytes_max in the settings, or have the hub end rollouts that this device does not need"),
    Trouble.CLOCK_NOT_SET: (
        "trouble",
        "set the clock (timedatectl set-ntp true); a device without a battery needs a time server at each start",
    ),
    Trouble.CLOCK_BEHIND: (
        "trouble",
        "compare `date -u` with a clock that is right: set this one (timedatectl set-ntp true), or else the hub's, and wait until then",
    ),
    Trouble.CLOCK_AHEAD: ("trouble", "compare `date -u` with a clock that is right, and set it (timedatectl set-ntp true)"),
    Trouble.ROOT_UNREADABLE: ("trouble", "put the fleet's root.json, from `fleetcast init`, where the settings say; check its mode"),
    Trouble.ROOT_INVALID: ("trouble", "replace the file by the fleet's root.json, from `fleetcast init`"),
    Trouble.ROOT_OTHER_FLEET: (
        "trouble",
        "put this fleet's root.json there, brought by a way that you trust; or correct `broker` and `fleet`",
    ),
    Trouble.METADATA_STALE: ("trouble", "see that the hub runs and reaches its broker (`fleetcast hub`); it signs anew by itself"),
    Trouble.METADATA_EXPIRING: ("warning", "see that the hub runs and reaches its broker; `fleetcast renew` for roles that people sign"),
    Trouble.METADATA_REFUSED: ("trouble", "see what the hub publishes: a hub that came back from an old backup signs older versions"),
    Trouble.CERTIFICATE_UNREADABLE: ("trouble", "put the certificate, in PEM form, where tls_certificate says; check its mode"),
    Trouble.CERTIFICATE_EXPIRED: ("trouble", "have the fleet's authority issue a new one; if the date surprises you, the clock is wrong"),
    Trouble.CERTIFICATE_NOT_YET: ("trouble", "set the clock; or have the authority issue one that is valid now"),
    Trouble.CERTIFICATE_EXPIRING: ("warning", "renew it before it expires: then this node cannot connect any more"),
    Trouble.CERTIFICATE_NAME: (
        "trouble",
        "have the two agree: the broker takes the certificate's CN for the node's name, and gives rights by it",
    ),
    Trouble.CERTIFICATE_KEY: ("trouble", "give tls_certificate and tls_key that were made together; check the key's mode"),
    Trouble.CA_UNREADABLE: ("trouble", "put the certificate of the broker's authority, in PEM form, where tls_ca says"),
    Trouble.DNS_UNRESOLVED: ("trouble", "check `broker` for a typing error, then /etc/resolv.conf and the network"),
    Trouble.TCP_REFUSED: ("trouble", "see that the broker runs and listens on this port, on an address that this device reaches"),
    Trouble.TCP_TIMED_OUT: ("trouble", "see whether a firewall drops the connection, or the address is of another network"),
    Trouble.TCP_UNREACHABLE: ("trouble", "check the device's network: cable, modem, route (`ip route`)"),
    Trouble.TLS_EXPIRED: ("trouble", "renew the broker's certificate; if its date surprises you, this device's clock is ahead"),
    Trouble.TLS_NOT_YET: ("trouble", "set this device's clock: it is behind the broker's certificate"),
    Trouble.TLS_EXPIRING: ("warning", "renew the broker's certificate before all nodes lose it"),
    Trouble.TLS_WRONG_CA: ("trouble", "give the authority that signed the broker's certificate as tls_ca; or this is not your broker"),
    Trouble.TLS_WRONG_NAME: ("trouble", "name the broker in `broker` as its certificate does, or have that name put into the certificate"),
    Trouble.TLS_REFUSED: ("trouble", "the broker's log says why; most often our certificate is of another authority, expired or revoked"),
    Trouble.TLS_FAILED: (
        "trouble",
        "see that this port speaks TLS: mqtts:// is for the port with certificates, mqtt:// for the one without",
    ),
    Trouble.BROKER_SILENT: ("trouble", "see that an MQTT 5 broker listens there, and what its log says of this node"),
    Trouble.BROKER_REFUSES: ("trouble", "see the broker's log and its access list: it must know this user and allow MQTT 5"),
    Trouble.BROKER_DENIES: ("trouble", "install the access list of this fleet at the broker (broker-config/), for this user"),
    Trouble.BROKER_EMPTY: (
        "warning",
        "see that the hub runs, that `fleet` is spelt alike, and that the broker lets this node read the topic",
    ),
    Trouble.BROKER_TAKEN_OVER: ("trouble", "find the other device with this id, and give one of them a name and a certificate of its own"),
    Trouble.BROKER_SHORT: (
        "trouble",
        "look for another device with this id (`fleetcast nodes` at the hub names it), then at the link and at the broker's log",
    ),
    Trouble.RUNTIME_ABSENT: (
        "trouble",
        "install the package that the line names, or else the extra that runs this model, such as fleetcast[llm]; restart the node",
    ),
    Trouble.RUNTIME_UNLOADABLE: (
        "warning",
        "install the package that the line names, and restart the node; releases that need this runtime are refused until then",
    ),
    Trouble.MEMORY_SHORT: (
        "trouble",
        "serve fewer or smaller models here, or raise the service's MemoryMax: both releases are loaded in a switch",
    ),
    Trouble.MEMORY_LIMITS: ("warning", "publish limits (memory) nearer to what the models take, so that one that leaks hurts only itself"),
    Trouble.PORT_IN_USE: ("trouble", "end what listens there (`ss -ltnp`), or give this node another `port`"),
    Trouble.PORT_UNUSABLE: ("trouble", "give `host` an address of this device, and `port` one that the node's user may take"),
    Trouble.AGENT_DIED: ("warning", "look why it ended (`journalctl -u fleetcast-node@...`), and start it again"),
    Trouble.AGENT_SILENT: ("trouble", "restart it, and keep the journal: this is a bug of fleetcast, or a disk that hangs"),
    Trouble.AGENT_OTHER: ("trouble", "give each node a data folder of its own"),
    Trouble.SERVING_SILENT: ("trouble", "restart it, and keep the journal: this is a bug of fleetcast"),
    Trouble.SERVING_DAMAGED: (
        "trouble",
        "let the node connect: it fetches the files again, and serves them; if it happens again, replace the disk",
    ),
    Trouble.SERVING_NOTHING: ("trouble", "see the journal for why its model is not loaded; a restart loads it again"),
    Trouble.SERVICE_NO_SOCKET: ("warning", "enable fleetcast-node@.socket: without it requests fail while the node restarts"),
    Trouble.SERVICE_NO_WATCHDOG: (
        "warning",
        "install the unit of deploy/ (Type=notify, WatchdogSec=): nobody restarts an agent that hangs",
    ),
    Trouble.DOCUMENT_REFUSED: (
        "trouble",
        "with a schema code, upgrade the older of `fleetcast-node --version` and, at the hub, `fleetcast --version`; else look at the hub",
    ),
    Trouble.SITE_FILE: (
        "warning",
        "correct what the line names; the agent reads its site's files again by itself, and node.toml when it starts",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Describe one thing that is wrong, as a sentence, and the mend."""

    code: Trouble
    what: str

    @property
    def level(self) -> Level:
        """Return `trouble` where the node cannot do what it is for, or soon will not; `warning` where it can."""
        return TABLE[self.code][0]

    @property
    def mend(self) -> str:
        """Return what to do."""
        return TABLE[self.code][1]
